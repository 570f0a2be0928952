"""The sensor that asks for looks and windows while a canary takes traffic."""

import json
from datetime import datetime, timedelta

import dagster as dg
import pytest

from resources.starting import start
from sensors.evidence import evidence_sensor
from tests.support.memory_systems import MemorySystems, start_rollout

LOOK, WINDOWS = "flight_delay_look", "flight_delay_windows"


@pytest.fixture
def tick(systems: MemorySystems, instance: dg.DagsterInstance):
    """Jobs asked for and the next cursor; the template's manifest looks every 10 s, its windows last 1 h."""

    @dg.op
    def nothing() -> None: ...

    jobs = [dg.GraphDefinition(name=name, node_defs=[nothing]).to_job() for name in (LOOK, WINDOWS)]
    sensor = evidence_sensor(systems.model, *jobs)

    def tick(cursor: str | None = None) -> tuple[set[str | None], str | None]:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"systems": systems})
        result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return set(), cursor
        return {request.job_name for request in result.run_requests or ()}, result.cursor

    return tick


def earlier(cursor: str | None, by: timedelta) -> str:
    """The cursor as it would be if all of it had been asked for so much earlier."""
    asked = json.loads(cursor or "{}")
    return json.dumps({key: (datetime.fromisoformat(at) - by).isoformat() for key, at in asked.items()})


def test_nothing_is_asked_for_without_a_canary(systems: MemorySystems, tick) -> None:
    assert tick()[0] == set()
    start(systems, systems.model, "2")
    assert tick()[0] == set(), "it is not running yet"


def test_a_canary_gets_a_look_and_its_windows_at_once(systems: MemorySystems, tick) -> None:
    start_rollout(systems)
    asked, cursor = tick()
    assert asked == {LOOK, WINDOWS}
    assert tick(cursor)[0] == set()


def test_each_comes_again_after_its_own_interval(systems: MemorySystems, tick) -> None:
    start_rollout(systems)
    _, cursor = tick()
    assert tick(earlier(cursor, timedelta(seconds=9)))[0] == set()
    assert tick(earlier(cursor, timedelta(seconds=10)))[0] == {LOOK}
    assert tick(earlier(cursor, timedelta(hours=1)))[0] == {LOOK, WINDOWS}


def test_a_look_does_not_overtake_the_one_before(
    systems: MemorySystems, instance: dg.DagsterInstance, tick
) -> None:
    start_rollout(systems)
    instance.add_run(dg.DagsterRun(job_name=LOOK, run_id="run", status=dg.DagsterRunStatus.STARTED))
    assert tick()[0] == {WINDOWS}


def test_the_next_rollout_does_not_wait_for_the_intervals_of_the_last(systems: MemorySystems, tick) -> None:
    rollout = start_rollout(systems)
    _, cursor = tick()
    systems.controller.roll_back_now(rollout, "a person", by="anna", ordered=True)
    systems.controller.drive(rollout)
    assert tick(cursor)[0] == set()
    systems.registry.known.add("3")
    following = start(systems, systems.model, "3").rollout_id
    from resources.starting import carry_on

    carry_on(systems, systems.model, following)
    asked, cursor = tick(cursor)
    assert asked == {LOOK, WINDOWS}
    assert all(key.startswith(following) for key in json.loads(cursor or "{}"))
