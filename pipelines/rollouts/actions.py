"""What each action does to the serving side and the registry. Every one of them may be repeated."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol, assert_never

from pipelines.core.errors import NotInRegistry, ServingError
from pipelines.core.rollout.events import Action, End, Intent
from pipelines.core.rollout.sides import CHAMPION
from pipelines.core.rollout.standing import words
from pipelines.core.rollout.state import Phase, RolloutState
from resources.serving.contract import NOTHING, ModelArtefact, ServingBackend

CHALLENGER = "challenger"

STATUS_TAG, ROLLOUT_TAG, REASON_TAG = "rampgate.status", "rampgate.rollout", "rampgate.reason"

DRY_RUN = "dry_run"

UNDONE = "undone"
"""The tag `rampgate.status` of a version whose promotion was undone: it does not start again by itself."""

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


class RolloutRegistry(Protocol):
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
    if state.phase is Phase.BAKING and state.promotion is not None:
        return End.PROMOTED, f"{state.promotion.decision.reason}; it bakes for {words(state.policy.bake)}"
    if state.ending is None:
        raise ValueError(f"{state.rollout_id} is {state.phase}, expected promoting or rolling_back")
    decision = state.ending.decision
    if state.landed:
        return End.PROMOTED, f"the promotion had taken effect before the rollback: {decision.reason}"
    if state.policy.dry_run:
        return End.ABORTED, f"dry run, would have ended {decision.end}: {decision.reason}"
    fallback = End.PROMOTED if state.phase is Phase.PROMOTING else End.ROLLED_BACK
    return decision.end or fallback, decision.reason


def register(registry: RolloutRegistry, state: RolloutState, *, served: str | None = None) -> None:
    """Write the end into the registry: aliases after a promotion, then tags, the status last. A bake begins with it, too;
    where it ends badly, the alias goes back: to what is `served` then. After an undo the version whose promotion was undone is told, too.

    Raises RegistryError; NotInRegistry where the version is gone: then there is nothing to write it on.
    """
    end, reason = outcome(state)
    if end is End.PROMOTED:
        registry.set_alias(state.model, CHAMPION, state.version)
        challenger = registry.version_with_alias(state.model, CHALLENGER)
        if challenger is not None and challenger.version == state.version:
            registry.remove_alias(state.model, CHALLENGER)
        _tag_undone(registry, state)
    elif state.promotion is not None:
        _give_back(registry, state, served or state.champion)
    tag_version(registry, state.model, state.version, state.rollout_id, status_of(state, end), reason)


def status_of(state: RolloutState, end: End) -> str:
    """The tag `rampgate.status` of a version whose rollout ends like this."""
    return DRY_RUN if state.policy.dry_run else end.value


def _give_back(registry: RolloutRegistry, state: RolloutState, previous: str | None) -> None:
    """The previous champion, or whoever was put in its place by hand, is the champion again, unless somebody has named another one meanwhile."""
    holder = registry.version_with_alias(state.model, CHAMPION)
    if previous is None or holder is None or holder.version != state.version:
        return
    try:
        registry.set_alias(state.model, CHAMPION, previous)
    except NotInRegistry:  # it goes on serving, and is nobody's to name any more
        registry.remove_alias(state.model, CHAMPION)


def _tag_undone(registry: RolloutRegistry, state: RolloutState) -> None:
    """Under its own rollout's id: what names another version's says nothing of it."""
    if not state.policy.undoes or state.champion is None:
        return
    with suppress(NotInRegistry):  # deleted meanwhile: the undo is no worse for it
        tag_version(registry, state.model, state.champion, state.policy.undoes, UNDONE, state.despite)


def tag_version(
    registry: RolloutRegistry, model: str, version: str, rollout_id: str, status: str, reason: str
) -> None:
    """Write the three tags of a version whose rollout is over."""
    for key, value in tags_of(rollout_id, status, reason).items():
        registry.tag(model, version, key, value)


def tags_of(rollout_id: str, status: str, reason: str) -> Mapping[str, str]:
    """These three tags, in the order in which they are written: the status last."""
    return {ROLLOUT_TAG: rollout_id, REASON_TAG: reason[:_REASON_LENGTH], STATUS_TAG: status}


# What each action does to the serving side and the registry. Every one of them may be repeated.


class Effects:
    """The outside world, one action at a time."""

    def __init__(self, backend: ServingBackend, registry: RolloutRegistry) -> None:
        self._backend, self._registry = backend, registry

    def perform(self, state: RolloutState, intent: Intent) -> None:
        """Carry out the intent. Raises ServingError, RegistryError, VersionRefused."""
        if intent.dry:
            return
        model, version = state.model, state.version
        match intent.action:
            case Action.DEPLOY:
                self._remove_leftover(state)
                self._deploy(state, mirror=False)
            case Action.SHADOW:
                self._deploy(state, mirror=True)
            case Action.SET_PERCENT:
                share = intent.percent or 0.0
                self._backend.set_canary_percent(model, version, share, expected=state.percent)
            case Action.BAKE:
                self._bake(state, intent)
            case Action.PROMOTE:
                self._require_share(state)
                self._end_lapse(state)
                self._backend.promote(model, version, replacing=_other_side(state, intent))
            case Action.TRAFFIC_OFF:
                self.traffic_off(model, version)
            case Action.RESTORE:
                self._backend.roll_back(model, version)
            case Action.REGISTER:
                taken_back = state.promotion is not None and state.phase is Phase.ROLLING_BACK
                register(self._registry, state, served=self._served(state) if taken_back else None)
            case _:
                assert_never(intent.action)

    def _bake(self, state: RolloutState, intent: Intent) -> None:
        """All traffic but the holdback, and nothing stopped: what a bake is undone to goes on running."""
        self._require_share(state)
        stable = self._backend.status(state.model).stable
        served = NOTHING if stable is None else stable.version
        other = _other_side(state, intent)
        if other is not None and served != other:
            raise ServingError(
                f"{state.model}: version {served or '(none)'} is served meanwhile, and version {state.version} was not"
                " compared with it, so it is not promoted"
            )
        self._backend.set_canary_percent(
            state.model, state.version, intent.percent or 0.0, expected=state.percent, leased=False
        )

    def traffic_off(self, model: str, version: str) -> None:
        """No live traffic to the version, in whatever state it is."""
        try:
            self._backend.set_canary_percent(model, version, 0.0)
        except Exception:
            if not self._is_gone(model, version):
                raise

    def _is_gone(self, model: str, version: str) -> bool:
        """A share of 0 would prove nothing: it may be what is wanted, and not yet what is in force."""
        try:
            status = self._backend.status(model)
        except ServingError:
            return False
        return all(side is None or side.version != version for side in (status.stable, status.canary))

    def _served(self, state: RolloutState) -> str | None:
        """What has got the traffic back. Raises ServingError: the alias is not given on a guess."""
        stable = self._backend.status(state.model).stable
        return None if stable is None or stable.version == state.version else stable.version

    def is_stable(self, state: RolloutState) -> bool:
        """Whether the version has become the stable one. Raises ServingError."""
        stable = self._backend.status(state.model).stable
        return stable is not None and stable.version == state.version

    def clean_up(self, state: RolloutState) -> None:
        """Stop a version whose deployment finished after its rollout had been taken back."""
        if not self.is_stable(state):
            self._backend.roll_back(state.model, state.version)

    def _require_share(self, state: RolloutState) -> None:
        """A promotion gives no traffic back that somebody has taken away."""
        canary = self._backend.status(state.model).canary
        if canary is not None and canary.version == state.version and canary.percent < state.percent:
            raise ServingError(
                f"{state.model}: version {state.version} has {canary.percent:g} %, not the expected"
                f" {state.percent:g} %: somebody took traffic away meanwhile, so it is not promoted"
            )

    def _end_lapse(self, state: RolloutState) -> None:
        """A share that has lapsed, as the ledger knows: it is promoted by a person's order alone, as from any share."""
        if state.lapsed is None:
            return
        found = self._backend.status(state.model)
        if found.lapse is not None and found.canary is not None and found.canary.version == state.version:
            self._backend.set_canary_percent(state.model, state.version, 0.0)

    def _remove_leftover(self, state: RolloutState) -> None:
        """A model has one open rollout: another version's canary is what a controller that died left behind."""
        canary = self._backend.status(state.model).canary
        if canary is not None and canary.version != state.version:
            self._backend.roll_back(state.model, canary.version)

    def _deploy(self, state: RolloutState, *, mirror: bool) -> None:
        artefact = ModelArtefact(
            model=state.model,
            version=state.version,
            uri=state.artefact.uri,
            digest=state.artefact.digest,
        )
        self._backend.deploy_canary(state.model, artefact, percent=0.0, salt=state.salt, mirror=mirror)


def _other_side(state: RolloutState, intent: Intent) -> str | None:
    """The one version that a promotion may take the place of; None: any, by a person's order.

    A person's promotion takes the place of what was served when it began, whatever that is.
    """
    if state.forcing:
        return intent.over
    return NOTHING if state.champion is None else state.champion
