"""Which events somebody is told about, and in which words. Pure: the outbox is written with the event."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import assert_never

from pipelines.core.rollout.events import (
    Action,
    ClockSet,
    Command,
    Decided,
    Decision,
    DecisionKind,
    Done,
    Ended,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Lapsed,
    Refused,
    Started,
)
from pipelines.core.rollout.policy import Severity
from pipelines.core.rollout.standing import words
from pipelines.core.rollout.state import Phase, RolloutState

_TRAFFIC = (Action.TRAFFIC_OFF, Action.RESTORE)


@dataclass(frozen=True, kw_only=True)
class Alert:
    """Something to tell people. Two alerts with the same `key` are the same alert."""

    key: str
    severity: Severity
    model: str
    version: str
    rollout_id: str
    title: str
    body: str
    at: datetime
    channels: tuple[str, ...] = ()
    """Names of environment variables that hold apprise URLs; empty: the platform's own channels alone."""


def alerts_of(state: RolloutState, event: Event) -> tuple[Alert, ...]:
    """The alerts that `event` causes; `state` is the rollout after it."""
    alert = _alert(state, event)
    if alert is None:
        return ()
    return (_addressed(state, alert),)


def _addressed(state: RolloutState, alert: Alert) -> Alert:
    """To the channels of the manifest for its severity."""
    return replace(alert, channels=state.policy.alerts.get(alert.severity, ()))


def unclear_promotion(state: RolloutState, todo: Intent, problem: str, at: datetime) -> Alert:
    """The serving side failed to promote and does not say what is in force."""
    alert = _make(
        state,
        todo,
        f"unclear:{todo.action_id}",
        "critical",
        "it is not known whether it was promoted",
        f"asked again until the serving side answers: {problem}",
    )
    return _addressed(state, replace(alert, at=at))


def overtaken_registration(state: RolloutState, problem: str, at: datetime) -> Alert:
    """A late writer could not put back into the registry what the ledger says."""
    alert = Alert(
        key=f"{state.rollout_id}:overtaken:{at:%Y-%m-%dT%H:%M}",
        severity="critical",
        model=state.model,
        version=state.version,
        rollout_id=state.rollout_id,
        title=f"{state.model} version {state.version}: the registry may say what is not so any more",
        body="an alias or tag was written late, after others had gone on, and could not be put right: look whether"
        f" the alias `champion` and the tags `rampgate.*` say what is served: {problem}",
        at=at,
    )
    return _addressed(state, alert)


def _alert(state: RolloutState, event: Event) -> Alert | None:
    match event:
        case Started():
            champion = f"champion version {event.champion}" if event.champion else "no champion yet"
            despite = f"; a person accepted that {event.despite}" if event.despite else ""
            body = f"{champion}, by {event.by}{despite}"
            return _make(state, event, "started", "info", "rollout started", body)
        case Refused():
            return _make(state, event, "refused", "warning", "refused before any traffic", event.reason)
        case Decided():
            return _decision(state, event, event.decision)
        case Failed():
            return _failure(state, event)
        case Done(landed=True):
            return _make(
                state, event, "landed", "critical", "promoted before it could roll back", event.message
            )
        case Done(unregistered=True):
            return _make(
                state,
                event,
                "unregistered",
                "warning",
                "the end could not be written into the registry",
                event.message,
            )
        case Done() if state.phase is Phase.BAKING and event.at == state.since:
            body = (
                f"it takes {state.percent:g} % of the traffic; version {state.champion} stays warm for"
                f" {words(state.policy.bake)}, and comes back by itself if harm is found"
            )
            return _make(state, event, "baking", "info", "promoted, and bakes", body)
        case Lapsed():
            what = "a copy of traffic" if event.mirror else f"its share of {event.percent:g} %"
            body = f"{what} was taken away at {event.taken_at:%Y-%m-%d %H:%M:%S} UTC: {event.reason}"
            return _make(
                state, event, f"lapsed:{event.seq}", "critical", "nobody watched it: traffic taken away", body
            )
        case ClockSet():
            body = f"by {words(event.back)} or more; what was under way is counted from now on where it had begun later"
            return _make(state, event, f"clock_set:{event.seq}", "warning", "the clock was set back", body)
        case Command():
            body = f"by {event.by}: {event.reason}"
            return _make(state, event, f"command:{event.seq}", "info", f"ordered: {event.order}", body)
        case Ended():
            title = f"ended: {event.end}{' (dry run)' if event.dry else ''}"
            return _make(state, event, "ended", "info", title, event.reason)
        case EvidenceRecorded() | Intent() | Done():
            return None
        case _:
            assert_never(event)


def _decision(state: RolloutState, event: Decided, decision: Decision) -> Alert | None:
    if decision.kind is DecisionKind.CONTINUE or decision.rule == "paused":
        return None
    topic = f"{decision.kind}:{decision.rule}:{state.step}"
    if decision.kind is DecisionKind.HOLD:
        topic += f":{event.at:%Y-%m-%dT%H}"
    return _make(state, event, topic, decision.severity, _title(decision), decision.reason)


def _title(decision: Decision) -> str:
    match decision.kind:
        case DecisionKind.CONTINUE:
            return "waiting"
        case DecisionKind.ADVANCE:
            again = " again" if decision.rule == "watched_again" else ""
            return f"advancing to {decision.percent:g} %{again}" if decision.percent else f"shadowing{again}"
        case DecisionKind.HOLD:
            return f"holding: {decision.rule.replace('_', ' ')}"
        case DecisionKind.PROMOTE:
            return "promoting"
        case DecisionKind.ROLL_BACK:
            return "rolling back"
        case _:
            assert_never(decision.kind)


def _failure(state: RolloutState, event: Failed) -> Alert | None:
    trouble = state.trouble
    if trouble is None:
        return None
    severity = "critical" if trouble.action in _TRAFFIC else "warning"
    topic = f"failed:{trouble.action}:{state.step}:{trouble.since:%Y-%m-%dT%H:%M:%S}"
    return _make(state, event, topic, severity, _after_failure(state, trouble.action), event.message)


def _after_failure(state: RolloutState, action: Action) -> str:
    decision = None if state.last is None else state.last.decision
    if action is Action.PROMOTE and decision is not None and decision.rule == "forced":
        return "the forced promotion failed and is not tried again; evidence counts again, order it anew"
    return f"{action} failed, will be tried again"


def _make(state: RolloutState, event: Event, topic: str, severity: Severity, title: str, body: str) -> Alert:
    dry = "dry run: " if state.policy.dry_run else ""
    return Alert(
        key=f"{state.rollout_id}:{topic}",
        severity=severity,
        model=state.model,
        version=state.version,
        rollout_id=state.rollout_id,
        title=f"{state.model} version {state.version}: {dry}{title}",
        body=body,
        at=event.at,
    )
