"""The rules, one by one and against each other, on states folded from events."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import CorruptLedger, ManifestError
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.doubt import doubt_evidence
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Command,
    Decided,
    DecisionKind,
    Done,
    Event,
    Intent,
    Lapsed,
    Order,
    Started,
)
from pipelines.core.rollout.fold import fold, step
from pipelines.core.rollout.policy import (
    DOUBTS,
    LIVE_DOUBT,
    SERVED,
    WATCHED,
    AbTestPolicy,
    FreezeWindow,
    Policy,
)
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import AfterTest, Evidence, NeededFor, OnFail, OnUnknown, Verdict
from tests.support.rollouts import evidence, good, harmful, manifest

T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)

LATER = T0 + 30 * MINUTE

WATCHED_PASS = evidence(WATCHED, Verdict.PASS, LATER, source="serving")

POLICY = Policy(
    steps=(10.0, 50.0, 100.0),
    min_duration=10 * MINUTE,
    min_units=0,
    required=("errors",),
    required_to_promote=("cost",),
)


def at_step(index: int, policy: Policy = POLICY, champion: str | None = "1") -> RolloutState:
    """A rollout whose step `index` came into force at T0; -1: deployed, without traffic."""
    common: dict[str, Any] = {"rollout_id": "m-v2-00000000", "by": "test", "at": T0}
    events: list[Event] = [
        Started(
            **common,
            seq=1,
            model="m",
            version="2",
            champion=champion,
            artefact=Artefact(uri="u", digest="d"),
            salt="s",
            policy=policy,
            manifest_digest="",
        ),
        Intent(**common, seq=2, action_id="a", action=Action.DEPLOY),
        Done(**common, seq=3, action_id="a"),
    ]
    if index >= 0:
        percent = policy.ramp[index]
        shadow = percent == "shadow"
        action = Action.SHADOW if shadow else Action.SET_PERCENT
        share = 0.0 if shadow else percent
        events += [
            Intent(**common, seq=4, action_id="b", action=action, step=index, percent=share),
            Done(**common, seq=5, action_id="b"),
        ]
    return fold(events)


def after(state: RolloutState, event_type: type, at: datetime = T0, **fields: Any) -> RolloutState:
    return step(state, event_type(rollout_id=state.rollout_id, seq=state.seq + 1, at=at, by="ada", **fields))


def ordered(state: RolloutState, order: Order) -> RolloutState:
    return after(state, Command, order=order, reason="because")


def rule(state: RolloutState, items: tuple[Evidence, ...], now: datetime) -> str:
    return decide(state, items, now).rule


def test_a_step_is_left_when_floor_and_evidence_allow() -> None:
    state, late = at_step(0), T0 + 11 * MINUTE
    assert rule(state, good(T0 + 5 * MINUTE), T0 + 5 * MINUTE) == "floor"
    decision = decide(state, good(late), late)
    assert (decision.kind, decision.step, decision.percent) == (DecisionKind.ADVANCE, 1, 50)
    assert rule(state, (), late) == "pending"


def test_the_last_step_needs_what_promotion_needs() -> None:
    late = T0 + 11 * MINUTE
    advance_only = (evidence("errors", Verdict.PASS, late),)
    assert rule(at_step(0), advance_only, late) == "passed"
    assert decide(at_step(1), advance_only, late).reason == "cost: no evidence yet"
    assert decide(at_step(1), good(late), late).kind is DecisionKind.PROMOTE


def test_evidence_from_before_the_step_does_not_count_for_it() -> None:
    state, late = at_step(0), T0 + 11 * MINUTE
    decision = decide(state, good(T0), late)
    assert (decision.rule, decision.kind) == ("pending", DecisionKind.CONTINUE)
    assert "not measured since this step came into force" in decision.reason


@pytest.mark.parametrize("order", [None, Order.PAUSE])
@pytest.mark.parametrize("approval", ["none", "every_step"])
@pytest.mark.parametrize("freeze", [(), (FreezeWindow(cron="* * * * *", duration=HOUR),)])
@pytest.mark.parametrize("index", [0, 1])
def test_harm_rolls_back_whatever_is_waited_for(
    order: Order | None, approval: Any, freeze: Any, index: int
) -> None:
    state = at_step(index, replace(POLICY, approval=approval, freeze=freeze))
    state = ordered(state, order) if order else state
    late = T0 + 11 * MINUTE
    calm = decide(state, good(late), late)
    assert (calm.kind is DecisionKind.HOLD) == bool(order or freeze or approval != "none")
    decision = decide(state, harmful(late), late)
    assert (decision.kind, decision.rule, decision.severity) == (DecisionKind.ROLL_BACK, "harm", "critical")


@pytest.mark.parametrize("name", DOUBTS)
@pytest.mark.parametrize("index", [0, 1])
def test_while_harm_is_likely_everything_waits_and_nothing_goes_back(name: str, index: int) -> None:
    late, state = T0 + 11 * MINUTE, at_step(index)
    source = "serving" if name == LIVE_DOUBT else "experiment"
    said = {"source": source, "at": late, "valid_for": 2 * MINUTE}
    doubt = doubt_evidence(name, {"errors": math.log(15), "slow": 0.2}, 3, **said)
    held = decide(state, (*good(late), doubt), late)
    assert (held.kind, held.rule, held.severity, held.evidence) == (
        DecisionKind.HOLD,
        "doubted",
        "info",
        (name,),
    )
    assert held.reason == "held: evidence of harm 15 to 1 (errors), advance below 3 to 1"
    assert rule(state, (doubt,), late) == "pending", "nothing else is hidden"
    assert rule(state, (*harmful(late), doubt), late) == "harm"
    for later in (3 * MINUTE, 2 * HOUR):  # nobody says so any more
        assert rule(state, (*good(late + later), doubt), late + later) == "passed"
    over = doubt_evidence(name, {"errors": math.log(2.9)}, 3, **said)
    assert over.verdict is Verdict.PASS
    assert rule(state, (*good(late), over), late) == "passed"
    ends = T0 + POLICY.max_duration
    lasting = replace(doubt, at=ends)
    assert rule(state, (*good(ends), lasting), ends) == "inconclusive", "the champion stays, in the end"


def test_what_the_live_watch_held_for_has_passed_when_it_is_no_longer_said() -> None:
    late = T0 + 11 * MINUTE
    repeated = evidence("errors-repeated", Verdict.FAIL, late, source="serving", valid_for=10 * MINUTE)
    assert rule(at_step(0), (*good(late), repeated), late) == "failed_check"
    later = late + 11 * MINUTE
    assert rule(at_step(0), (*good(later), repeated), later) == "passed"


def test_what_holds_and_what_only_warns() -> None:
    late = T0 + 11 * MINUTE
    drift = evidence("drift", Verdict.FAIL, late, source="drift")
    held = decide(at_step(0), (*good(late), drift), late)
    assert (held.kind, held.rule, held.evidence) == (DecisionKind.HOLD, "failed_check", ("drift",))
    for verdict in (Verdict.FAIL, Verdict.UNKNOWN):
        warning = evidence("drift", verdict, late, source="drift", on_fail=OnFail.WARN)
        assert rule(at_step(0), (*good(late), warning), late) == "passed"


def test_stale_evidence_is_unknown_even_when_it_said_fail() -> None:
    late = T0 + 3 * HOUR
    for items in (good(T0 + MINUTE), harmful(T0 + MINUTE)):
        decision = decide(at_step(0), items, late)
        assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "unknown")
        assert "last measured 2h 59m ago, good for 1h" in decision.reason


def test_evidence_from_the_future_holds() -> None:
    decision = decide(at_step(0), good(T0 + HOUR), T0 + 11 * MINUTE)
    assert (decision.rule, decision.unknown) == ("unknown", ("cost", "errors"))


def test_unknown_ends_after_max_unknown_counted_from_the_decision_that_saw_it() -> None:
    state, seen = at_step(0), T0 + 20 * MINUTE
    decision = decide(state, (evidence("errors", Verdict.UNKNOWN, seen),), seen)
    state = after(state, Decided, at=seen, decision=decision)
    late = seen + 59 * MINUTE
    assert rule(state, (evidence("errors", Verdict.UNKNOWN, late),), late) == "unknown"
    late = seen + HOUR
    unknown = (evidence("errors", Verdict.UNKNOWN, late),)
    assert decide(state, unknown, late).kind is DecisionKind.ROLL_BACK
    holding = replace(state, policy=replace(POLICY, on_unknown=OnUnknown.HOLD))
    assert decide(holding, unknown, late).kind is DecisionKind.HOLD
    assert rule(state, good(late), late) == "passed", "it resumes by itself"


def test_pending_counts_towards_max_duration_alone() -> None:
    state = at_step(0, replace(POLICY, max_duration=timedelta(days=3)))
    late = T0 + timedelta(days=2)
    waiting = (evidence("errors", Verdict.UNKNOWN, late, pending=True),)
    assert rule(state, waiting, late) == "pending"
    late = T0 + timedelta(days=3)
    waiting = (evidence("errors", Verdict.UNKNOWN, late, pending=True),)
    decision = decide(state, waiting, late)
    assert (decision.kind, decision.rule) == (DecisionKind.ROLL_BACK, "inconclusive")
    assert rule(state, good(late), late) == "passed", "late evidence is still evidence"
    assert rule(ordered(state, Order.PAUSE), waiting, late) == "paused"


@pytest.mark.parametrize("then", AfterTest)
def test_an_ab_test_waits_for_its_last_look_up_to_max_unknown(then: AfterTest) -> None:
    policy = replace(
        POLICY, steps=(50.0, 100.0), min_duration=HOUR, ab_test=AbTestPolicy(duration=HOUR, then=then)
    )
    state, end = at_step(0, policy), T0 + HOUR
    early, blind = good(end - MINUTE), (evidence("cost", Verdict.UNKNOWN, end + MINUTE),)
    assert rule(state, early, end - MINUTE) == "floor"
    for seen in ((), early, (*early, *blind)):
        assert rule(state, seen, end + 2 * MINUTE) == "last_look"
    over = decide(state, good(end + MINUTE), end + 2 * MINUTE)
    assert over.rule == ("test_over" if then is AfterTest.KEEP else "passed")
    worse = evidence("cost", Verdict.FAIL, end + MINUTE, on_fail=OnFail.HOLD)
    assert rule(state, (*good(end + MINUTE), worse), end + 2 * MINUTE) == "test_over"
    never = decide(state, (), end + policy.max_unknown)
    assert (never.rule, "no look was taken since" in never.reason) == ("test_over", True)


def test_never_into_an_unhealthy_champion_whatever_asks_for_it() -> None:
    state, late = at_step(0, replace(POLICY, max_duration=HOUR)), T0 + 2 * HOUR
    sick = evidence("champion_health", Verdict.FAIL, late, source="serving")
    for items in (harmful(late), good(late), ()):
        decision = decide(state, (*items, sick), late)
        assert (decision.rule, decision.severity) == ("champion_unhealthy", "critical")
    assert rule(state, (*harmful(late), sick), late + 2 * HOUR) != "champion_unhealthy", "old news"


def test_a_first_version_has_no_champion_to_compare_with() -> None:
    validated = (evidence("validation", Verdict.PASS, T0),)
    decision = decide(at_step(-1, champion=None), validated, T0)
    assert (decision.kind, decision.rule) == (DecisionKind.PROMOTE, "first_version")
    assert decide(at_step(-1), validated, T0).percent == 10
    assert rule(at_step(-1), (), T0) == "pending"
    assert rule(at_step(-1, replace(POLICY, validate=False)), (), T0) == "passed"


def test_a_ramp_of_100_alone_promotes_after_validation() -> None:
    state = at_step(-1, replace(POLICY, steps=(100.0,)))
    assert decide(state, (evidence("validation", Verdict.PASS, T0),), T0).kind is DecisionKind.PROMOTE


def test_agreement_is_judged_in_shadow_and_forgotten_after() -> None:
    policy = replace(POLICY, steps=("shadow", 10.0, 100.0), required_in_shadow=("errors", "agreement"))
    late = T0 + 11 * MINUTE
    agree = evidence("agreement", Verdict.PASS, late)
    assert decide(at_step(0, policy), good(late), late).reason == "agreement: no evidence yet"
    assert decide(at_step(0, policy), (*good(late), agree), late).percent == 10
    stale = T0 + 3 * HOUR
    assert rule(at_step(1, policy), (*good(stale), agree), stale) == "passed"


def test_a_blind_guardrail_holds_even_where_only_promotion_needs_it() -> None:
    late = T0 + 11 * MINUTE
    blind = evidence("cost", Verdict.UNKNOWN, late)
    assert rule(at_step(0), (*good(late)[:1], blind), late) == "unknown"
    pending = evidence("cost", Verdict.UNKNOWN, late, pending=True)
    assert rule(at_step(0), (*good(late)[:1], pending), late) == "passed"


_ITEMS = st.lists(
    st.builds(
        Evidence,
        name=st.sampled_from(["errors", "cost", "drift", "validation", "champion_health"]),
        source=st.sampled_from(["serving", "experiment", "validation"]),
        verdict=st.sampled_from(Verdict),
        reason=st.just("r"),
        at=st.integers(-300, 300).map(lambda minutes: T0 + minutes * MINUTE),
        on_fail=st.sampled_from(OnFail),
        needed_for=st.sampled_from(NeededFor),
        pending=st.booleans(),
        valid_for=st.sampled_from([timedelta(0), 30 * MINUTE, HOUR]),
    ),
    max_size=6,
).map(tuple)

_STATES = st.builds(
    at_step,
    st.integers(-1, 1),
    st.builds(
        replace,
        st.just(POLICY),
        approval=st.sampled_from(["none", "promote", "every_step"]),
        max_duration=st.sampled_from([HOUR, timedelta(days=14)]),
        on_unknown=st.sampled_from(OnUnknown),
    ),
    st.sampled_from(["1", None]),
)

_ORDERS = st.lists(st.sampled_from([Order.PAUSE, Order.RESUME, Order.APPROVE]), max_size=2)

_NOWS = st.integers(-60, 600).map(lambda minutes: T0 + minutes * MINUTE)


@given(_STATES, _ORDERS, _ITEMS, _NOWS)
def test_total_deterministic_and_never_promoted_on_unknown_or_fail(
    state: RolloutState, orders: list[Order], items: tuple[Evidence, ...], now: datetime
) -> None:
    for order in orders:
        state = ordered(state, order)
    decision = decide(state, items, now)
    assert decision == decide(state, items, now)
    assert decision.reason
    if decision.kind in (DecisionKind.PROMOTE, DecisionKind.ADVANCE):
        latest = {item.name: item for item in sorted(items, key=lambda item: item.at)}
        if state.step >= 0 and latest["errors"].on_fail is not OnFail.WARN:
            assert latest["errors"].verdict is Verdict.PASS
            assert now - latest["errors"].at <= latest["errors"].valid_for
        assert not state.paused
    if decision.kind is DecisionKind.ROLL_BACK and decision.rule != "refused":
        assert decision.rule in {"harm", "inconclusive", "unknown_too_long"}


def test_a_lapsed_share_comes_back_to_its_own_step_when_it_was_looked_at_and_nothing_is_in_the_way() -> None:
    frozen = FreezeWindow(cron="0 9 * * *", duration=5 * HOUR)
    for policy, items, expected in [
        (POLICY, (), "lapsed"),
        (POLICY, (WATCHED_PASS,), "watched_again"),
        (POLICY, (WATCHED_PASS, evidence("cost", Verdict.FAIL, LATER, on_fail=OnFail.HOLD)), "watched_again"),
        (POLICY, (WATCHED_PASS, evidence("drift", Verdict.FAIL, LATER)), "failed_check"),
        (POLICY, (WATCHED_PASS, *harmful(LATER)), "harm"),
        (POLICY, (WATCHED_PASS, evidence("errors", Verdict.UNKNOWN, LATER)), "unknown"),
        (POLICY, (WATCHED_PASS, evidence(SERVED, Verdict.UNKNOWN, LATER)), "cannot_tell"),
        (replace(POLICY, freeze=(frozen,)), (WATCHED_PASS,), "frozen"),
        (replace(POLICY, approval="every_step"), (WATCHED_PASS,), "watched_again"),
    ]:
        gone = after(
            at_step(0, policy), Lapsed, at=LATER, taken_at=LATER, percent=10.0, reason="nobody watched it"
        )
        decision = decide(gone, items, LATER + MINUTE)
        assert decision.rule == expected
        if decision.rule == "watched_again":
            assert (decision.kind, decision.step, decision.percent) == (DecisionKind.ADVANCE, 0, 10.0)
    assert rule(ordered(gone, Order.PAUSE), (WATCHED_PASS,), LATER + MINUTE) == "paused"
    assert decide(ordered(gone, Order.FORCE_PROMOTE), (), LATER + MINUTE).kind is DecisionKind.PROMOTE
    assert decide(ordered(gone, Order.ABORT), (), LATER + MINUTE).kind is DecisionKind.ROLL_BACK


def test_guardrails_that_only_warn_are_not_required() -> None:
    guardrail = {"name": "slow", "type": "proportion", "source": "serving.errors", "margin": "1pp"}
    assert Policy.of(manifest(guardrails=[guardrail])).required == ("slow",)
    assert Policy.of(manifest(guardrails=[guardrail | {"on_fail": "warn"}])).required == ()


def test_evidence_cannot_excuse_itself_from_what_the_policy_requires() -> None:
    late = T0 + 11 * MINUTE
    shy = evidence("errors", Verdict.UNKNOWN, late, pending=True, needed_for=NeededFor.PROMOTE)
    assert rule(at_step(0), (shy, *good(late)[1:]), late) == "pending"


def test_a_freeze_in_the_manifest_is_checked_when_the_policy_is_made() -> None:
    wrong = manifest(freeze=[{"cron": "* * * *", "duration": "1h"}])
    with pytest.raises(ManifestError, match=r"flight-delay: freeze\[0\]: cron '\* \* \* \*' has 4 fields"):
        Policy.of(wrong)


def test_events_that_do_not_follow_are_corrupt() -> None:
    state = at_step(0)
    common: dict[str, Any] = {"rollout_id": state.rollout_id, "at": T0, "by": "x"}
    with pytest.raises(CorruptLedger, match="m-v2-00000000 seq 9: follows m-v2-00000000 seq 5"):
        step(state, Command(**common, seq=9, order=Order.PAUSE, reason="r"))
    with pytest.raises(CorruptLedger, match="seq 6: done of zzz, but nothing is pending"):
        step(state, Done(**common, seq=6, action_id="zzz"))
    decision = decide(state, harmful(T0 + MINUTE), T0 + MINUTE)
    rolling = step(state, Decided(**common, seq=6, decision=decision))
    with pytest.raises(CorruptLedger, match="seq 7: set_percent while rolling back"):
        step(rolling, Intent(**common, seq=7, action_id="c", action=Action.SET_PERCENT, percent=50))
    with pytest.raises(CorruptLedger, match="without events"):
        fold([])
