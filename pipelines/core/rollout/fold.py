"""Events -> state. Total over what the controller writes; anything else is CorruptLedger."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import assert_never

from pipelines.core.errors import CorruptLedger
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    ClockSet,
    Command,
    Decided,
    DecisionKind,
    Done,
    End,
    Ended,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Lapsed,
    Order,
    Refused,
    Started,
)
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase, RolloutState, Trouble, Weight
from pipelines.core.vocabulary import Evidence


def fold(events: Iterable[Event]) -> RolloutState:
    """The state after these events, which start at seq 1 and have no gap. Raises CorruptLedger."""
    state: RolloutState | None = None
    for event in events:
        state = _open(event) if state is None else step(state, event)
    if state is None:
        raise CorruptLedger("a rollout without events")
    return state


def step(state: RolloutState, event: Event) -> RolloutState:
    """The state after one more event. Raises CorruptLedger with rollout, seq and what does not fit."""
    if event.rollout_id != state.rollout_id or event.seq != state.seq + 1:
        raise _corrupt(event, f"follows {state.rollout_id} seq {state.seq}")
    if state.phase is Phase.ENDED:
        raise _corrupt(event, f"{event.kind} after the end ({state.end})")
    return replace(_applied(state, event), seq=event.seq, latest=event.at)


def _applied(state: RolloutState, event: Event) -> RolloutState:
    match event:
        case EvidenceRecorded():
            return _evidence(state, event)
        case Decided():
            return _decided(state, event)
        case Command():
            return _command(state, event)
        case Intent():
            return _intent(state, event)
        case Done():
            return _done(state, event)
        case Failed():
            return _failed(state, event)
        case Lapsed():
            return _lapsed(state, event)
        case ClockSet():
            return _none_ahead(state, event.at)
        case Ended():
            return _ended(state, event)
        case Started() | Refused():
            raise _corrupt(event, f"{event.kind} in the middle of a rollout")
        case _:
            assert_never(event)


def merge(known: Mapping[str, Evidence], new: Iterable[Evidence]) -> dict[str, Evidence]:
    """The latest evidence of each name; of two with the same time, the one that came later."""
    merged = dict(known)
    for item in new:
        if item.name not in merged or merged[item.name].at <= item.at:
            merged[item.name] = item
    return merged


def _corrupt(event: Event, what: str) -> CorruptLedger:
    return CorruptLedger(f"{event.rollout_id} seq {event.seq}: {what}")


def _open(event: Event) -> RolloutState:
    if event.seq != 1 or not isinstance(event, Started | Refused):
        raise _corrupt(event, f"{event.kind} as the first event; expected started or refused with seq 1")
    if isinstance(event, Refused):
        return _refused(event)
    return RolloutState(
        rollout_id=event.rollout_id,
        seq=event.seq,
        model=event.model,
        version=event.version,
        champion=event.champion,
        despite=event.despite,
        artefact=event.artefact,
        salt=event.salt,
        policy=event.policy,
        manifest_digest=event.manifest_digest,
        started_at=event.at,
        latest=event.at,
        since=event.at,
        phase=Phase.STARTING,
    )


def _refused(event: Refused) -> RolloutState:
    return RolloutState(
        rollout_id=event.rollout_id,
        seq=event.seq,
        model=event.model,
        version=event.version,
        champion=None,
        artefact=Artefact(uri="", digest=""),
        salt="",
        policy=Policy(steps=()),
        manifest_digest="",
        started_at=event.at,
        since=event.at,
        phase=Phase.ENDED,
        end=End.REFUSED,
        end_reason=event.reason,
    )


def _evidence(state: RolloutState, event: EvidenceRecorded) -> RolloutState:
    return replace(state, evidence=merge(state.evidence, event.evidence))


def _decided(state: RolloutState, event: Decided) -> RolloutState:
    decision = event.decision
    unknown = {name: state.unknown_since.get(name, event.at) for name in decision.unknown}
    state = replace(state, last=event, unknown_since=unknown, evidence=merge(state.evidence, event.evidence))
    if decision.kind is DecisionKind.ROLL_BACK:
        if state.phase is Phase.PROMOTING:
            raise _corrupt(event, "roll back while a promotion is under way")
        return replace(state, phase=Phase.ROLLING_BACK, pending=None, done=frozenset(), trouble=None)
    if decision.kind is DecisionKind.PROMOTE and state.phase is not Phase.PROMOTING:
        if state.phase is Phase.ROLLING_BACK:
            raise _corrupt(event, "promote while rolling back")
        return replace(state, phase=Phase.PROMOTING, done=frozenset(), trouble=None)
    return state


def _command(state: RolloutState, event: Command) -> RolloutState:
    match event.order:
        case Order.PAUSE:
            return replace(state, paused=event)
        case Order.RESUME:
            return replace(state, paused=None)
        case Order.APPROVE:
            return replace(state, approved=event)
        case Order.FORCE_PROMOTE:
            return replace(state, forced=event)
        case Order.ABORT | Order.ROLL_BACK_NOW:
            return replace(state, ordered=event)
        case _:
            assert_never(event.order)


_INCREASES = (Action.SET_PERCENT, Action.SHADOW, Action.BAKE, Action.PROMOTE, Action.DEPLOY)


def _intent(state: RolloutState, event: Intent) -> RolloutState:
    if state.pending is not None:
        raise _corrupt(event, f"{event.action} while {state.pending.action_id} has no outcome")
    if state.phase is Phase.ROLLING_BACK and event.action in _INCREASES:
        raise _corrupt(event, f"{event.action} while rolling back")
    exposes = event.action in (Action.SET_PERCENT, Action.BAKE, Action.PROMOTE) and not event.dry
    return replace(state, pending=event, exposed=state.exposed or exposes)


def _pending(state: RolloutState, event: Done | Failed) -> Intent:
    if state.pending is None or state.pending.action_id != event.action_id:
        waiting = "nothing" if state.pending is None else state.pending.action_id
        raise _corrupt(event, f"{event.kind} of {event.action_id}, but {waiting} is pending")
    return state.pending


def _done(state: RolloutState, event: Done) -> RolloutState:
    intent = _pending(state, event)
    state = replace(state, pending=None, trouble=None)
    if event.landed:
        return _weighed(replace(state, landed=True), event, intent, 100.0)
    match intent.action:
        case Action.DEPLOY:
            return replace(state, deployed=True, phase=Phase.VALIDATING)
        case Action.SHADOW:
            return replace(_entered(state, event, intent), phase=Phase.SHADOW, mirror=True)
        case Action.SET_PERCENT:
            entered = replace(
                _entered(state, event, intent), phase=Phase.STEPPING, mirror=state.mirror and intent.dry
            )
            return _weighed(entered, event, intent, intent.percent or 0.0)
        case Action.BAKE:
            return _weighed(_baking(_beside(state, intent), event), event, intent, intent.percent or 0.0)
        case Action.PROMOTE:
            return _weighed(_finished(_beside(state, intent), intent), event, intent, 100.0)
        case Action.TRAFFIC_OFF:
            return _weighed(_finished(state, intent), event, intent, 0.0)
        case Action.RESTORE:
            return replace(_finished(state, intent), deployed=False, mirror=False)
        case Action.REGISTER:
            return _finished(state, intent)
        case _:
            assert_never(intent.action)


def _beside(state: RolloutState, intent: Intent) -> RolloutState:
    """A person promoted it over another version than it was compared with: from now on that is its other side."""
    replaced = intent.over is not None and intent.over not in (state.champion, state.version)
    return replace(state, champion=intent.over) if replaced and not intent.dry else state


def _entered(state: RolloutState, event: Done, intent: Intent) -> RolloutState:
    """The period of an A/B test does not begin anew with a share that comes back."""
    reached = state.step if intent.step is None else intent.step
    goes_on = state.policy.ab_test is not None and state.lapsed is not None
    since = state.since if goes_on else event.at
    return replace(state, step=reached, since=since, approved=None, lapsed=None)


def _baking(state: RolloutState, event: Done) -> RolloutState:
    return replace(
        state,
        phase=Phase.BAKING,
        step=len(state.policy.ramp),
        since=event.at,
        promotion=state.last,
        approved=None,
        forced=None,
        lapsed=None,
        mirror=False,
        done=frozenset(),
    )


def _lapsed(state: RolloutState, event: Lapsed) -> RolloutState:
    """Between the moment it was taken away and now either share may have been in force."""
    state = replace(state, percent=0.0, mirror=False, lapsed=event)
    if not event.percent:
        return state
    weight = Weight(begun=event.taken_at, at=event.at, percent=0.0)
    return replace(state, weights=(*state.weights, weight))


def _none_ahead(state: RolloutState, now: datetime) -> RolloutState:
    """No time that anything is counted from lies ahead: by a clock that was set back it would not come for as long."""
    trouble, lapsed = state.trouble, state.lapsed
    return replace(
        state,
        started_at=min(state.started_at, now),
        since=min(state.since, now),
        evidence={
            name: replace(each, at=now) if each.at > now else each for name, each in state.evidence.items()
        },
        unknown_since={name: min(since, now) for name, since in state.unknown_since.items()},
        trouble=None if trouble is None else trouble._replace(since=min(trouble.since, now)),
        lapsed=None if lapsed is None else lapsed.model_copy(update={"at": min(lapsed.at, now)}),
        weights=tuple(Weight(min(w.begun, now), min(w.at, now), w.percent) for w in state.weights),
    )


def _finished(state: RolloutState, intent: Intent) -> RolloutState:
    return replace(state, done=state.done | {intent.action})


def _weighed(state: RolloutState, event: Done, intent: Intent, percent: float) -> RolloutState:
    if intent.dry:
        return state
    weight = Weight(begun=intent.at, at=event.at, percent=percent)
    return replace(state, percent=percent, weights=(*state.weights, weight))


def _failed(state: RolloutState, event: Failed) -> RolloutState:
    intent = _pending(state, event)
    before = state.trouble if state.trouble and state.trouble.action is intent.action else None
    trouble = Trouble(
        action=intent.action,
        since=before.since if before else event.at,
        attempts=before.attempts + 1 if before else 1,
        message=event.message,
        final=event.final,
        own=(before.own if before else 0) + (not event.unclear),
    )
    state = replace(state, pending=None, trouble=trouble)
    if intent.action in (Action.PROMOTE, Action.BAKE):
        # One try for each order: kept, it would hide harm for as long as the promotion keeps failing.
        return replace(before_promotion(state), forced=None)
    return state


def before_promotion(state: RolloutState) -> RolloutState:
    """The state as if the promotion under way had not been decided."""
    if state.promotion is not None:
        phase = Phase.BAKING
    elif state.step < 0:
        phase = Phase.VALIDATING if state.deployed else Phase.STARTING
    else:
        phase = Phase.SHADOW if state.policy.ramp[state.step] == "shadow" else Phase.STEPPING
    return replace(state, phase=phase, pending=None)


def _ended(state: RolloutState, event: Ended) -> RolloutState:
    if state.pending is not None:
        raise _corrupt(event, f"the end while {state.pending.action_id} has no outcome")
    return replace(state, phase=Phase.ENDED, end=event.end, end_reason=event.reason)
