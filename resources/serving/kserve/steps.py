"""What a plan can ask for. Plans are pure: they look at one observation and name the next step."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from resources.serving.kserve.identity import Identity


class Patience(StrEnum):
    """What is waited for, and thereby how long."""

    MODEL = "model"
    TRAFFIC = "traffic"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A merge patch of the InferenceService's spec, made only on the state that was observed."""

    spec: Mapping[str, Any]
    why: str


@dataclass(frozen=True)
class Create:
    """Create the InferenceService from the model's folder."""


@dataclass(frozen=True)
class Delete:
    """Delete an InferenceService that a rollout created and nothing else was ever served from."""


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Look again later."""

    patience: Patience
    reason: str
    failure: str = ""
    """The cluster's own words, where what is waited for is failing."""


@dataclass(frozen=True)
class Done:
    """What was asked for is in force."""


@dataclass(frozen=True)
class Refuse:
    """It must not or cannot be done; the message says why."""

    message: str


Step = Patch | Create | Delete | Wait | Done | Refuse


@dataclass(frozen=True)
class Wanted:
    """What `deploy_canary` was asked for."""

    predictor: Mapping[str, Any]
    """Extra owned fields of the predictor: the logger, where one is configured."""
    version: str
    digest: str
    salt: str
    uri: str
    percent: int
    allow: str = ""
    """See `Identity.allow`."""

    @property
    def identity(self) -> Identity:
        """The version in the words of the InferenceService."""
        return Identity(
            version=self.version, digest=self.digest, salt=self.salt, uri=self.uri, allow=self.allow
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """See `Identity.key`."""
        return (self.version, self.digest, self.salt)
