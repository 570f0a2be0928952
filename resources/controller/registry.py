"""What the controller needs of the model registry, and what it writes there."""

from collections.abc import Mapping
from typing import Protocol

from pipelines.rollout.decision import End
from pipelines.rollout.sides import CHAMPION
from pipelines.rollout.state import Phase, RolloutState

CHALLENGER = "challenger"
STATUS_TAG, ROLLOUT_TAG, REASON_TAG = "rampgate.status", "rampgate.rollout", "rampgate.reason"
DRY_RUN = "dry_run"
_REASON_LENGTH = 1000


class Versioned(Protocol):
    """What the registry says of a model version."""

    @property
    def version(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...

    @property
    def tags(self) -> Mapping[str, str]: ...

    @property
    def stage(self) -> str:
        """MLflow's stage of the version: `Archived` is withdrawn."""
        ...


class Registry(Protocol):
    """Versions, aliases and tags. Every call may be repeated.

    Errors are RegistryError; NotInRegistry where the model or version to write on does not exist.
    """

    def version(self, model: str, version: str) -> Versioned | None:
        """One version; None where it does not exist."""
        ...

    def version_with_alias(self, model: str, alias: str) -> Versioned | None:
        """The version that has the alias, if any."""
        ...

    def set_alias(self, model: str, alias: str, version: str) -> None:
        """Give the alias to this version."""
        ...

    def remove_alias(self, model: str, alias: str) -> None:
        """Take the alias away; nothing happens where it is not set."""
        ...

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        """Set a tag of a version."""
        ...


def outcome(state: RolloutState) -> tuple[End, str]:
    """How a rollout that is winding up ends, and why."""
    if state.ending is None:
        raise ValueError(f"{state.rollout_id} is {state.phase}, expected promoting or rolling_back")
    decision = state.ending.decision
    if state.landed:
        return End.PROMOTED, f"the promotion had taken effect before the rollback: {decision.reason}"
    if state.policy.dry_run:
        return End.ABORTED, f"dry run, would have ended {decision.end}: {decision.reason}"
    fallback = End.PROMOTED if state.phase is Phase.PROMOTING else End.ROLLED_BACK
    return decision.end or fallback, decision.reason


def register(registry: Registry, state: RolloutState) -> None:
    """Write the end into the registry: aliases after a promotion, then tags, the status last.

    Raises RegistryError; NotInRegistry where the version is gone: then there is nothing to write it on.
    """
    end, reason = outcome(state)
    if end is End.PROMOTED:
        registry.set_alias(state.model, CHAMPION, state.version)
        challenger = registry.version_with_alias(state.model, CHALLENGER)
        if challenger is not None and challenger.version == state.version:
            registry.remove_alias(state.model, CHALLENGER)
    status = DRY_RUN if state.policy.dry_run else end.value
    tag_version(registry, state.model, state.version, state.rollout_id, status, reason)


def tag_version(
    registry: Registry, model: str, version: str, rollout_id: str, status: str, reason: str
) -> None:
    """The three tags of a version whose rollout is over."""
    registry.tag(model, version, ROLLOUT_TAG, rollout_id)
    registry.tag(model, version, REASON_TAG, reason[:_REASON_LENGTH])
    registry.tag(model, version, STATUS_TAG, status)
