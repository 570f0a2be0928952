"""The paths of a rollout, through the controller."""

from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.core.errors import CommandRefused, ManifestError, ServingError, VersionFailed, VersionRefused
from pipelines.core.rollout.events import DecisionKind, End, Order
from pipelines.core.vocabulary import OnUnknown, Verdict
from tests.support.memory_backend import MemoryBackend
from tests.support.rollouts import (
    MINUTE,
    MODEL,
    Rig,
    artefact,
    evidence,
    good,
    harmful,
    manifest,
    replay,
    until,
)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_a_good_version_is_promoted_step_by_step(rig: Rig) -> None:
    rollout = rig.start()
    state = until(rig.controller(), rollout, rig.clock, good)
    assert state.end is End.PROMOTED
    assert [weight.percent for weight in state.weights] == [10, 50, 100]
    assert rig.world.aliases == {(MODEL, "champion"): "2"}
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == "promoted"
    assert rig.world.tags[MODEL, "2", "rampgate.rollout"] == rollout
    assert replay(rig.ledger.events(rollout)) == 5, "three moves, and the wait between them"


def test_the_first_version_is_promoted_after_validation_alone(rig: Rig) -> None:
    rollout = rig.start(version="1", champion=None)
    controller = rig.controller()
    assert controller.drive(rollout).rule == "pending"
    assert rig.world.of(MODEL).stable is None
    controller.drive(rollout, [evidence("validation", Verdict.PASS, rig.clock.now)])
    assert controller.state(rollout).end is End.PROMOTED
    assert rig.share("1") == 100


def test_a_version_that_fails_validation_gets_no_traffic(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, [evidence("validation", Verdict.FAIL, rig.clock.now)])
    assert controller.state(rollout).end is End.REFUSED
    assert not any(effect.percent for effect in rig.world.effects)
    assert rig.world.of(MODEL).canary is None
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == "refused"


def test_a_harmful_version_is_rolled_back_and_the_record_says_why(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    assert rig.share() == 10
    rig.clock.tick()
    controller.drive(rollout, harmful(rig.clock.now))
    state = controller.state(rollout)
    assert (state.end, state.end_reason) == (End.ROLLED_BACK, "errors: errors is fail")
    assert rig.share() == 0
    assert rig.share("1") == 100
    assert rig.world.aliases[MODEL, "champion"] == "1"
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == "rolled_back"
    replay(rig.ledger.events(rollout))


def test_roll_back_now_takes_the_traffic_and_leaves_the_rest_to_drive(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    decision = controller.roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert decision.kind is DecisionKind.ROLL_BACK
    assert rig.share() == 0
    assert rig.world.of(MODEL).canary is not None
    assert controller.owes(rollout)
    controller.drive(rollout)
    assert controller.state(rollout).end is End.ROLLED_BACK
    assert rig.world.of(MODEL).canary is None
    replay(rig.ledger.events(rollout))


def test_nothing_rolls_back_into_an_unhealthy_champion_but_a_person(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    sick = evidence("champion_health", Verdict.FAIL, rig.clock.now, source="serving")
    held = controller.roll_back_now(rollout, "guardrail", (*harmful(rig.clock.now), sick))
    assert (held.kind, held.rule, held.severity) == (DecisionKind.HOLD, "champion_unhealthy", "critical")
    assert controller.drive(rollout, (*harmful(rig.clock.now), sick)).rule == "champion_unhealthy"
    assert rig.share() == 10
    controller.command(rollout, Order.ROLL_BACK_NOW, by="ada", reason="the canary is worse")
    assert rig.share() == 0
    replay(rig.ledger.events(rollout))


def test_abort_ends_a_rollout(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    controller.command(rollout, Order.ABORT, by="ada", reason="wrong version")
    controller.drive(rollout)
    assert controller.state(rollout).end is End.ABORTED
    assert rig.share() == 0


def test_force_promote_goes_past_evidence_and_freeze(rig: Rig) -> None:
    frozen = [{"cron": "* * * * *", "duration": "1d"}]
    rollout = rig.start(freeze=frozen, approval="every_step")
    controller = rig.controller()
    assert controller.drive(rollout, good(rig.clock.now)).rule == "frozen"
    controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="the old one leaks data")
    controller.drive(rollout, harmful(rig.clock.now))
    state = controller.state(rollout)
    assert (state.end, state.end_reason) == (End.PROMOTED, "forced by ada: the old one leaks data")


def test_a_forced_promotion_is_tried_once_and_harm_counts_again_after_it(rig: Rig) -> None:
    def broken(name: str) -> None:
        if name == "before promote":
            raise ServingError("no node is free")

    rollout = rig.start()
    controller = rig.controller(hook=broken)
    controller.drive(rollout, good(rig.clock.now))
    controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="the old one leaks data")
    controller.drive(rollout)
    (told,) = [alert for alert in rig.ledger.outbox.all() if "failed" in alert.title]
    assert told.title.endswith("order it anew") and told.body == "no node is free"
    controller.drive(rollout, harmful(rig.clock.now))
    assert controller.state(rollout).end is End.ROLLED_BACK


def test_guardrails_roll_back_while_paused_awaiting_approval_or_frozen(rig: Rig) -> None:
    rollout = rig.start(approval="promote", freeze=[{"cron": "0 12 * * *", "duration": "1h"}])
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    controller.command(rollout, Order.PAUSE, by="ada", reason="looking")
    rig.clock.now = rig.clock.now.replace(hour=12, minute=5)
    assert controller.drive(rollout, good(rig.clock.now)).rule == "paused"
    controller.drive(rollout, harmful(rig.clock.now))
    assert controller.state(rollout).end is End.ROLLED_BACK


def test_a_step_waits_for_approval_and_each_step_needs_its_own(rig: Rig) -> None:
    rollout = rig.start(approval="every_step")
    controller = rig.controller()
    for share in (10, 50):
        rig.clock.tick()
        assert controller.drive(rollout, good(rig.clock.now)).rule == "approval"
        controller.command(rollout, Order.APPROVE, by="ada", reason="fine")
        controller.drive(rollout, good(rig.clock.now))
        assert rig.share() == share


def test_a_shadow_step_mirrors_until_the_first_percent(rig: Rig) -> None:
    rollout = rig.start(steps=["shadow", 10, 100])
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    assert rig.world.of(MODEL).mirror
    assert rig.share() == 0
    rig.clock.tick()
    assert controller.drive(rollout, good(rig.clock.now)).rule == "pending"
    agree = evidence("agreement", Verdict.PASS, rig.clock.now)
    controller.drive(rollout, (*good(rig.clock.now), agree))
    assert not rig.world.of(MODEL).mirror
    assert rig.share() == 10


def test_a_dry_run_decides_everything_and_changes_no_traffic(rig: Rig) -> None:
    rollout = rig.start(dry_run=True)
    state = until(rig.controller(), rollout, rig.clock, good)
    assert state.end is End.ABORTED
    assert "would have ended promoted" in state.end_reason
    assert {effect.percent for effect in rig.world.effects} == {0}
    assert rig.world.aliases[MODEL, "champion"] == "1"
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == "dry_run"


def test_one_open_rollout_a_model_and_the_same_version_is_started_once(rig: Rig) -> None:
    rollout = rig.start()
    assert rig.start() == rollout
    with pytest.raises(CommandRefused, match="version 2 is under way"):
        rig.start(version="3")
    controller = rig.controller()
    controller.command(rollout, Order.ABORT, by="ada", reason="again")
    controller.drive(rollout)
    again = rig.start()
    assert again != rollout
    assert controller.state(again).salt == again


def test_a_version_that_cannot_be_deployed_is_refused_after_its_timeout(rig: Rig) -> None:
    def broken(name: str) -> None:
        if name == "before deploy_canary":
            raise VersionFailed("did not become ready: out of memory")

    rollout = rig.start()
    controller = rig.controller(hook=broken)
    rules: list[str] = []
    for _ in range(4):
        rules.append(controller.drive(rollout).rule)
        rig.clock.tick()
    assert rules == ["starting", "starting", "starting", "cannot_start"]
    state = controller.state(rollout)
    assert state.end is End.REFUSED
    assert "out of memory" in rig.world.tags[MODEL, "2", "rampgate.reason"]


@pytest.mark.parametrize("on_unknown", OnUnknown)
def test_a_deployment_that_could_not_be_tried_is_not_the_versions_fault(
    rig: Rig, on_unknown: OnUnknown
) -> None:
    def away(name: str) -> None:
        if name == "before deploy_canary":
            raise ServingError("the artefact store does not answer")

    rollout = rig.start(max_unknown="1h", on_unknown=on_unknown)
    controller = rig.controller(hook=away)
    for _ in range(6):
        assert controller.drive(rollout).rule == "starting"
        rig.clock.tick(10 * MINUTE)
    if on_unknown is OnUnknown.ROLL_BACK:
        assert controller.drive(rollout).rule == "cannot_start"
        assert controller.state(rollout).end is End.REFUSED
        return
    rig.clock.tick(timedelta(hours=5))
    assert controller.drive(rollout).rule == "starting"
    rig.controller().drive(rollout)
    assert rig.controller().state(rollout).deployed


def test_a_version_that_is_unusable_is_refused_at_once(rig: Rig) -> None:
    def tampered(name: str) -> None:
        if name == "before deploy_canary":
            raise VersionRefused("digest is sha-9, expected sha-2")

    rollout = rig.start()
    assert rig.controller(hook=tampered).drive(rollout).rule == "cannot_start"
    assert rig.controller().state(rollout).end is End.REFUSED


def test_a_canary_that_a_dead_controller_left_behind_is_removed_first(rig: Rig) -> None:
    rollout = rig.start()
    MemoryBackend(rig.world).deploy_canary(MODEL, artefact("9"), percent=0, salt="x")
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 10


def test_a_version_refused_before_its_rollout_is_recorded_and_tagged(rig: Rig) -> None:
    running = rig.start()
    controller = rig.controller()
    refused = controller.refuse(MODEL, "3", "version 3 has no signature")
    assert controller.state(refused).end is End.REFUSED
    assert rig.world.tags[MODEL, "3", "rampgate.reason"] == "version 3 has no signature"
    assert controller.state(running).end is None
    assert [alert.severity for alert in rig.ledger.outbox.all() if alert.version == "3"] == ["warning"]


def test_what_the_serving_side_cannot_do_is_refused(rig: Rig) -> None:
    controller = rig.controller()
    controller._backend = MemoryBackend(rig.world, mirror=False)
    with pytest.raises(ManifestError, match="cannot mirror"):
        controller.start(manifest(steps=["shadow", 100]), "2", "1", artefact("2"))
    with pytest.raises(ManifestError, match=r"10\.001"):
        controller.start(manifest(steps=[10.001, 100]), "2", "1", artefact("2"))


@pytest.mark.parametrize(
    ("order", "message"),
    [(Order.RESUME, "not paused"), (Order.APPROVE, "no approval")],
)
def test_an_order_without_effect_is_refused(rig: Rig, order: Order, message: str) -> None:
    rollout = rig.start()
    with pytest.raises(CommandRefused, match=message):
        rig.controller().command(rollout, order, by="ada", reason="why not")


def test_an_order_needs_a_reason_and_an_open_rollout(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    with pytest.raises(CommandRefused, match="reason is empty"):
        controller.command(rollout, Order.PAUSE, by="ada", reason=" ")
    controller.command(rollout, Order.ABORT, by="ada", reason="done")
    controller.drive(rollout)
    with pytest.raises(CommandRefused, match="has ended"):
        controller.command(rollout, Order.PAUSE, by="ada", reason="late")


def test_unknown_holds_resumes_by_itself_and_ends_after_max_unknown(rig: Rig) -> None:
    rollout = rig.start(max_unknown="1h")
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    for expected in ("unknown", "pending"):
        rig.clock.tick(30 * MINUTE)
        verdict = Verdict.UNKNOWN
        items = [evidence("errors", verdict, rig.clock.now, pending=expected == "pending")]
        assert controller.drive(rollout, items).rule == expected
    rig.clock.tick()
    controller.drive(rollout, good(rig.clock.now))
    assert rig.share() == 50
    for _ in range(3):
        rig.clock.tick(30 * MINUTE)
        controller.drive(rollout, [evidence("errors", Verdict.UNKNOWN, rig.clock.now)])
    state = controller.state(rollout)
    assert state.end is End.ROLLED_BACK
    assert state.end_reason.startswith("unknown for 1h (allowed: 1h): errors")


def test_repeated_ticks_do_not_grow_the_ledger(rig: Rig) -> None:
    rollout = rig.start()
    controller = rig.controller()
    controller.drive(rollout, good(rig.clock.now))
    sizes: list[int] = []
    for _ in range(20):
        rig.clock.tick(timedelta(seconds=1))
        controller.assess(rollout, [evidence("errors", Verdict.UNKNOWN, rig.clock.now, pending=True)])
        sizes.append(len(rig.ledger.events(rollout)))
    assert sizes[-1] == sizes[0]
