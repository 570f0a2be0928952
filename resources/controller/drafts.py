"""Events before they are numbered: `Journal.append` gives them their seq."""

from collections.abc import Iterable
from datetime import datetime

from pipelines.rollout.decision import Decision
from pipelines.rollout.events import Action, Command, Decided, Done, EvidenceRecorded, Failed, Intent, Order
from pipelines.rollout.evidence import Evidence
from pipelines.rollout.state import RolloutState

UNNUMBERED = 1
_DRY = (Action.SET_PERCENT, Action.PROMOTE, Action.TRAFFIC_OFF)


def decided(
    state: RolloutState, decision: Decision, evidence: Iterable[Evidence], *, at: datetime, by: str
) -> Decided:
    """A decision, with the evidence that the ledger does not have yet."""
    new = tuple(item for item in evidence if is_newer(state, item))
    return Decided(rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, decision=decision, evidence=new)


def recorded(state: RolloutState, evidence: Iterable[Evidence], *, at: datetime, by: str) -> EvidenceRecorded:
    """Evidence that no decision follows from yet."""
    return EvidenceRecorded(
        rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, evidence=tuple(evidence)
    )


def intent(state: RolloutState, action: Action, *, at: datetime, by: str, place: int = 1) -> Intent:
    """The intent to be written as the `place`-th event after `state`; an advance has its step from the decision."""
    moving = action in (Action.SET_PERCENT, Action.SHADOW)
    decision = state.last.decision if moving and state.last is not None else None
    return Intent(
        rollout_id=state.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=action_id(state, action, place=place),
        action=action,
        percent=None if decision is None else decision.percent,
        step=None if decision is None else decision.step,
        dry=state.policy.dry_run and action in _DRY,
    )


def action_id(state: RolloutState, action: Action, *, place: int = 1) -> str:
    """An id that no other intent of the rollout has: it names the seq of the intent."""
    return f"{action}@{state.seq + place}"


def done(
    todo: Intent,
    *,
    at: datetime,
    by: str,
    message: str = "",
    landed: bool = False,
    unregistered: bool = False,
) -> Done:
    """The intent was carried out."""
    return Done(
        rollout_id=todo.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=todo.action_id,
        message=message,
        landed=landed,
        unregistered=unregistered,
    )


def failed(
    todo: Intent, message: str, *, at: datetime, by: str, final: bool = False, unclear: bool = False
) -> Failed:
    """The intent could not be carried out."""
    return Failed(
        rollout_id=todo.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=todo.action_id,
        message=message,
        final=final,
        unclear=unclear,
    )


def command(state: RolloutState, order: Order, *, at: datetime, by: str, reason: str) -> Command:
    """A person's order."""
    return Command(rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, order=order, reason=reason)


def is_newer(state: RolloutState, item: Evidence) -> bool:
    """Whether the ledger does not have this evidence, or something later under its name."""
    known = state.evidence.get(item.name)
    return known is None or (known.at <= item.at and known != item)


def worth_recording(state: RolloutState, evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Evidence that says something new, or whose record is half as old as it may get."""
    return tuple(item for item in evidence if is_newer(state, item) and _says_more(state, item))


def _says_more(state: RolloutState, item: Evidence) -> bool:
    known = state.evidence.get(item.name)
    if known is None or _gist(known) != _gist(item):
        return True
    crossed = known.at <= state.since < item.at
    return crossed or item.at - known.at >= known.valid_for / 2


def _gist(item: Evidence) -> tuple[object, ...]:
    return item.verdict, item.pending, item.on_fail, item.needed_for
