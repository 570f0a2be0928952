"""What a lapse and a bake do with everything else that may happen to a rollout meanwhile."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import ServingError
from pipelines.core.rollout.events import End, Order
from pipelines.core.rollout.policy import CHAMPION_HEALTH, WATCHED, Policy
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.rollouts.controller import Controller
from tests.support.memory_backend import MemoryBackend, MemoryRegistry
from tests.support.rollouts import MINUTE, MODEL, Rig, artefact, evidence, good, harmful, manifest, replay

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def stepping(rig: Rig, **changes: Any) -> str:
    rollout = rig.start(**changes)
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 10
    return rollout


def baking(rig: Rig, **changes: Any) -> str:
    rollout = rig.start(bake="24h", **changes)
    while rig.controller().state(rollout).phase is not Phase.BAKING:
        rig.controller().drive(rollout, good(rig.clock.now))
        rig.clock.tick()
    return rollout


def lapse(rig: Rig, rollout: str) -> None:
    """The share is taken away, and whoever watches again writes that down."""
    found = rig.world.lapse(MODEL)
    assert found is not None
    found = replace(found, at=rig.clock.now)
    rig.world.status[MODEL] = replace(rig.world.of(MODEL), lapse=found)
    rig.clock.tick(SECOND)
    rig.controller().lapsed(rollout, found)
    rig.clock.tick(SECOND)


def watched(rig: Rig) -> Evidence:
    return evidence(WATCHED, Verdict.PASS, rig.clock.now, source="serving")


@pytest.mark.parametrize(("bake", "phase", "share"), [("0s", Phase.ENDED, 100), ("24h", Phase.BAKING, 98)])
def test_a_lapsed_share_is_promoted_by_a_persons_order(rig: Rig, bake: str, phase: Phase, share: int) -> None:
    rollout = stepping(rig, bake=bake)
    lapse(rig, rollout)
    rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    rig.controller().drive(rollout)
    state = rig.controller().state(rollout)
    assert (state.phase, rig.share()) == (phase, share), state.trouble


def test_each_lapse_is_judged_anew(rig: Rig) -> None:
    rollout = stepping(rig)
    lapse(rig, rollout)
    first = watched(rig)
    rig.controller().drive(rollout, (*good(rig.clock.now), first))
    assert rig.share() == 10
    lapse(rig, rollout)
    assert rig.controller().drive(rollout, (*good(rig.clock.now), first)).rule == "lapsed"
    rig.controller().drive(rollout, (*good(rig.clock.now), watched(rig)))
    assert rig.share() == 10
    assert replay(rig.ledger.events(rollout))


def test_a_step_that_was_decided_before_a_lapse_is_given_up(rig: Rig) -> None:
    """Whoever was about to take it has died, and with him whoever watched."""
    rollout = stepping(rig)
    rig.clock.tick()

    def dies(call: str) -> None:
        if call == "before set_canary_percent":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.controller(dies).drive(rollout, good(rig.clock.now))
    lapse(rig, rollout)
    assert rig.controller().drive(rollout).rule == "lapsed"
    assert rig.share() == 0, "nobody has judged the gap"
    rig.controller().drive(rollout, [watched(rig)])
    assert rig.share() == 10


def test_the_period_of_an_ab_test_goes_on_over_a_lapse(rig: Rig) -> None:
    days = timedelta(days=1)
    test = manifest(ab_test={"share": 50, "duration": "7d", "then": "keep"})
    rig.world.serving(MODEL, "1")
    rollout = rig.controller().start(test, "2", "1", artefact("2"), policy=Policy.of_test(test))
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick(6 * days)
    lapse(rig, rollout)
    rig.controller().drive(rollout, (*good(rig.clock.now), watched(rig)))
    assert rig.share() == 50
    rig.clock.tick(1 * days)
    assert rig.controller().drive(rollout, good(rig.clock.now)).rule == "test_over"


def test_a_previous_champion_that_is_deleted_takes_no_promoted_version_back(rig: Rig) -> None:
    rollout = baking(rig)
    rig.world.delete(MODEL, "1")
    rig.controller().drive(rollout, good(rig.clock.now))
    assert (rig.controller().state(rollout).phase, rig.share()) == (Phase.BAKING, 98)
    rig.clock.tick(25 * HOUR)
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.controller().state(rollout).end is End.PROMOTED


def test_nor_does_a_champion_that_was_deleted_before_a_person_promoted(rig: Rig) -> None:
    rollout = stepping(rig, bake="24h")
    rig.world.delete(MODEL, "1")
    rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    for _ in range(2):
        rig.controller().drive(rollout, good(rig.clock.now))
    assert (rig.controller().state(rollout).phase, rig.share()) == (Phase.BAKING, 98)


@pytest.mark.parametrize("alias", ["1", "3", None])
def test_a_bake_waits_for_registry_and_serving_side_to_agree(rig: Rig, alias: str | None) -> None:
    rollout = baking(rig)
    rig.controller().drive(rollout, good(rig.clock.now))
    del rig.world.aliases[MODEL, "champion"]
    if alias is not None:
        rig.world.aliases[MODEL, "champion"] = alias
    rig.clock.tick(36 * HOUR)
    assert rig.controller().drive(rollout, good(rig.clock.now)).rule == "bake_in_doubt"
    rig.world.aliases[MODEL, "champion"] = "2"
    rig.clock.tick()
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.controller().state(rollout).end is End.PROMOTED


def test_the_bake_of_a_version_that_was_forced_over_another_one_ends_by_itself(rig: Rig) -> None:
    """The rollout was started against version 1; from the order on, its other side is the one whose place it took."""
    rollout = stepping(rig, bake="24h")
    rig.world.replace_stable(MODEL, "9")
    rig.clock.tick()
    rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    rig.controller().drive(rollout)
    rig.clock.tick(36 * HOUR)
    assert rig.controller().drive(rollout, good(rig.clock.now)).rule == "baked"
    assert rig.controller().state(rollout).end is End.PROMOTED


def test_a_bake_does_not_end_while_nobody_can_say_what_is_served(rig: Rig) -> None:
    rollout = baking(rig)
    rig.clock.tick(36 * HOUR)

    def away(call: str) -> None:
        if call == "before status":
            raise ServingError("no answer")

    blind = Controller(
        rig.ledger,
        MemoryBackend(rig.world, away),
        MemoryRegistry(rig.world),
        home=rig.folder,
        clock=rig.clock,
    )
    assert blind.drive(rollout, good(rig.clock.now)).rule == "bake_in_doubt"
    rig.clock.tick()
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.controller().state(rollout).end is End.PROMOTED


def test_a_previous_champion_that_is_unhealthy_ends_with_its_bake(rig: Rig) -> None:
    """Of harm and an unhealthy champion nobody but a person makes a decision."""
    rollout = baking(rig)

    def drive(*more: Evidence) -> str:
        health = evidence(CHAMPION_HEALTH, Verdict.FAIL, rig.clock.now, on_fail=OnFail.HOLD)
        return rig.controller().drive(rollout, (*good(rig.clock.now), health, *more)).rule

    for passed, expected in [(HOUR, "champion_unhealthy"), (23 * HOUR, "champion_unhealthy")]:
        rig.clock.tick(passed)
        assert drive() == expected
    rig.clock.tick(HOUR)
    assert drive(*harmful(rig.clock.now)) == "champion_unhealthy"
    rig.clock.tick(SECOND)
    assert drive() == "baked"
    assert "although champion_health is fail" in rig.controller().state(rollout).end_reason


def test_a_bake_may_be_longer_than_the_rollout(rig: Rig) -> None:
    primary = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"}
    rollout = baking(rig, experiment={"primary": primary, "max_duration": "1h"})
    rig.clock.tick(5 * HOUR)
    pending = evidence("cost", Verdict.UNKNOWN, rig.clock.now)
    assert rig.controller().drive(rollout, [pending]).rule == "baking"


@pytest.mark.parametrize(("bake", "given"), [("24h", 98), (None, 10)])
def test_a_share_that_is_given_again_after_a_shadow_is_not_taken_away_in_between(
    rig: Rig, bake: str | None, given: int
) -> None:
    """The ledger could not be told that it was given, and still knows of the mirror alone."""
    rollout = rig.start(steps=["shadow", 10, 100], bake=bake or "0s")
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.world.of(MODEL).mirror
    rig.clock.tick()
    agreed = evidence("agreement", Verdict.PASS, rig.clock.now)
    if bake:
        rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")

    def given_and_away(name: str) -> None:
        if name == "after set_canary_percent":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rig.controller(hook=given_and_away).drive(rollout, (*good(rig.clock.now), agreed))
    before = len(rig.world.effects)
    assert rig.share() == given
    assert not rig.world.of(MODEL).mirror
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == given
    assert rig.world.effects[before:] == []


def set_back(rig: Rig) -> None:
    rig.clock.tick(-2 * HOUR)


def minutes_until(rig: Rig, rollout: str, phase: Phase, *, most: int) -> int:
    """Driven every minute, on good evidence."""
    for minute in range(most):
        if rig.controller().state(rollout).phase is phase:
            return minute
        rig.clock.tick()
        rig.controller().drive(rollout, good(rig.clock.now))
    raise AssertionError(rig.controller().state(rollout).last)


def test_a_clock_that_is_set_back_within_a_step_delays_it_by_a_step_at_most(rig: Rig) -> None:
    """Evidence of the time that is to come again keeps nobody waiting for it, and is unknown for nobody."""
    rollout = stepping(rig, steps=[10, 100], step={"min_duration": "30m", "min_units": 0}, max_unknown="1h")
    rig.clock.tick(20 * MINUTE)
    rig.controller().drive(rollout, good(rig.clock.now))
    set_back(rig)
    minutes_until(rig, rollout, Phase.ENDED, most=33)
    assert rig.controller().state(rollout).end is End.PROMOTED
    assert [a.severity for a in rig.ledger.outbox.all() if "clock was set back" in a.title] == ["warning"]
    replay(rig.ledger.events(rollout))


def test_a_clock_that_is_set_back_within_a_bake_neither_ends_it_nor_keeps_harm_from_ending_it(
    rig: Rig,
) -> None:
    rollout = baking(rig)
    rig.clock.tick(HOUR)
    rig.controller().drive(rollout, good(rig.clock.now))
    set_back(rig)
    assert rig.controller().drive(rollout, good(rig.clock.now)).rule == "baking"
    rig.clock.tick()
    rig.controller().drive(rollout, harmful(rig.clock.now))
    assert rig.controller().state(rollout).end is End.ROLLED_BACK


def test_a_share_that_lapses_after_the_clock_was_set_back_is_noted_and_comes_back(rig: Rig) -> None:
    rollout = stepping(rig)
    set_back(rig)
    lapse(rig, rollout)
    assert rig.controller().state(rollout).percent == 0
    assert rig.controller().drive(rollout, good(rig.clock.now)).rule == "lapsed"
    rig.controller().drive(rollout, (*good(rig.clock.now), watched(rig)))
    assert rig.share() == 10


def test_a_lapse_is_judged_again_after_the_clock_was_set_back(rig: Rig) -> None:
    rollout = stepping(rig)
    lapse(rig, rollout)
    set_back(rig)
    rig.controller().assess(rollout)
    rig.clock.tick(SECOND)
    rig.controller().drive(rollout, (*good(rig.clock.now), watched(rig)))
    assert rig.share() == 10


def test_a_rollout_that_is_started_after_the_clock_was_set_back_is_the_latest(rig: Rig) -> None:
    """Whose turn it is, and what an undo goes back to, follow from the order of the rollouts."""
    rollout = stepping(rig)
    rig.controller().command(rollout, Order.ABORT, by="ada", reason="because")
    rig.controller().drive(rollout)
    set_back(rig)
    later = rig.start(version="4")
    assert [row.rollout_id for row in rig.ledger.rollouts(MODEL)] == [rollout, later]
    rig.clock.tick(SECOND)
    rig.controller().drive(later, good(rig.clock.now))
    assert rig.share("4") == 10
