"""The sensor that asks for looks and windows while a canary takes traffic."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from pipelines.core.manifest.load import Model
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.rollouts.naming import Turn
from pipelines.rollouts.start import carry_on, start
from sensors.evidence import evidence_sensor
from tests.support.memory_systems import MemorySystems, given, start_rollout

LOOK, WINDOWS = "flight_delay_look", "flight_delay_windows"


@pytest.fixture
def model(systems: MemorySystems) -> Model:
    """The template, whose looks come every 10 s and whose windows last 59 min, with steps of half an hour."""
    manifest = systems.model.rollout
    step = manifest.step.model_copy(update={"min_duration": timedelta(minutes=30)})
    return replace(systems.model, rollout=manifest.model_copy(update={"step": step}))


@pytest.fixture
def tick(systems: MemorySystems, instance: dg.DagsterInstance, model: Model):
    """Jobs asked for after so long, and the next cursor."""

    now = datetime.now(UTC)
    sensor = evidence_sensor([model], tick=timedelta(0), clock=lambda: now)

    def tick(
        cursor: str | None = None, *, after: timedelta = timedelta(0)
    ) -> tuple[set[str | None], str | None]:
        nonlocal now
        now = datetime.now(UTC) + after
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources=given(systems))
        result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return set(), cursor
        requests = result.run_requests or ()
        assert all(request.tags.items() >= Turn.EVIDENCE.tags.items() for request in requests), (
            "before schedules"
        )
        return {request.job_name for request in requests}, result.cursor

    return tick


def windows(
    verdict: Verdict, *, at: datetime, on_fail: OnFail = OnFail.HOLD, pending: bool = False
) -> Evidence:
    return Evidence(
        name="drift_canary",
        source="drift",
        verdict=verdict,
        reason="insufficient data" if verdict is Verdict.UNKNOWN else "",
        at=at,
        on_fail=on_fail,
        pending=pending,
    )


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def test_nothing_is_asked_for_without_a_canary(systems: MemorySystems, tick) -> None:
    assert tick()[0] == set()
    start(systems, systems.model, "2")
    assert tick()[0] == set(), "it is not running yet"


def test_a_canary_gets_a_look_at_once_and_windows_when_its_step_may_end(
    systems: MemorySystems, model: Model, tick
) -> None:
    start_rollout(systems, model)
    asked, cursor = tick()
    assert asked == {LOOK}
    assert tick(cursor)[0] == set()
    assert WINDOWS not in tick(cursor, after=minutes(29))[0]
    assert WINDOWS in tick(cursor, after=minutes(31))[0]


def test_each_comes_again_after_its_own_interval(systems: MemorySystems, model: Model, tick) -> None:
    start_rollout(systems, model)
    asked, cursor = tick(after=minutes(40))
    assert asked == {LOOK, WINDOWS}
    assert tick(cursor, after=minutes(40) + timedelta(seconds=9))[0] == set()
    assert tick(cursor, after=minutes(40) + timedelta(seconds=11))[0] == {LOOK}
    assert tick(cursor, after=minutes(98))[0] == {LOOK}
    assert tick(cursor, after=minutes(101))[0] == {LOOK, WINDOWS}


@pytest.mark.parametrize("pending", [True, False])
@pytest.mark.parametrize(
    ("verdict", "on_fail", "sooner"),
    [
        (Verdict.UNKNOWN, OnFail.HOLD, True),
        (Verdict.UNKNOWN, OnFail.WARN, False),
        (Verdict.PASS, OnFail.HOLD, False),
    ],
)
def test_windows_that_are_unknown_come_again_sooner_whether_for_rows_or_for_another_reason(
    systems: MemorySystems, model: Model, tick, verdict: Verdict, on_fail: OnFail, sooner: bool, pending: bool
) -> None:
    rollout = start_rollout(systems, model)
    _, cursor = tick(after=minutes(40))
    found = windows(verdict, at=datetime.now(UTC) + minutes(41), on_fail=on_fail, pending=pending)
    systems.controller.record(rollout, [found])
    assert WINDOWS not in tick(cursor, after=minutes(54))[0]
    assert (WINDOWS in tick(cursor, after=minutes(56))[0]) is sooner


def test_windows_of_an_earlier_step_are_none_of_this_one(systems: MemorySystems, model: Model, tick) -> None:
    start_rollout(systems, model)
    _, cursor = tick(after=-minutes(20))
    assert WINDOWS not in tick(cursor, after=minutes(29))[0]
    assert WINDOWS in tick(cursor, after=minutes(31))[0]


def test_windows_with_partitions_are_asked_for_by_the_latest_whole_one_that_the_step_is_in(
    systems: MemorySystems, instance: dg.DagsterInstance, model: Model
) -> None:
    longer = model.rollout.data_checks.model_copy(update={"window": timedelta(hours=1)})
    drift = model.rollout.drift.model_copy(update={"window": timedelta(hours=6)})
    hourly = replace(model, rollout=model.rollout.model_copy(update={"data_checks": longer, "drift": drift}))
    rollout = start_rollout(systems, hourly)
    since = systems.controller.state(rollout).since
    end = since.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    due = max(end + minutes(5), since + minutes(30))

    def asked(at: datetime) -> dict[str | None, str | None]:
        context = dg.build_sensor_context(instance=instance, resources=given(systems))
        result = evidence_sensor([hourly], tick=timedelta(0), clock=lambda: at)(context)
        assert isinstance(result, dg.SensorResult)
        return {request.job_name: request.partition_key for request in result.run_requests or ()}

    assert asked(due - timedelta(seconds=1)) == {LOOK: None}
    assert asked(due) == {LOOK: None, WINDOWS: f"{end - timedelta(hours=1):%Y-%m-%d-%H:%M}"}


def test_a_look_does_not_overtake_the_one_before(
    systems: MemorySystems, instance: dg.DagsterInstance, model: Model, tick
) -> None:
    start_rollout(systems, model)
    instance.add_run(dg.DagsterRun(job_name=LOOK, run_id="run", status=dg.DagsterRunStatus.STARTED))
    assert tick(after=minutes(31))[0] == {WINDOWS}


def test_the_next_rollout_does_not_wait_for_the_intervals_of_the_last(
    systems: MemorySystems, model: Model, tick
) -> None:
    rollout = start_rollout(systems, model)
    _, cursor = tick(after=minutes(31))
    systems.controller.roll_back_now(rollout, "a person", by="anna", ordered=True)
    systems.controller.drive(rollout)
    assert tick(cursor)[0] == set()
    systems.registry.known.add("3")
    following = start(systems, model, "3").rollout_id
    carry_on(systems, model, following)
    asked, cursor = tick(cursor, after=minutes(31))
    assert asked == {LOOK, WINDOWS}
    assert all(key.startswith(following) for key in json.loads(cursor or "{}"))
