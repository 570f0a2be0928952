"""What the registry says about one model version."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Registration(StrEnum):
    """How far MLflow is with a version."""

    READY = "READY"
    PENDING = "PENDING_REGISTRATION"
    FAILED = "FAILED_REGISTRATION"
    UNKNOWN = "MODEL_VERSION_STATUS_UNKNOWN"
    """Or a word that this program does not know."""

    @classmethod
    def _missing_(cls, value: object) -> "Registration":
        return cls.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class VersionInfo:
    """One registered version, as it was when asked."""

    model: str
    version: str
    run_id: str
    """Empty where the version was registered without a run."""
    status: Registration
    source: str
    stage: str = ""
    """MLflow's stage, such as `Archived`; `None` or empty where nobody sets stages."""
    created: datetime
    aliases: tuple[str, ...]
    tags: Mapping[str, str]

    @classmethod
    def from_rest(cls, answer: Mapping[str, Any]) -> "VersionInfo":
        """From the `model_version` of MLflow's REST API."""
        return cls(
            model=answer["name"],
            version=str(answer["version"]),
            run_id=answer.get("run_id", ""),
            status=Registration(answer.get("status", "")),
            source=answer.get("source", ""),
            stage=answer.get("current_stage", ""),
            created=datetime.fromtimestamp(int(answer.get("creation_timestamp", 0)) / 1000, UTC),
            aliases=tuple(sorted(answer.get("aliases", ()))),
            tags={tag["key"]: tag["value"] for tag in answer.get("tags", ())},
        )
