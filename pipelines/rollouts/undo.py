"""The way back from a promotion, in one step and at any time: the previous champion is served again."""

from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from pipelines.core.errors import (
    CommandRefused,
    CorruptLedger,
    LedgerError,
    NotInRegistry,
    RampgateError,
    VersionRefused,
)
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Decision, DecisionKind, End, Order, named
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.sides import served_in_words
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.rollouts.emergency import EMERGENCY, UNRECORDED
from pipelines.rollouts.open_rollout import open_rollout, read_rollout
from pipelines.rollouts.start import RolloutSystems, carry_on
from resources.serving.contract import ModelArtefact


class Undone(NamedTuple):
    """What was done."""

    rollout_id: str
    """The rollout whose bake it ended, or the one that brought the previous champion back."""
    version: str
    """What is served again."""
    instead_of: str
    warm: bool
    """It was still running."""


def undo(systems: RolloutSystems, model: Model, *, by: str, reason: str) -> Undone:
    """Serve the previous champion again: warm within the bake, else from the registry by the digest in the ledger.

    Traffic moves only to a version that has answered; until then everything stays as it is. Raises CommandRefused, in
    words, where there is nothing to go back to or the previous champion does not come up, StillInTraffic where the traffic
    would not go, and LedgerError, RegistryError and ServingError where one of them cannot be asked. Within the bake the
    traffic goes back without the ledger, too, which is told when it is back.
    """
    if not reason.strip():
        raise CommandRefused(f"undo of {model.name}: the reason is empty, expected why")
    try:
        under_way = open_rollout(systems.ledger, model.name)
    except (LedgerError, CorruptLedger) as error:
        return _without_the_ledger(systems, model, error, by=by, reason=reason)
    if under_way is not None and under_way.promotion is not None:
        warm = _out_of_the_bake(systems, under_way, by=by, reason=reason)
        if warm is not None:
            return warm
        under_way = None
    if under_way is None:
        under_way = _begun(systems, model, by=by, reason=reason)
    if not under_way.policy.undoes:
        raise CommandRefused(
            f"undo of {model.name}: version {under_way.version} is under way and not promoted"
            f" ({under_way.rollout_id}); order roll_back_now, which takes it back"
        )
    return _carried_out(systems, model, under_way)


def _without_the_ledger(
    systems: RolloutSystems, model: Model, error: RampgateError, *, by: str, reason: str
) -> Undone:
    """A canary that has all traffic but the holdback bakes: what it took the place of is still warm, and gets it back.

    Its salt names the rollout, for when the ledger can be told. Raises `error` where nothing looks like a bake.
    """
    status = systems.backend.status(model.name)
    canary, stable = status.canary, status.stable
    if canary is None or stable is None or canary.percent < 100 - model.rollout.holdback:
        raise error
    if not _names(status.salt, model.name, canary.version):
        systems.backend.set_canary_percent(model.name, canary.version, 0.0)
        raise CommandRefused(
            f"undo of {model.name}: the traffic was taken away from version {canary.version}, and version"
            f" {stable.version} has it; which rollout that is cannot be read, order it again when it can: {error}"
        )
    decision = systems.controller.roll_back_now(status.salt, f"undo: {reason}", by=by, ordered=True)
    _require_kept(model.name, decision)
    return Undone(status.salt, stable.version, canary.version, warm=True)


def _names(salt: str, model: str, version: str) -> bool:
    try:
        return named(salt) == (model, version)
    except ValueError:
        return False


def _require_kept(model: str, decision: Decision) -> None:
    """Raise CommandRefused where this process alone knows that the traffic was taken away."""
    if decision.rule == UNRECORDED:
        raise CommandRefused(
            f"undo of {model}: the traffic is back, but nothing could be written: order it again when it can."
            f" {decision.reason}"
        )


def _out_of_the_bake(systems: RolloutSystems, state: RolloutState, *, by: str, reason: str) -> Undone | None:
    """The previous champion is still warm. None where the bake had just ended, and the version is promoted for good.

    Raises CommandRefused where it is not known which of the two it is.
    """
    decision = systems.controller.command(
        state.rollout_id, Order.ROLL_BACK_NOW, by=by, reason=f"undo: {reason}"
    )
    _require_kept(state.model, decision)
    taken_back = Undone(state.rollout_id, str(state.champion), state.version, warm=True)
    if decision.rule == EMERGENCY:
        return taken_back
    try:
        systems.controller.drive(state.rollout_id)
        after = systems.controller.state(state.rollout_id)
    except LedgerError:
        if decision.kind is not DecisionKind.ROLL_BACK:
            raise
        return taken_back  # the traffic is back, and the ledger knows: whoever drives next does the rest
    if after.end is End.PROMOTED:
        return None
    if after.end is None and after.phase is not Phase.ROLLING_BACK:
        raise CommandRefused(
            f"undo of {state.model}: the bake of version {state.version} is just ending, and it is not known whether"
            f" version {state.champion} still runs: order it again in a moment"
        )
    return taken_back


def undo_policy(policy: Policy, of: str) -> Policy:
    """Nothing but an answer of the version is waited for: it has served all traffic before."""
    return replace(
        policy,
        steps=(100.0,),
        min_duration=timedelta(0),
        min_units=0,
        approval="none",
        freeze=(),
        dry_run=False,
        bake=timedelta(0),
        ab_test=None,
        required=(),
        required_to_promote=(),
        undoes=of,
    )


def _begun(systems: RolloutSystems, model: Model, *, by: str, reason: str) -> RolloutState:
    """A rollout of the previous champion."""
    served = systems.backend.status(model.name).stable
    promoted = None if served is None else _promotion_of(systems, model.name, served.version)
    if served is None or promoted is None:
        raise CommandRefused(
            f"undo of {model.name}: there is nothing to go back to:"
            f" {served_in_words(served and served.version)}, and the ledger has no promotion of it"
        )
    if promoted.policy.undoes:
        raise CommandRefused(
            f"undo of {model.name}: version {promoted.version} was itself brought back by an undo; to serve version"
            f" {promoted.champion} again, clear its tag `rampgate.status` and give it the alias `challenger`"
        )
    if promoted.champion is None:
        raise CommandRefused(
            f"undo of {model.name}: there is nothing to go back to: version {promoted.version} was the first"
        )
    undone = _taken_back_since(systems, promoted)
    if undone is not None:
        raise CommandRefused(
            f"undo of {model.name}: version {promoted.version} was itself brought back, when the promotion of version"
            f" {undone.version} was taken back ({undone.end_reason}); to serve version {promoted.champion} again, clear its"
            " tag `rampgate.status` and give it the alias `challenger`"
        )
    rollout_id = systems.controller.start(
        model.rollout,
        promoted.champion,
        promoted.version,
        _artefact(systems, model.name, promoted.champion),
        policy=undo_policy(Policy.of(model.rollout), promoted.rollout_id),
        by=by,
        despite=f"undo: {reason}",
    )
    return systems.controller.state(rollout_id)


def _promotion_of(systems: RolloutSystems, model: str, version: str) -> RolloutState | None:
    """The last rollout of the version that ended with its promotion."""
    rows = systems.ledger.rollouts(model)
    found = [row for row in rows if row.version == version and row.end is End.PROMOTED]
    return read_rollout(systems.ledger, found[-1].rollout_id) if found else None


def _taken_back_since(systems: RolloutSystems, promoted: RolloutState) -> RolloutState | None:
    """A later rollout whose bake ended badly: an undo that is ordered after that, or twice, most likely means that one."""
    rows = systems.ledger.rollouts(promoted.model)
    later = rows[[row.rollout_id for row in rows].index(promoted.rollout_id) + 1 :]
    ended = [row.rollout_id for row in later if row.end in (End.ROLLED_BACK, End.ABORTED)]
    states = (read_rollout(systems.ledger, each) for each in reversed(ended))
    return next((state for state in states if state.promotion is not None), None)


def _artefact(systems: RolloutSystems, model: str, version: str) -> ModelArtefact:
    """What the registry has, if it is what was served: its digest is in the ledger since its own rollout."""
    local = systems.settings.serving == "embedded"
    try:
        artefact = systems.registry.artefact(model, version, local=local)
    except (NotInRegistry, VersionRefused) as error:
        raise CommandRefused(f"undo of {model}: version {version} cannot be had any more: {error}") from error
    served = _promotion_of(systems, model, version)
    if served is not None and served.artefact.digest != artefact.digest:
        raise CommandRefused(
            f"undo of {model}: the artefact of version {version} was changed since it was served: its digest is"
            f" {artefact.digest[:19]}, and {served.artefact.digest[:19]} was served"
        )
    return artefact


def _carried_out(systems: RolloutSystems, model: Model, state: RolloutState) -> Undone:
    """Start it, let it answer, move the traffic. What does not come up is taken back, and nothing has changed."""
    decision = carry_on(systems, model, state.rollout_id)
    after = systems.controller.state(state.rollout_id)
    if after.end is not End.PROMOTED:
        fate = (
            f"it ended {after.end}" if after.end else "it is tried again by itself; the order abort ends that"
        )
        raise CommandRefused(
            f"undo of {model.name}: version {state.version} is not served yet, and {state.champion} still is: {fate}:"
            f" {after.end_reason or decision.reason}"
        )
    return Undone(state.rollout_id, state.version, str(state.champion), warm=False)
