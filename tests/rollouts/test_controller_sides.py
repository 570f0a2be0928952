"""Registry and serving side disagree, or a version vanishes, at any point of a rollout."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines.core.errors import CommandRefused, RegistryError, ServingError
from pipelines.core.rollout.events import DecisionKind, End, Order
from pipelines.core.rollout.state import Phase
from tests.support import by_hand
from tests.support.by_hand import change_by_hand, check_end_among_hands
from tests.support.faults import Fault, FaultyRig
from tests.support.memory_backend import World
from tests.support.rollouts import MODEL, Rig, artefact, good, harmful, manifest, replay

DISAGREEMENTS = (by_hand.alias_deleted, by_hand.alias_recreated, by_hand.alias_moved, by_hand.stable_replaced)

DELETIONS = (by_hand.challenger_deleted, by_hand.champion_deleted)

Change = Callable[[World], None]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def at_ten_percent(rig: Rig, **changes: object) -> str:
    rollout = rig.start(**changes)
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 10
    rig.clock.tick()
    return rollout


@pytest.mark.parametrize("change", DISAGREEMENTS)
@pytest.mark.parametrize("steps", [[10, 50, 100], [10, 100]])
def test_a_disagreement_during_a_rollout_holds_names_both_facts_and_alerts_once(
    rig: Rig, change: Change, steps: list[float]
) -> None:
    rollout = at_ten_percent(rig, steps=steps)
    change(rig.world)
    controller = rig.controller()
    assert controller.assess(rollout).rule == "disagreement", "noticed while it still waits for evidence"
    for _ in range(4):
        rig.clock.tick()
        assert controller.drive(rollout, good(rig.clock.now)).rule == "disagreement"
        assert controller.assess(rollout, good(rig.clock.now)).rule == "disagreement"
    assert rig.share() == 10
    (alert,) = [a for a in rig.ledger.outbox.all() if a.title.endswith("holding: disagreement")]
    assert "is served, but" in alert.body
    replay(rig.ledger.events(rollout))
    rig.world.replace_stable(MODEL, "1")
    by_hand.alias_mended(rig.world)
    for _ in range(3):
        rig.clock.tick()
        controller.drive(rollout, good(rig.clock.now))
    assert controller.state(rollout).end is End.PROMOTED, "it goes on by itself once they agree"


@pytest.mark.parametrize("change", [*DISAGREEMENTS, *DELETIONS])
def test_harm_is_taken_back_whatever_the_registry_says(rig: Rig, change: Change) -> None:
    rollout = at_ten_percent(rig)
    change(rig.world)
    controller = rig.controller()
    decision = controller.roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert (decision.kind, rig.share()) == (DecisionKind.ROLL_BACK, 0)
    controller.drive(rollout)
    assert controller.state(rollout).end is not None


@pytest.mark.parametrize("change", DELETIONS)
@pytest.mark.parametrize("reached", ["opened", "validating", "10 %"])
def test_a_deleted_version_ends_the_rollout_says_why_and_lets_the_next_one_start(
    rig: Rig, change: Change, reached: str
) -> None:
    rollout = at_ten_percent(rig) if reached == "10 %" else rig.start()
    if reached == "validating":
        rig.controller().drive(rollout)
    change(rig.world)
    rig.clock.tick()
    controller = rig.controller()
    assert controller.assess(rollout).rule == "vanished", "the sensor notices, without a run"
    controller.drive(rollout, good(rig.clock.now))
    state = controller.state(rollout)
    gone = "2" if change is by_hand.challenger_deleted else "1"
    assert (state.end, state.ending) == (End.ABORTED, None)
    assert f"version {gone}" in state.end_reason
    assert "is not in the registry any more" in state.end_reason
    assert (rig.share(), rig.share("1"), rig.world.of(MODEL).canary) == (0, 100, None)
    replay(rig.ledger.events(rollout))
    following = controller.start(manifest(), "4", "1", artefact("4"), despite="a person said so")
    controller.drive(following, good(rig.clock.now))
    assert rig.share("4") == 10


@pytest.mark.parametrize("at", range(1, 40))
@pytest.mark.parametrize("what", ["challenger_deleted", "alias_deleted", "stable_replaced"])
def test_whatever_is_changed_at_any_call_of_a_promotion_it_ends_in_one_place(
    tmp_path: Path, what: str, at: int
) -> None:
    """Deleted before the promotion: taken back. After it: served, and its end can no longer be registered."""
    rig = FaultyRig(tmp_path)
    rig.world.serving(MODEL, "1")
    rollout = rig.controller().start(manifest(steps=[10, 100]), "2", "1", artefact("2"))
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    hand = Fault("by_hand", at, partial(change_by_hand, rig.world, what))
    rig.do(lambda driver: driver.drive(rollout, good(rig.clock.now)), hand)
    rig.clock.tick()
    if rig.controller().state(rollout).phase is not Phase.ENDED:
        assert rig.controller().drive(rollout, good(rig.clock.now)).rule in ("disagreement", "vanished")
        assert rig.world.share(MODEL, "2") < 100
        with contextlib.suppress(CommandRefused):
            rig.controller().command(rollout, Order.ABORT, by="ada", reason="enough")
        rig.controller().drive(rollout)
    check_end_among_hands(rig, rollout)


def test_an_end_of_a_deleted_version_is_written_in_the_ledger_and_alerted_and_not_tried_for_ever(
    rig: Rig,
) -> None:
    rollout = at_ten_percent(rig)
    controller = rig.controller()
    controller.roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    rig.world.delete(MODEL, "2")
    controller.drive(rollout)
    state = controller.state(rollout)
    assert (state.end, state.end_reason) == (End.ROLLED_BACK, "errors: errors is fail")
    (alert,) = [a for a in rig.ledger.outbox.all() if "could not be written into the registry" in a.title]
    assert "Model Version (name=flight-delay, version=2) not found" in alert.body


def test_the_first_version_is_not_promoted_over_a_version_that_became_stable_meanwhile(rig: Rig) -> None:
    rollout = rig.start(version="2", champion=None)
    controller = rig.controller()
    controller.drive(rollout)
    rig.world.replace_stable(MODEL, "1")
    rig.clock.tick()
    decision = controller.drive(rollout, good(rig.clock.now))
    assert decision.rule == "disagreement"
    assert "version 1 is served, but the rollout was started with nothing served" in decision.reason
    assert rig.share("1") == 100


def test_a_champion_that_is_not_served_any_more_can_be_served_again(rig: Rig) -> None:
    rig.world.aliases[MODEL, "champion"] = "1"
    rollout = rig.controller().start(manifest(), "1", None, artefact("1"))
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.controller().state(rollout).end is End.PROMOTED


@pytest.mark.parametrize("change", DISAGREEMENTS)
def test_a_forced_promotion_goes_past_a_disagreement_and_says_it(rig: Rig, change: Change) -> None:
    rollout = at_ten_percent(rig)
    change(rig.world)
    controller = rig.controller()
    controller.assess(rollout)
    controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="I looked at it")
    controller.drive(rollout)
    state = controller.state(rollout)
    assert state.end is End.PROMOTED
    assert "forced by ada: I looked at it; although" in state.end_reason
    assert "is served, but" in state.end_reason
    assert rig.world.aliases[MODEL, "champion"] == "2", "the registry says what is served again"


def test_a_registry_that_is_away_does_not_stop_an_open_rollout(rig: Rig) -> None:
    rollout = at_ten_percent(rig)

    def away(name: str) -> None:
        if "alias" in name or "version" in name:
            raise RegistryError("connection refused")

    rig.controller(hook=away).drive(rollout, good(rig.clock.now))
    assert rig.share() == 50


def test_what_the_registry_said_last_stays_in_the_way_while_it_is_away(rig: Rig) -> None:
    rollout = at_ten_percent(rig)
    by_hand.alias_moved(rig.world)
    rig.controller().assess(rollout)

    def away(name: str) -> None:
        if "alias" in name or "version" in name:
            raise RegistryError("connection refused")

    rig.clock.tick()
    assert rig.controller(hook=away).drive(rollout, good(rig.clock.now)).rule == "disagreement"


def test_a_serving_side_that_cannot_be_asked_holds_and_goes_on_by_itself(rig: Rig) -> None:
    rollout = at_ten_percent(rig)

    def silent(name: str) -> None:
        if name == "before status":
            raise ServingError("no answer")

    decision = rig.controller(hook=silent).drive(rollout, good(rig.clock.now))
    assert (decision.rule, decision.reason) == ("cannot_tell", "cannot tell what is served: no answer")
    rig.clock.tick()
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 50


def test_a_version_deleted_before_it_could_be_tagged_as_refused_is_refused_all_the_same(rig: Rig) -> None:
    rig.world.delete(MODEL, "2")
    identity = rig.controller().refuse(MODEL, "2", "no signature")
    assert rig.controller().state(identity).end is End.REFUSED


def test_while_a_rollout_waits_both_sides_are_not_asked_at_every_tick(rig: Rig) -> None:
    rollout = at_ten_percent(rig)
    asked: list[str] = []
    controller = rig.controller(hook=asked.append)
    for _ in range(20):
        controller.assess(rollout)
    assert asked.count("before version_with_alias") == 1


@pytest.mark.parametrize("bake", ["0s", "24h"])
def test_a_person_promotes_over_a_version_that_was_put_there_by_hand_and_goes_back_to_that_one(
    rig: Rig, bake: str
) -> None:
    rollout = at_ten_percent(rig, bake=bake)
    by_hand.stable_replaced(rig.world)
    controller = rig.controller()
    controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    controller.drive(rollout)
    assert controller.state(rollout).champion == "3", "the ledger knows whose place it took"
    assert rig.world.aliases[MODEL, "champion"] == "2"
    if bake == "0s":
        return
    rig.clock.tick()
    assert controller.assess(rollout, good(rig.clock.now)).rule == "baking", "nobody disagrees"
    controller.drive(rollout, harmful(rig.clock.now))
    stable = rig.world.of(MODEL).stable
    assert stable is not None
    assert (controller.state(rollout).end, stable.version) == (End.ROLLED_BACK, "3")
    assert rig.world.aliases[MODEL, "champion"] == "3"
    replay(rig.ledger.events(rollout))


def test_a_bake_that_ends_badly_names_the_version_that_was_put_there_by_hand_the_champion(rig: Rig) -> None:
    rollout = at_ten_percent(rig, bake="24h")
    controller = rig.controller()
    controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    controller.drive(rollout)
    by_hand.stable_replaced(rig.world)
    rig.clock.tick()
    controller.drive(rollout, harmful(rig.clock.now))
    assert controller.state(rollout).end is End.ROLLED_BACK
    assert rig.world.aliases[MODEL, "champion"] == "3"


def test_a_persons_promotion_takes_no_other_place_than_the_one_that_was_seen(rig: Rig) -> None:
    """The stable version is replaced between the order's intent and its call: it is ordered anew."""
    rollout = at_ten_percent(rig)
    rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")

    def replaced(name: str) -> None:
        if name == "before promote":
            by_hand.stable_replaced(rig.world)

    rig.controller(hook=replaced).drive(rollout)
    stable, state = rig.world.of(MODEL).stable, rig.controller().state(rollout)
    assert stable is not None
    assert (stable.version, state.phase, state.forced) == ("3", Phase.STEPPING, None)
