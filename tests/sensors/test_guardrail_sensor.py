"""The sensor that rolls back by itself, inside its tick, on counters that a test scripts."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import dagster as dg
import pytest

from pipelines.core.errors import LedgerError, NotMeasured, ServingError
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import DecisionKind, End, Order
from pipelines.core.rollout.policy import UNREAD, WATCHED
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import OnFail, OnUnknown, Verdict
from pipelines.rollouts import canary_watch, standing_watch
from pipelines.rollouts.serving_metrics import REPEATED
from resources.ledger.counters import CounterStore
from resources.ledger.ledger import Ledger
from resources.serving.contract import Answers, Counters
from sensors.guardrail import guardrail_sensor
from tests.support import by_hand
from tests.support.by_hand import BY_HAND
from tests.support.memory_backend import World
from tests.support.memory_systems import (
    MemorySystems,
    by_units,
    counters,
    given,
    start_rollout,
)
from tests.support.rollouts import MODEL, evidence

NAMES = ("errors", "slow", "cost", "units", "data_quality", "drift")

Tick = Callable[[], dg.SensorResult | dg.SkipReason]

NOTHING = counters(v1=(0, 0), v2=(0, 0))

HARM = counters(v1=(900, 0), v2=(100, 30))


@pytest.fixture
def tick(systems: MemorySystems) -> Tick:
    """One tick that watches for less than a second."""
    sensor = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=0.7), grace=timedelta(0))
    return lambda: ended(sensor(dg.build_sensor_context(resources=given(systems))))


def ended(result: Any) -> Any:
    """The tick's result, once its watch has ended as well."""
    for thread in threading.enumerate():
        if thread.name == "guardrails":
            thread.join(10)
    return result


def said(result: dg.SensorResult | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason)
    return str(result.skip_message)


def test_harm_takes_the_traffic_away_within_the_tick(systems: MemorySystems, tick: Tick) -> None:
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING, HARM)
    result = tick()
    assert systems.share == 0
    assert isinstance(result, dg.SensorResult)
    (event,) = result.asset_events
    assert "errors: 30 of 100 answers at the canary" in (event.description or "")
    assert event.asset_key.to_user_string() == "flight_delay/rollout"
    state = systems.controller.state(rollout)
    assert state.phase is Phase.ROLLING_BACK
    assert systems.controller.owes(rollout), "spec and registry are left to the run that follows"
    assert any("rolling back" in title for title in systems.titles())


def test_a_healthy_canary_is_left_alone(systems: MemorySystems, tick: Tick) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING, counters(v1=(9000, 9), v2=(1000, 1)))
    assert "watched at 10 %" in said(tick())
    assert systems.share == 10


def test_without_a_rollout_nothing_is_watched(tick: Tick) -> None:
    assert "no canary takes traffic" in said(tick())


def test_a_daemon_that_was_restarted_goes_on_from_the_ledger(systems: MemorySystems) -> None:
    """Neither tick alone sees enough: the second one needs what the first one counted."""
    start_rollout(systems)
    systems.backend.show(NOTHING, counters(v1=(60, 0), v2=(20, 2)))
    assert "no guardrail crossed" in said(fresh_tick(systems))
    systems.backend.show(counters(v1=(90, 0), v2=(30, 8)))
    assert isinstance(fresh_tick(systems), dg.SensorResult)
    assert systems.share == 0


def fresh_tick(systems: MemorySystems) -> dg.SensorResult | dg.SkipReason:
    """A tick of a sensor that has just been loaded."""
    sensor = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=0.7), grace=timedelta(0))
    return ended(sensor(dg.build_sensor_context(resources=given(systems))))


def test_what_happened_between_two_ticks_is_counted(systems: MemorySystems, tick: Tick) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING)
    tick()
    systems.backend.show(HARM)
    assert isinstance(tick(), dg.SensorResult)


@pytest.mark.parametrize("error", [NotMeasured("Prometheus is down"), ServingError("no such service")])
def test_counters_that_cannot_be_read_roll_nothing_back(
    systems: MemorySystems, tick: Tick, error: Exception
) -> None:
    start_rollout(systems)
    systems.backend.show(error)
    tick()
    assert systems.share == 10


def test_a_ledger_whose_lock_somebody_keeps_stops_no_look_and_no_renewal(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_watch, "RENEW", timedelta(seconds=0.1))
    monkeypatch.setattr(canary_watch, "SAVE", timedelta(0))
    monkeypatch.setattr(standing_watch, "LEDGER_PATIENCE", timedelta(seconds=0.1))
    start_rollout(systems)
    systems.backend.show(NOTHING)
    before = systems.world.marks[MODEL]
    with frozen_writer(systems):
        tick()
        assert systems.world.marks[MODEL] - before >= 3
        systems.backend.show(HARM)
        tick()
        assert systems.share == 0


@contextmanager
def frozen_writer(systems: MemorySystems) -> Iterator[None]:
    """Somebody who stopped in the middle of a transaction."""
    with closing(sqlite3.connect(systems.settings.home / "ledger.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        yield
        writer.rollback()


@pytest.mark.parametrize(
    ("shown", "watched"),
    [
        (NOTHING, True),
        (NotMeasured("Prometheus is down"), True),
        (ServingError("the state is damaged"), False),
        (ValueError("nobody foresaw it"), False),
    ],
    ids=["counted", "not measured", "an error", "unforeseen"],
)
def test_a_share_is_renewed_once_a_second_where_a_look_came_to_an_end_and_not_where_there_was_none(
    systems: MemorySystems, tick: Tick, shown: Counters | Exception, watched: bool
) -> None:
    start_rollout(systems)
    systems.backend.show(shown)
    before = systems.world.marks[MODEL]
    tick()
    assert systems.world.marks[MODEL] - before == (1 if watched else 0)


@pytest.mark.parametrize("lapsed", [True, False], ids=["lapsed", "cannot be said"])
def test_a_share_that_lapsed_and_a_lease_that_cannot_be_renewed_are_said_once_and_the_watch_goes_on(
    systems: MemorySystems, tick: Tick, lapsed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING)
    monkeypatch.setattr(canary_watch, "RENEW", timedelta(0))
    if lapsed:
        systems.world.lapse(MODEL)
    else:
        monkeypatch.setattr(systems.backend, "renew", unsaid)
    complaints = tick_log(systems, monkeypatch)
    assert len(complaints) == 1
    assert (
        "nobody has watched it for 10 s" if lapsed else "cannot say that it is watched: no pod"
    ) in complaints[0]
    assert systems.share == (0 if lapsed else 10)
    systems.backend.show(HARM)
    assert isinstance(tick(), dg.SensorResult)


def test_a_gateway_that_cannot_be_read_gives_no_share_back_and_keeps_nobody_from_judging_the_others(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown is never good: what it answered in the gap was not looked at. And never bad."""
    rollout, unread = start_rollout(systems), ("pod-2: timed out",)
    monkeypatch.setattr(canary_watch, "RENEW", timedelta(0))
    systems.world.lapse(MODEL)
    systems.backend.show(replace(NOTHING, unread=unread))
    complaints = tick_log(systems, monkeypatch)
    assert len([line for line in complaints if "a gateway cannot be watched: pod-2: timed out" in line]) == 1
    state = systems.controller.state(rollout)
    assert state.lapsed is not None and WATCHED not in state.evidence
    systems.backend.show(NOTHING)
    tick()
    assert systems.controller.state(rollout).evidence[WATCHED].verdict is Verdict.PASS
    systems.backend.show(replace(HARM, unread=unread))
    assert isinstance(tick(), dg.SensorResult), "and harm that the others show takes the traffic away"


@pytest.mark.parametrize("told", ["at once", "by another watch before", "not at all"])
def test_a_lapse_within_a_gap_mixes_no_two_shares(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """Both versions failed a tenth while the canary had its share; then all was well, at the champion alone."""
    monkeypatch.setattr(canary_watch, "LEASE", timedelta(0))  # as if as long had passed between two looks
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING)
    tick()
    lapse = systems.world.lapse(MODEL)
    assert lapse is not None
    if told == "by another watch before":
        systems.controller.lapsed(rollout, lapse)
    if told == "not at all":
        monkeypatch.setattr(systems.controller, "lapsed", raising(LedgerError("the ledger is away")))
    systems.backend.show(counters(v1=(50_900, 90), v2=(100, 10)))
    tick()
    state = systems.controller.state(rollout)
    assert (state.phase, state.end) == (Phase.STEPPING, None)


@pytest.mark.parametrize(
    "shown",
    [
        replace(NOTHING, unread=("pod-2: timed out",)),
        NotMeasured("pod-2: timed out"),
        ServingError("pod-2: timed out"),
    ],
)
def test_counters_that_nobody_could_read_for_a_lease_hold_and_for_a_moment_do_not(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch, shown: Counters | Exception
) -> None:
    """Unknown is never good: one gateway or all of them."""
    rollout = start_rollout(systems)
    systems.backend.show(shown)
    tick()
    assert UNREAD not in systems.controller.state(rollout).evidence
    monkeypatch.setattr(canary_watch, "UNREAD_FOR", timedelta(seconds=0.2))
    tick()
    known = systems.controller.state(rollout).evidence[UNREAD]
    assert (known.verdict, known.on_fail) == (Verdict.UNKNOWN, OnFail.HOLD)
    assert "pod-2: timed out" in known.reason
    given_all = [evidence(name, Verdict.PASS, datetime.now(UTC)) for name in NAMES]
    decision = systems.controller.drive(rollout, given_all)
    assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "unknown")
    assert systems.share == 10
    later = datetime.now(UTC) + timedelta(minutes=4)
    again = [evidence(name, Verdict.PASS, later) for name in NAMES]
    assert decide(systems.controller.state(rollout), again, later).kind is DecisionKind.PROMOTE


@pytest.mark.parametrize("away", [None, LedgerError("the ledger is away"), ServingError("no answer")])
def test_harm_in_the_gap_of_a_watch_that_was_away_is_rolled_back_and_the_ledger_has_the_lapse_before_it(
    systems: MemorySystems, tick: Tick, away: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever keeps the lapse from being told does not keep harm from being judged."""
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING)
    tick()
    systems.world.lapse(MODEL)
    if away is not None:
        part, call = (
            (systems.backend, "status") if isinstance(away, ServingError) else (systems.controller, "lapsed")
        )
        monkeypatch.setattr(part, call, raising(away))
    systems.backend.show(HARM)
    fresh_tick(systems)
    monkeypatch.undo()
    events = systems.ledger.events(rollout)
    kinds = [
        event.kind
        for event in events
        if event.kind == "lapsed" or (event.kind == "decided" and event.decision.kind == "roll_back")
    ]
    assert kinds == (["lapsed", "decided"] if away is None else ["decided"])


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def unsaid(service: str, version: str) -> None:
    raise ServingError("no pod answers")


def tick_log(systems: MemorySystems, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a tick of a sensor that has just been loaded complains of."""
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(canary_watch, "say", lambda log, level, message, error=None: said.append(message))
        fresh_tick(systems)
    return said


def test_after_an_outage_the_counters_are_judged(systems: MemorySystems, tick: Tick) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING, NotMeasured("Prometheus is down"), HARM)
    assert any(isinstance(tick(), dg.SensorResult) for _ in range(5)), (
        "a busy machine has fewer looks in a tick"
    )
    assert systems.share == 0


def test_no_traffic_is_given_back_to_a_champion_that_fails(systems: MemorySystems, tick: Tick) -> None:
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING, counters(v1=(200, 120), v2=(300, 300)))
    tick()
    assert systems.share == 10
    last = systems.controller.state(rollout).last
    assert last is not None
    assert last.decision.rule == "champion_unhealthy"
    assert any("champion unhealthy" in title for title in systems.titles())


def test_a_guardrail_that_only_holds_does_not_roll_back(systems: MemorySystems, tick: Tick) -> None:
    path = systems.model.folder / "rollout.yaml"
    path.write_text(path.read_text().replace("margin: 0.5pp}", "margin: 0.5pp, on_fail: hold}"))
    del systems.__dict__["catalogue"]
    start_rollout(systems)
    systems.backend.show(NOTHING, HARM)
    fresh_tick(systems)
    assert systems.share == 10


def test_one_units_repeated_failures_hold_the_rollout_and_leave_its_share(
    systems: MemorySystems, tick: Tick
) -> None:
    assert systems.model.rollout.experiment.unit != "request"
    rollout = start_rollout(systems)
    few = by_units(HARM, Answers(requests=1, errors=1))
    none = by_units(NOTHING, Answers(requests=0, errors=0))
    systems.backend.show(none, few)
    for _ in range(2):  # on a busy machine one tick may look once only
        tick()
    assert systems.share == 10
    held = systems.controller.state(rollout).evidence["errors" + REPEATED]
    assert (held.verdict, held.on_fail) == (Verdict.FAIL, OnFail.HOLD)
    decision = systems.controller.drive(rollout)
    assert (decision.kind, decision.rule) == (DecisionKind.HOLD, "failed_check")


def test_a_ledger_that_goes_away_does_not_keep_harm_in_traffic(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traffic goes first; the ledger is told when it is back."""
    rollout = start_rollout(systems)

    def away(*_: object, **__: object) -> None:
        raise LedgerError("database is locked")

    looks = iter([NOTHING])

    def counted(_service: str) -> Counters:
        first = next(looks, None)
        if first is None:
            return HARM
        for name in ("events", "append", "rollouts"):
            monkeypatch.setattr(Ledger, name, away)
        monkeypatch.setattr(CounterStore, "append", away)
        return first

    monkeypatch.setattr(systems.backend, "counters", counted)
    tick()
    assert systems.share == 0
    monkeypatch.undo()
    systems.controller.drive(rollout)
    assert systems.controller.state(rollout).end is End.ROLLED_BACK


@pytest.mark.parametrize("change", BY_HAND.values())
def test_a_canary_that_fails_everything_is_taken_back_whatever_the_registry_says(
    systems: MemorySystems, tick: Tick, change: Callable[[World], None]
) -> None:
    start_rollout(systems)
    change(systems.world)
    stable = systems.world.of(MODEL).stable
    assert stable is not None
    served = {f"v{stable.version}": (45_000, 45)}
    systems.backend.show(NOTHING, counters(v2=(5000, 5000), **served))
    assert isinstance(tick(), dg.SensorResult)
    assert systems.share == 0


def test_a_canary_beside_which_nobody_is_counted_is_taken_back_when_it_fails(
    systems: MemorySystems, tick: Tick
) -> None:
    start_rollout(systems)
    systems.backend.show(counters(v2=(0, 0)), counters(v2=(5000, 5000)))
    assert isinstance(tick(), dg.SensorResult)
    assert systems.share == 0


def test_a_canary_beside_which_nobody_is_counted_is_left_alone_while_it_answers(
    systems: MemorySystems, tick: Tick
) -> None:
    start_rollout(systems)
    systems.backend.show(counters(v2=(0, 0)), counters(v2=(5000, 2000)))
    assert "no guardrail crossed" in said(tick())
    assert systems.share == 10


@pytest.mark.parametrize("change", [by_hand.challenger_deleted, by_hand.champion_deleted])
def test_a_deleted_version_loses_its_traffic_without_waiting_for_a_run(
    systems: MemorySystems, tick: Tick, change: Callable[[World], None]
) -> None:
    rollout = start_rollout(systems)
    change(systems.world)
    del systems.__dict__["controller"]  # or else it has asked a moment ago
    assert systems.controller.assess(rollout).rule == "vanished", "what the rollout sensor does each second"
    systems.backend.show(NOTHING)
    assert isinstance(tick(), dg.SensorResult)
    assert systems.share == 0
    systems.controller.drive(rollout)
    assert systems.controller.state(rollout).end is End.ABORTED


@pytest.mark.parametrize("on_unknown", list(OnUnknown))
def test_a_rollout_whose_manifest_is_gone_is_told_and_taken_back_after_max_unknown(
    systems: MemorySystems, instance: dg.DagsterInstance, on_unknown: OnUnknown
) -> None:
    """Its folder was deleted, or holds a mistake: no sensor of its own is left to measure it."""
    policy = {"max_unknown": timedelta(seconds=1), "on_unknown": on_unknown}
    rollout = start_rollout(
        systems, replace(systems.model, rollout=systems.model.rollout.model_copy(update=policy))
    )
    sensor = guardrail_sensor((), tick=timedelta(seconds=0.3))
    context = dg.build_sensor_context(instance=instance, resources=given(systems))
    sensor(context)
    assert (systems.share, systems.titles()[0]) == (10, f"{MODEL} version 2: nobody measures its rollout")
    time.sleep(1)
    with patch("pipelines.rollouts.canary_watch.STRAYS", timedelta(0)):
        guardrail_sensor((), tick=timedelta(seconds=1.3))(context)
    taken_back = on_unknown is OnUnknown.ROLL_BACK
    assert systems.share == (0 if taken_back else 10)
    assert (systems.controller.state(rollout).phase is Phase.ROLLING_BACK) == taken_back
    assert systems.titles().count(f"{MODEL} version 2: nobody measures its rollout") == 1


def test_a_promoted_version_whose_manifest_is_gone_is_not_taken_back(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    """It bakes, and only harm or a person takes it back; without its manifest the bake does not end."""
    policy = {"max_unknown": timedelta(seconds=0.2), "bake": timedelta(days=1)}
    rollout = start_rollout(
        systems, replace(systems.model, rollout=systems.model.rollout.model_copy(update=policy))
    )
    systems.controller.command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
    systems.controller.drive(rollout)
    with patch("pipelines.rollouts.canary_watch.STRAYS", timedelta(0)):
        guardrail_sensor((), tick=timedelta(seconds=1))(
            dg.build_sensor_context(instance=instance, resources=given(systems))
        )
    assert (systems.share, systems.controller.state(rollout).phase) == (98, Phase.BAKING)
    (told,) = [alert for alert in systems.ledger.outbox.all() if "nobody measures" in alert.title]
    assert "promoted and stays so" in told.body


def test_a_rollout_whose_record_cannot_be_read_is_told_as_one_that_nobody_watches(
    systems: MemorySystems, tick: Tick
) -> None:
    rollout = start_rollout(systems)
    with systems.ledger.database.writing("damage") as connection:
        connection.exec_driver_sql("UPDATE events SET body = '{' WHERE seq = 3")
    for _ in range(2):
        tick()
    told = [alert for alert in systems.ledger.outbox.all() if "record cannot be read" in alert.title]
    assert [(alert.rollout_id, alert.severity) for alert in told] == [(rollout, "critical")]
    assert "the order roll_back_now takes its traffic away" in told[0].body


def test_idle_models_cost_one_query_of_the_ledger_for_all_of_them(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [replace(systems.model, name=f"idle-{number}") for number in range(100)]
    asked: list[str] = []
    monkeypatch.setattr(systems.ledger, "events", lambda *_, **__: asked.append("events"))
    monkeypatch.setattr(systems.backend, "counters", lambda *_: asked.append("counters"))
    rollouts = systems.ledger.rollouts
    monkeypatch.setattr(
        systems.ledger, "rollouts", lambda *a, **k: asked.append("rollouts") or rollouts(*a, **k)
    )
    sensor = guardrail_sensor(models, tick=timedelta(seconds=0.7))
    sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    assert set(asked) == {"rollouts"}
    assert len(asked) <= 3, "one for the strays, one every half second"


def test_a_ledger_that_cannot_list_rollouts_leaves_those_watched_that_it_listed_last(
    systems: MemorySystems, tick: Tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING)
    tick()

    def away(*_: object, **__: object) -> None:
        raise LedgerError("database is locked")

    monkeypatch.setattr(systems.ledger, "rollouts", away)
    systems.backend.show(HARM)
    assert isinstance(tick(), dg.SensorResult)
    assert systems.share == 0
