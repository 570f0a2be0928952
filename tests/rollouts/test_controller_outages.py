"""When something is away: metrics, the ledger, a controller that hangs in the middle of a change."""

import contextlib
import random
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.core.errors import CorruptLedger, LedgerError, RegistryError, ServingError, StillInTraffic
from pipelines.core.rollout.events import Action, DecisionKind, End, Order
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.controller import Controller
from resources.ledger.ledger import Ledger
from tests.support.faults import Crash, Fault, FaultyRig
from tests.support.rollouts import MODEL, Rig, artefact, evidence, good, harmful, manifest

HOUR = timedelta(hours=1)


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.faults)])
def test_outages_of_metrics_cause_no_false_rollback_and_no_promotion(tmp_path: Path, count: int) -> None:
    """Outages from 1 s to 24 h; the canary is healthy, and `max_unknown` is 6 h."""
    draw = random.Random(4)
    for number in range(count):
        rig = FaultyRig(tmp_path / str(number))
        _outage(rig, timedelta(seconds=10 ** draw.uniform(0, 4.9365)))
        rig.ledger.close()


def _outage(rig: FaultyRig, length: timedelta) -> None:
    rig.world.serving(MODEL, "1")
    controller = rig.controller()
    wanted = manifest(max_unknown="6h", steps=[10, 100])
    rollout = controller.start(wanted, "2", "1", artefact("2"))
    controller.drive(rollout, good(rig.clock.now))
    tick = length / 5
    since = rig.clock.now + tick
    for _ in range(5):
        rig.clock.tick(tick)
        controller.drive(rollout, [evidence("errors", Verdict.UNKNOWN, rig.clock.now)])
        blind = rig.clock.now - since
        assert rig.world.share(MODEL, "2") == (10 if blind < 6 * HOUR else 0), f"{length} at {blind}"
    rig.clock.tick()
    controller.drive(rollout, good(rig.clock.now))
    end = controller.state(rollout).end
    assert end is (End.ROLLED_BACK if length * 4 / 5 >= 6 * HOUR else End.PROMOTED)


class Away:
    """A ledger file that can be taken away and brought back."""

    def __init__(self, rig: Rig) -> None:
        self.ledger = Ledger(f"sqlite:///{rig.folder / 'ledger.db'}")
        self.file, self.hidden = rig.folder / "ledger.db", rig.folder / "hidden.db"

    def take(self) -> None:
        self.ledger.close()
        with Ledger(f"sqlite:///{self.file}").database.reading() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        self.file.replace(self.hidden)
        self.file.mkdir()

    def bring_back(self) -> None:
        self.ledger.close()
        for extra in self.file.iterdir():
            extra.unlink()
        self.file.rmdir()
        self.hidden.replace(self.file)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_an_emergency_does_not_wait_for_the_ledger(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    away = Away(rig)
    away.take()
    rig.clock.tick()
    decision = rig.controller(ledger=away.ledger).roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert (decision.kind, decision.rule) == (DecisionKind.ROLL_BACK, "emergency")
    assert rig.share() == 0
    with pytest.raises(LedgerError):
        rig.controller(ledger=away.ledger).drive(rollout, good(rig.clock.now))
    assert rig.share() == 0
    away.bring_back()
    rig.clock.tick()
    survivor = rig.controller(ledger=away.ledger)
    assert survivor.assess(rollout, good(rig.clock.now)).kind is DecisionKind.ROLL_BACK
    survivor.drive(rollout, good(rig.clock.now))
    state = survivor.state(rollout)
    assert (state.end, state.end_reason) == (End.ROLLED_BACK, "errors: errors is fail")
    assert max(effect.percent for effect in rig.world.effects if effect.version == "2") == 10


def test_without_the_ledger_nothing_rolls_back_into_an_unhealthy_champion(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    away = Away(rig)
    away.take()
    sick = evidence("champion_health", Verdict.FAIL, rig.clock.now, source="serving")
    controller = rig.controller(ledger=away.ledger)
    held = controller.roll_back_now(rollout, "guardrail", (*harmful(rig.clock.now), sick))
    assert held.kind is DecisionKind.HOLD
    assert rig.share() == 10
    controller.command(rollout, Order.ROLL_BACK_NOW, by="ada", reason="I know")
    assert rig.share() == 0


def test_a_damaged_record_stops_the_rollout_with_an_alert_and_leaves_traffic(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    controller = rig.controller()
    with rig.ledger.database.writing("damage") as connection:
        connection.exec_driver_sql("UPDATE events SET body = '{}' WHERE seq = 3")
    for call in (controller.drive, controller.assess):
        with pytest.raises(CorruptLedger, match=f"{rollout} seq 3"):
            call(rollout, harmful(rig.clock.now))
    assert rig.share() == 10
    assert [alert.key for alert in rig.ledger.outbox.all()].count(f"{rollout}:corrupt") == 1


def test_a_rollback_waits_a_moment_for_an_advance_that_hangs_and_then_goes_first(tmp_path: Path) -> None:
    """The hanging controller's change comes too late, and the serving side refuses it."""
    rig = FaultyRig(tmp_path)
    rig.world.serving(MODEL, "1")
    controller = rig.controller()
    rollout = controller.start(manifest(), "2", "1", artefact("2"))
    controller.drive(rollout, good(rig.clock.now))
    rig.clock.tick()

    def harm(name: str) -> None:
        if name == "before set_canary_percent":
            decision = rig.controller().roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
            assert decision.kind is DecisionKind.ROLL_BACK
            assert rig.world.share(MODEL, "2") == 0

    hanging = Rig(tmp_path, rig.clock, rig.world).controller(hook=_once(harm), ledger=rig.ledger)
    hanging.drive(rollout, good(rig.clock.now))
    assert rig.world.share(MODEL, "2") == 0
    assert max(effect.percent for effect in rig.world.effects if effect.version == "2") == 10
    assert controller.state(rollout).end is End.ROLLED_BACK


def _once(hook):
    called: set[str] = set()

    def once(name: str) -> None:
        if name not in called:
            called.add(name)
            hook(name)

    return once


@pytest.mark.parametrize("at", range(1, 12))
def test_harm_found_while_a_promotion_is_under_way_turns_it_back_or_comes_too_late(
    tmp_path: Path, at: int
) -> None:
    rig = FaultyRig(tmp_path)
    rig.world.serving(MODEL, "1")
    controller = rig.controller()
    rollout = controller.start(manifest(steps=[10, 100]), "2", "1", artefact("2"))
    controller.drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    now = rig.clock.now

    def harm(other: Controller) -> object:
        return other.roll_back_now(rollout, "guardrail", harmful(now + timedelta(seconds=1)))

    rig.do(lambda driver: driver.drive(rollout, good(now)), Fault("meanwhile", at, harm))
    rig.clock.tick()
    rig.do(lambda driver: driver.drive(rollout))
    end = rig.check_end(rollout)
    shares = [effect.percent for effect in rig.world.effects if effect.version == "2"]
    assert shares in ([0, 10, 100], [0, 10, 0, 0], [0, 10, 0]), "what was taken away is not given back"
    assert end is (End.PROMOTED if shares[-1] == 100 else End.ROLLED_BACK)


def test_a_promotion_cut_short_by_a_crash_is_given_up_when_harm_has_come_to_light(tmp_path: Path) -> None:
    rig = FaultyRig(tmp_path)
    rig.world.serving(MODEL, "1")
    rollout = rig.controller().start(manifest(steps=[10, 100]), "2", "1", artefact("2"))
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    for at in range(1, 60):
        with contextlib.suppress(Crash):
            rig.do(lambda driver: driver.drive(rollout, good(rig.clock.now)), Fault("crash", at))
        if rig.controller().state(rollout).phase is Phase.PROMOTING:
            break
    rig.clock.tick()
    rig.do(lambda driver: driver.drive(rollout, harmful(rig.clock.now)))
    assert rig.check_end(rollout) is End.ROLLED_BACK


def test_a_registry_that_is_away_delays_the_end_and_not_the_rollback(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()

    def away(name: str) -> None:
        if name.endswith("tag"):
            raise RegistryError("connection refused")

    without = rig.controller(hook=away)
    without.drive(rollout, harmful(rig.clock.now))
    state = without.state(rollout)
    assert (rig.share(), state.end, state.phase) == (0, None, Phase.ROLLING_BACK)
    assert state.trouble is not None
    assert state.trouble.message == "connection refused"
    for _ in range(3):
        rig.clock.tick()
        without.drive(rollout)
    alerts = [alert for alert in rig.ledger.outbox.all() if "register failed" in alert.title]
    assert len(alerts) == 1, "one alert for one trouble"
    rig.controller().drive(rollout)
    assert without.state(rollout).end is End.ROLLED_BACK
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == "rolled_back"


def test_a_serving_side_that_does_not_let_go_is_tried_until_it_does(rig: Rig) -> None:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()

    def stuck(name: str) -> None:
        if name.startswith("before"):
            raise ServingError("the gateway does not answer")

    with pytest.raises(StillInTraffic, match="could NOT be taken away .*: the gateway does not answer"):
        rig.controller(hook=stuck).roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert rig.share() == 10
    critical = [alert.title for alert in rig.ledger.outbox.all() if alert.severity == "critical"]
    assert sorted(critical) == [
        f"{MODEL} version 2: rolling back",
        f"{MODEL} version 2: traffic_off failed, will be tried again",
    ]
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 0


def test_a_promotion_that_may_have_happened_is_asked_about_until_it_is_known(rig: Rig) -> None:
    rollout = rig.start(steps=[10, 100])
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()

    asked: list[str] = []

    def silent(name: str) -> None:
        asked.append(name)
        if "after promote" in asked:
            raise ServingError("timed out")

    rig.controller(hook=silent).drive(rollout, good(rig.clock.now))
    assert rig.controller().state(rollout).end is None
    unclear = [alert for alert in rig.ledger.outbox.all() if "not known whether" in alert.title]
    assert [alert.severity for alert in unclear] == ["critical"]
    rig.clock.tick()
    rig.controller().drive(rollout, harmful(rig.clock.now))
    assert rig.controller().state(rollout).end is End.PROMOTED
    assert [effect.call for effect in rig.world.effects].count("promote") == 1


def test_a_promotion_that_worked_although_it_answered_with_an_error_is_a_promotion(rig: Rig) -> None:
    rollout = rig.start(steps=[10, 100])
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()

    def late(name: str) -> None:
        if name == "after promote":
            raise ServingError("timed out")

    rig.controller(hook=late).drive(rollout, good(rig.clock.now))
    state = rig.controller().state(rollout)
    assert (state.end, state.trouble) == (End.PROMOTED, None)


def test_a_ledger_that_was_replaced_is_read_afresh(rig: Rig) -> None:
    controller = rig.controller()
    rollout = rig.start()
    controller.drive(rollout, good(rig.clock.now))
    with rig.ledger.database.writing("wipe") as connection:
        for table in ("events", "rollouts"):
            connection.exec_driver_sql(f"DELETE FROM {table}")
    rig.clock.tick()
    assert rig.start() == rollout
    assert controller.state(rollout).seq == 1


@pytest.mark.parametrize("to_the_end", [False, True])
@pytest.mark.parametrize(
    ("given", "call"),
    [
        ("shadow", "version_with_alias"),
        ("shadow", "deploy_canary"),
        ("first percent", "version_with_alias"),
        ("first percent", "set_canary_percent"),
        ("first percent after shadow", "version_with_alias"),
        ("first percent after shadow", "set_canary_percent"),
    ],
)
def test_a_share_that_a_slow_call_gives_after_the_rollback_does_not_stay(
    rig: Rig, given: str, call: str, to_the_end: bool
) -> None:
    """The brake waits for no lock; whoever holds it for the first share hangs in a call, and goes on afterwards."""
    rollout = rig.start(steps=[10, 100] if given == "first percent" else ["shadow", 10, 100])
    wanted = Action.SHADOW if given == "shadow" else Action.SET_PERCENT
    other, braked = rig.controller(), list[str]()

    def brake(name: str) -> None:
        pending = rig.controller().state(rollout).pending
        at_it = name == f"before {call}" and pending is not None and pending.action is wanted
        if braked or not at_it or not _is_locked(rig):
            return
        braked.append(name)
        other.roll_back_now(rollout, "guardrail", by="ada", ordered=True)
        if to_the_end:
            other.drive(rollout)

    driver = rig.controller(hook=brake)
    for _ in range(2):
        driver.drive(rollout, (*good(rig.clock.now), evidence("agreement", Verdict.PASS, rig.clock.now)))
        rig.clock.tick()
    assert braked
    assert (rig.share(), rig.world.of(MODEL).canary, rig.world.of(MODEL).mirror) == (0, None, False)
    if call == "version_with_alias":
        assert max(effect.percent for effect in rig.world.effects if effect.version == "2") == 0


def _is_locked(rig: Rig) -> bool:
    with rig.ledger.exclusive(f"traffic:{MODEL}", wait=timedelta(0)) as free:
        return not free


@pytest.mark.parametrize("at", range(1, 6))
def test_an_emergency_that_comes_after_the_end_takes_nothing_back_whether_or_not_the_ledger_answers(
    tmp_path: Path, at: int
) -> None:
    rig = FaultyRig(tmp_path)
    rig.world.serving(MODEL, "1")
    rollout = rig.controller().start(manifest(steps=[100]), "2", "1", artefact("2"))
    rig.controller().drive(rollout, good(rig.clock.now))
    rules: list[str] = []
    with contextlib.suppress(StillInTraffic):
        rig.do(lambda late: rules.append(late.roll_back_now(rollout, "late").rule), Fault("error", at))
    assert rules == ([] if at == 1 else ["ended"])
    assert rig.controller().state(rollout).end is End.PROMOTED
    assert rig.world.share(MODEL, "2") == 100
