"""What is served and what the registry says: any pair of answers, in words and in decisions."""

from datetime import timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipelines.core.rollout.alerts import alerts_of
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Command,
    DecisionKind,
    Done,
    End,
    Event,
    Intent,
    Order,
    Started,
)
from pipelines.core.rollout.fold import fold, step
from pipelines.core.rollout.policy import REGISTERED, SERVED, Policy
from pipelines.core.rollout.sides import (
    RegistrySide,
    Sides,
    cannot_tell,
    disagreement,
    evidence_of,
    not_yet,
    still_served,
)
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence, Verdict
from tests.support.rollouts import MODEL, START, good, harmful, manifest

MINUTE = timedelta(minutes=1)

VERSIONS = st.sampled_from(["1", "2", "3", "", None])

ALIASES = st.sampled_from(["1", "2", "3", None])

GONE = "is not in the registry any more"

SIDES = st.builds(
    lambda served, champion, gone: Sides(
        served=served, registered=RegistrySide(champion=champion, withdrawn=dict.fromkeys(gone, GONE))
    ),
    VERSIONS,
    ALIASES,
    st.sets(st.sampled_from(["1", "2", "3"])),
)


def stepping(champion: str | None = "1", despite: str = "") -> RolloutState:
    """Version 2 at 10 %, or before its promotion where it is the first version; all of its evidence passes."""
    events: list[Event] = [
        Started(
            rollout_id="r", seq=1, at=START, by="test", model=MODEL, version="2", champion=champion, despite=despite,
            artefact=Artefact(uri="", digest=""), salt="r", policy=Policy.of(manifest(steps=[10, 100])), manifest_digest="",
        )
    ]  # fmt: skip
    actions = (Action.DEPLOY,) if champion is None else (Action.DEPLOY, Action.SET_PERCENT)
    for action in actions:
        seq, percent = len(events) + 1, 10.0 if action is Action.SET_PERCENT else None
        index = None if percent is None else 0
        events.append(
            Intent(
                rollout_id="r",
                seq=seq,
                at=START,
                by="t",
                action_id=f"{seq}",
                action=action,
                percent=percent,
                step=index,
            )
        )
        events.append(Done(rollout_id="r", seq=seq + 1, at=START, by="t", action_id=f"{seq}"))
    return fold(events)


def decided(state: RolloutState, *found: Evidence):
    now = START + MINUTE
    return decide(state, (*good(now), *found), now)


@given(SIDES, st.sampled_from([None, "1"]))
def test_nothing_advances_unless_what_is_served_is_what_it_started_against_and_what_the_registry_says(
    sides: Sides, champion: str | None
) -> None:
    decision = decided(stepping(champion), *evidence_of(stepping(champion), sides, START + MINUTE))
    gone = [v for v in ("2", champion) if v in sides.registered.withdrawn]
    back_in_service = sides.served is None and sides.registered.champion == "2"
    agree = sides.served == champion and (sides.registered.champion == champion or back_in_service)
    if gone:
        assert (decision.kind, decision.rule, decision.end) == (
            DecisionKind.ROLL_BACK,
            "vanished",
            End.ABORTED,
        )
        assert f"version {gone[0]}" in decision.reason
    elif agree:
        assert (decision.kind, decision.rule) == (
            DecisionKind.PROMOTE,
            "first_version" if champion is None else "passed",
        )
    else:
        assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "disagreement")


@given(SIDES)
def test_harm_is_rolled_back_whatever_both_sides_say(sides: Sides) -> None:
    state, now = stepping(), START + MINUTE
    found = evidence_of(state, sides, now)
    assert decide(state, (*harmful(now), *found), now).kind is DecisionKind.ROLL_BACK


@given(SIDES)
def test_a_start_that_is_put_off_names_both_facts(sides: Sides) -> None:
    words = not_yet(sides, "2")
    has = sides.registered.champion
    if "2" in sides.registered.withdrawn:
        assert words == f"version 2 {GONE}"
    elif sides.served == has or (sides.served is None and has == "2"):
        assert words == ""
    else:
        assert words.startswith(disagreement(sides, "2"))
        served = "nothing is served" if sides.served is None else f"version {sides.served} is served"
        assert served in words or (sides.served == "" and "does not say which version" in words)
        assert (
            "no version has the alias" if has is None else f"version {has} has the alias `champion`"
        ) in words
        assert words.count(";") >= 1, "and what to do about it"


@pytest.mark.parametrize("alias", ["Champion", "champions", "champoin"])
def test_an_alias_that_looks_like_the_champions_is_named(alias: str) -> None:
    registered = RegistrySide(champion=None, aliases=(alias,))
    assert f"(it has `{alias}`)" in not_yet(Sides(served="1", registered=registered), "2")


def test_a_served_version_that_was_deleted_is_said_with_the_way_out() -> None:
    words = not_yet(Sides(served="1", registered=RegistrySide(champion=None, withdrawn={"1": GONE})), "2")
    assert f"version 1 {GONE}; it goes on serving, and cannot be started again" in words
    assert "`against: 1`" in words


@pytest.mark.parametrize("served", ["1", "3", None])
def test_a_registry_that_cannot_be_asked_stops_nothing_while_the_other_side_is_served(
    served: str | None,
) -> None:
    decision = decided(stepping(), still_served(stepping(), served, START + MINUTE))
    assert decision.kind is (DecisionKind.PROMOTE if served == "1" else DecisionKind.HOLD)


def test_a_serving_side_that_cannot_be_asked_is_neither_good_nor_bad() -> None:
    for champion in ("1", None):
        decision = decided(stepping(champion), cannot_tell("no answer", START + MINUTE))
        assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "cannot_tell")


@given(SIDES)
def test_a_forced_promotion_stays_possible_and_says_the_disagreement(sides: Sides) -> None:
    state, now = stepping(), START + MINUTE
    order = Command(
        rollout_id="r",
        seq=state.seq + 1,
        at=now,
        by="ada",
        order=Order.FORCE_PROMOTE,
        reason="I looked at it",
    )
    state = step(state, order)
    found = evidence_of(state, sides, now)
    decision = decide(state, found, now)
    if "2" in sides.registered.withdrawn:
        assert decision.rule == "vanished", "there is nothing to register"
        return
    assert (decision.kind, decision.rule) == (DecisionKind.PROMOTE, "forced")
    failing = [item.reason for item in found if item.verdict is Verdict.FAIL]
    assert all(reason in decision.reason for reason in failing)
    assert bool(failing) == ("although" in decision.reason)


def test_a_person_who_started_against_what_is_served_is_not_asked_again() -> None:
    state = stepping(despite="version 1 is served, but no version has the alias `champion`")
    gone = Sides(served="1", registered=RegistrySide(champion=None, withdrawn={"1": GONE}))
    assert decided(state, *evidence_of(state, gone, START + MINUTE)).kind is DecisionKind.PROMOTE
    moved = Sides(served="3", registered=RegistrySide(champion="3"))
    assert decided(state, *evidence_of(state, moved, START + MINUTE)).rule == "disagreement"


def test_a_disagreement_that_lasts_ends_with_the_maximum_duration() -> None:
    state = stepping()
    now = START + state.policy.max_duration + MINUTE
    found = evidence_of(state, Sides(served="3", registered=RegistrySide(champion="1")), now)
    decision = decide(state, (*good(now), *found), now)
    assert (decision.kind, decision.rule) == (DecisionKind.ROLL_BACK, "inconclusive")
    assert "version 3 is served, but the rollout was started against version 1" in decision.reason


@pytest.mark.parametrize(("name", "verdict"), [*product((SERVED, REGISTERED), Verdict)])
def test_each_verdict_about_both_sides_decides_one_thing(name: str, verdict: Verdict) -> None:
    item = Evidence(name=name, source="registry", verdict=verdict, reason="because", at=START + MINUTE)
    expected = {
        (SERVED, Verdict.PASS): "passed",
        (SERVED, Verdict.FAIL): "disagreement",
        (SERVED, Verdict.UNKNOWN): "cannot_tell",
        (REGISTERED, Verdict.PASS): "passed",
        (REGISTERED, Verdict.FAIL): "vanished",
        (REGISTERED, Verdict.UNKNOWN): "passed",
    }
    assert decided(stepping(), item).rule == expected[name, verdict]


def test_an_end_that_the_registry_cannot_take_is_alerted() -> None:
    state = stepping()
    event = Done(
        rollout_id="r", seq=9, at=START, by="t", action_id="x", message="it is gone", unregistered=True
    )
    (alert,) = alerts_of(state, event)
    assert (alert.severity, alert.body) == ("warning", "it is gone")
    assert alert.title.endswith("the end could not be written into the registry")


@pytest.mark.parametrize("name", [SERVED, REGISTERED])
def test_no_metric_of_a_manifest_is_taken_for_an_answer_about_both_sides(name: str) -> None:
    with pytest.raises(ValidationError):
        manifest(
            guardrails=[{"name": name, "type": "proportion", "source": "serving.errors", "margin": "1pp"}]
        )
