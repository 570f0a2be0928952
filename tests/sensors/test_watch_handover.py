"""From one process to the next: the watch that begins before a tick, and two that look at the same canaries meanwhile."""

import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType

from pipelines.core.rollout.events import Action, Decided, DecisionKind, Intent
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import OnFail
from pipelines.definitions import build
from pipelines.platform.configuration import write_configuration
from pipelines.platform.parts import parts
from pipelines.rollouts import canary_watch
from pipelines.rollouts.canary_watch import RolledBack, Watcher
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.standing_watch import StandingWatch, Watched
from resources.ledger.ledger import Ledger
from resources.serving.contract import Answers, Counters
from resources.settings import WATCH_AT_ONCE
from sensors import guardrail
from sensors.guardrail import await_watch, guardrail_sensor, watch_at_once
from tests.sensors.test_alerting_sensors import off
from tests.support.memory_systems import (
    MemorySystems,
    ScriptedBackend,
    asked_at,
    by_units,
    counters,
    given,
    start_rollout,
)
from tests.support.rollouts import MODEL
from tests.support.watches import Watches

NOTHING = counters(v1=(0, 0), v2=(0, 0))

HARM = counters(v1=(900, 0), v2=(100, 30))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch that was begun ends soon."""
    monkeypatch.setattr(guardrail, "TICK", timedelta(seconds=1))
    monkeypatch.setattr(guardrail, "GRACE", timedelta(0))


def watched(systems: MemorySystems) -> Watched:
    return Watched(ledger=systems.ledger, backend=systems.backend, controller=systems.controller)


def test_a_watch_that_was_begun_at_once_rolls_back_before_any_tick_and_the_first_tick_tells_of_it(
    systems: MemorySystems, instance: dg.DagsterInstance, watches: Watches
) -> None:
    start_rollout(systems)
    systems.backend.show(NOTHING, HARM)
    watch = StandingWatch(systems.catalogue.models)
    watch_at_once(watch, lambda: watched(systems))
    await_watch(watch)
    assert systems.world.marks[MODEL] == 2, "set, and renewed before anybody could take over"
    watches.wait()
    assert systems.share == 0
    tick, grace = timedelta(seconds=0.3), timedelta(0)
    sensor = guardrail_sensor(systems.catalogue.models, watch=watch, tick=tick, grace=grace)
    result = sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    assert isinstance(result, dg.SensorResult)
    assert len(result.asset_events) == 1


def test_a_sensor_that_somebody_turned_off_is_not_replaced_by_a_process_that_starts_again_and_again(
    systems: MemorySystems, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watches: Watches
) -> None:
    start_rollout(systems)
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        off(instance, "guardrail_sensor", InstigatorType.SENSOR)
    for _ in range(3):
        watch = StandingWatch(systems.catalogue.models)
        watch_at_once(watch, lambda: watched(systems))
        await_watch(watch)
    assert watches.on == []
    assert systems.world.marks[MODEL] == 1, "set, and never renewed"


def test_definitions_hold_up_no_longer_than_a_lease_where_the_serving_side_cannot_be_had(
    systems: MemorySystems, caplog: pytest.LogCaptureFixture, watches: Watches
) -> None:
    def away() -> Watched:
        raise ConnectionError("no cluster")

    watch = StandingWatch(systems.catalogue.models)
    watch_at_once(watch, away)
    await_watch(watch)
    watches.wait()
    told = [line for line in caplog.messages if "the guardrails cannot be watched" in line]
    assert len(told) == 1, "once, not at each try"


def test_definitions_are_watched_from_the_start_where_they_are_asked_to_be_and_nowhere_else(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, watches: Watches
) -> None:
    monkeypatch.setattr(guardrail, "_is_off", lambda: False)
    build(systems.settings)
    assert watches.on == []
    build(systems.settings, watched=True)
    assert len(watches.on) == 1


def test_the_code_server_is_the_only_part_whose_definitions_watch(systems: MemorySystems) -> None:
    every = parts(systems.settings)
    assert {part.name for part in every if WATCH_AT_ONCE in part.environment} == {"code"}
    write_configuration(systems.settings, every)
    written = (systems.settings.home / "supervisor" / "supervisord.conf").read_text()
    programs = [
        program.partition("]")[0] for program in written.split("[program:") if WATCH_AT_ONCE in program
    ]
    assert programs == ["code"]


# Two processes that watch the same rollout: each has a ledger, a controller and a watcher of its own.


@pytest.fixture
def two(systems: MemorySystems) -> Iterator[tuple[Watcher, Watcher]]:
    with closing(Ledger(systems.settings.ledger_url)) as other:
        yield watcher(systems, systems.ledger), watcher(systems, other)


def watcher(systems: MemorySystems, ledger: Ledger) -> Watcher:
    controller = Controller(ledger, systems.backend, systems.registry, home=systems.settings.home)
    return Watcher(ledger, systems.backend, controller, systems.model)


def polled(systems: MemorySystems, each: Watcher) -> RolledBack | None:
    return each.poll(next(iter(systems.ledger.rollouts(open_only=True)), None), systems.backend.counters)


def test_two_who_see_the_same_harm_at_once_make_one_rollback_one_alert_and_one_event(
    systems: MemorySystems, two: tuple[Watcher, Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING)
    for each in two:
        polled(systems, each)
    both_see_it = threading.Barrier(2, timeout=10)

    def counted(backend: ScriptedBackend, service: str) -> Counters:
        both_see_it.wait()
        return asked_at(HARM, datetime.now(UTC))

    monkeypatch.setattr(ScriptedBackend, "counters", counted)
    told: list[RolledBack | None] = []
    threads = [threading.Thread(target=lambda e=each: told.append(polled(systems, e))) for each in two]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert (len(told), sum(each is not None for each in told)) == (2, 1)
    assert systems.share == 0
    assert systems.controller.state(rollout).phase is Phase.ROLLING_BACK
    events = systems.ledger.events(rollout)
    decisions = [e for e in events if isinstance(e, Decided) and e.decision.kind is DecisionKind.ROLL_BACK]
    away = [e for e in events if isinstance(e, Intent) and e.action is Action.TRAFFIC_OFF]
    assert (len(decisions), len(away)) == (1, 1)
    assert sum("rolling back" in title for title in systems.titles()) == 1


def failing_units(failed: int, answers: int) -> Counters:
    return counters(v1=(9 * answers, 0), v2=(answers, failed))


def test_units_that_fail_one_by_one_are_rolled_back_while_two_watch_and_each_writes_what_the_other_counts(
    systems: MemorySystems, two: tuple[Watcher, Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert systems.model.rollout.experiment.unit != "request"
    monkeypatch.setattr(canary_watch, "SAVE", timedelta(0))
    start_rollout(systems)
    found: list[RolledBack] = []
    for failed in range(12):
        systems.backend.show(failing_units(failed, failed))
        for each in two:
            for _ in range(2):  # one look to find out that the other one has written, one to go on from there
                found += filter(None, [polled(systems, each)])
    assert len(found) == 1
    assert systems.share == 0


def test_no_traffic_is_given_back_to_a_champion_that_fails_while_two_watch(
    systems: MemorySystems, two: tuple[Watcher, Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its health is in no bucket: neither may forget it because the other one has written."""
    monkeypatch.setattr(canary_watch, "SAVE", timedelta(0))
    start_rollout(systems)
    for tens in range(20):
        systems.backend.show(counters(v1=(10 * tens, 6 * tens), v2=(10 * tens, 10 * tens)))
        for each in two:
            for _ in range(2):
                polled(systems, each)
    assert systems.share == 10
    assert any("champion unhealthy" in title for title in systems.titles())


def test_evidence_that_holds_is_written_once_a_minute_by_each_of_two_who_watch(
    systems: MemorySystems, two: tuple[Watcher, Watcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canary_watch, "SAVE", timedelta(0))
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING)
    for each in two:
        polled(systems, each)
    systems.backend.show(by_units(HARM, Answers(requests=1, errors=1)))
    before = len(systems.ledger.events(rollout))
    for _ in range(5):
        for each in two:
            polled(systems, each)
    held = [
        item for item in systems.controller.state(rollout).evidence.values() if item.on_fail is OnFail.HOLD
    ]
    assert held
    assert len(systems.ledger.events(rollout)) - before <= 2
