"""Plans and who carries them out: observe, decide one step, patch, observe again, until it is done or time
is up.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar, assert_never

from pipelines.core.errors import ServingError, VersionFailed
from resources.serving.kserve.client import Cluster, Conflict, Unreachable
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
class Reached:
    """What was asked for is in force."""


@dataclass(frozen=True)
class Refuse:
    """It must not or cannot be done; the message says why."""

    message: str


Step = Patch | Create | Delete | Wait | Reached | Refuse


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


# Carries plans out: observe, decide, patch, observe again, until it is done or time is up.


_LOG = logging.getLogger(__name__)

V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long to wait, in seconds."""

    model: float = 600.0
    """For a model to be fetched, loaded and ready."""
    traffic: float = 60.0
    """For a weight to be in force."""
    api: float = 30.0
    """For an API server that refuses or drops requests, or answers with conflicts."""
    failing: float = 20.0
    """How long a model may be failing before it is given up; containers may recover from one crash."""
    poll: float = 1.0

    def of(self, patience: Patience) -> float:
        """The limit for a kind of waiting."""
        match patience:
            case Patience.MODEL:
                return self.model
            case Patience.TRAFFIC:
                return self.traffic
            case _:
                assert_never(patience)


@dataclass
class PlanDriver:
    """One operation on one service."""

    cluster: Cluster
    service: str
    create: Callable[[], None]
    timing: Timing
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    since: dict[str, float] = field(default_factory=dict[str, float])
    """When each kind of trouble or waiting began."""

    def run(self, observe: Callable[[], tuple[V, str]], plan: Callable[[V], Step]) -> V:
        """Carry the plan out; returns the observation in which it was done.

        `observe` gives an observation and the object's resourceVersion. Raises VersionFailed when a model
        fails, and ServingError when the plan refuses or a limit of `timing` passes.
        """
        while True:
            try:
                view, version = observe()
                step = plan(view)
                if isinstance(step, Reached):
                    return view
                self._take(step, version)
                self.since.pop("api", None)
            except (Conflict, Unreachable) as error:
                self._give_up("api", self.timing.api, str(error))
                self.sleep(self.timing.poll)

    def _take(self, step: Patch | Create | Delete | Wait | Refuse, version: str) -> None:
        match step:
            case Refuse():
                raise ServingError(step.message)
            case Wait():
                self._wait(step)
            case Patch():
                _LOG.info("%s: %s", self.service, step.why)
                self.cluster.patch(self.service, step.spec, resource_version=version)
                self.since.clear()
            case Create():
                self.create()
            case Delete():
                self.cluster.delete(self.service)
            case _:
                assert_never(step)

    def _wait(self, step: Wait) -> None:
        if step.failure:
            problem = f"{step.reason}: {step.failure}"
            self._give_up("failing", self.timing.failing, problem, error=VersionFailed)
        else:
            self.since.pop("failing", None)
        self._give_up(step.patience, self.timing.of(step.patience), step.reason)
        self.sleep(self.timing.poll)

    def _give_up(
        self, kind: str, limit: float, reason: str, *, error: type[ServingError] = ServingError
    ) -> None:
        now = self.clock()
        waited = now - self.since.setdefault(kind, now)
        if waited >= limit:
            raise error(f"{self.service}: {reason} (after {waited:.0f} s)")
