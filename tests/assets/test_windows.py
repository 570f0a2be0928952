"""Windows of an hour or more are partitions: a past range is made up for, and says nothing about today."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.data_quality import data_quality
from pipelines.core.manifest.load import Model
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.model_pipeline import model_definitions, model_jobs
from pipelines.monitoring.windows import first_whole, in_time, latest_whole, rhythm, window_partitions
from resources.lake.schema import ensure_tables
from tests.resources.lake.segments_by_hand import SCHEMA, Log, prediction
from tests.support.memory_systems import MemorySystems, given, start_rollout
from tests.support.rollouts import MODEL

HOUR = timedelta(hours=1)


def with_windows(model: Model, window: timedelta) -> Model:
    manifest = model.rollout
    checks, drift = (
        part.model_copy(update={"window": window}) for part in (manifest.data_checks, manifest.drift)
    )
    return replace(model, rollout=manifest.model_copy(update={"data_checks": checks, "drift": drift}))


def write(log: Log, at: datetime, distance: float) -> Path:
    lines = [
        line
        for i in range(30)
        for line in prediction(
            f"{at:%d%H}-{i}",
            unit=f"u{i}",
            at=at + timedelta(minutes=i),
            inputs={"distance": [distance], "origin": ["JFK"]},
        )
    ]
    return log.segment(f"{at:%d%H}", *lines)


@pytest.mark.parametrize(
    ("window", "cron"),
    [
        (timedelta(minutes=59), None),
        (HOUR, "0 */1 * * *"),
        (6 * HOUR, "0 */6 * * *"),
        (24 * HOUR, "0 0 * * *"),
        (timedelta(minutes=90), None),
        (5 * HOUR, None),
        (48 * HOUR, None),
    ],
)
def test_windows_of_whole_hours_that_divide_a_day_have_partitions(
    systems: MemorySystems, window: timedelta, cron: str | None
) -> None:
    manifest = with_windows(systems.model, window).rollout
    found = window_partitions(manifest)
    assert (None if found is None else found.cron_schedule) == cron
    now = datetime(2026, 3, 1, 13, 4, 59, tzinfo=UTC)
    if found is None:
        assert latest_whole(manifest, now) is None
        return
    for moment in (now, now + timedelta(minutes=1), datetime(2026, 3, 1, tzinfo=UTC)):
        span = found.time_window_for_partition_key(str(latest_whole(manifest, moment)))
        assert span.end - span.start == rhythm(manifest)
        assert span.end <= moment - timedelta(minutes=5) < span.end + window
    assert now < first_whole(manifest, now) <= now + window + timedelta(minutes=5)


def test_a_past_range_is_made_up_for_window_by_window_and_is_no_evidence_in_todays_rollout(
    systems: MemorySystems,
) -> None:
    model = with_windows(systems.model, HOUR)
    log = Log(systems.settings.prediction_log / MODEL, systems.settings.outcomes / MODEL)
    log.predictions.mkdir(parents=True)
    with systems.lake.connect() as connection:
        ensure_tables(systems.lake, connection, MODEL, SCHEMA)
    rollout = start_rollout(systems, model)
    first = datetime(2026, 3, 1, 10, tzinfo=UTC)
    for hours, distance in enumerate((700.0, 9000.0)):
        write(log, first + hours * HOUR, distance)
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.Definitions.merge(
            model_definitions(model, model_jobs(model)), dg.Definitions(resources=given(systems))
        ).resolve_job_def("flight_delay_windows")
        unloaded = dg.materialize(
            [data_quality(model)],
            resources=given(systems),
            instance=instance,
            partition_key="2026-03-01-10:00",
        )
        assert _window(unloaded) == "unknown", "not all of its predictions are loaded"
        keys = [f"2026-03-01-{hour}:00" for hour in (10, 11, 12)]
        found = [_window(job.execute_in_process(partition_key=key, instance=instance)) for key in keys]
        assert found == ["pass", "fail", "unknown"], "each looks at its own hour"
        done = instance.get_materialized_partitions(dg.AssetKey(["flight_delay", "data_quality"]))
        assert done == set(keys)
    sources = {item.source for item in systems.controller.state(rollout).evidence.values()}
    assert not sources & {"data_quality", "drift"}


def test_evidence_is_of_a_window_that_belongs_to_the_rollout_in_time(systems: MemorySystems) -> None:
    """Not of one before the step, nor of one long over, nor of an earlier one than is known already."""
    now = datetime.now(UTC)
    state = replace(
        systems.controller.state(start_rollout(systems)), since=now - 5 * HOUR, started_at=now - 5 * HOUR
    )
    found = Evidence(name="data_quality", source="data_quality", verdict=Verdict.PASS, reason="", at=now)
    (kept,) = in_time(state, [found], HOUR, now - HOUR / 2, now)
    assert kept.valid_for == 1.5 * HOUR + timedelta(minutes=3), "two windows after its own"
    for end in (now - 6 * HOUR, state.since, now - 2 * HOUR - timedelta(minutes=3)):
        assert in_time(state, [found], HOUR, end, now) == ()
    seen = replace(found, values={"window_end": (now - HOUR / 2).isoformat()})
    known = replace(state, evidence={seen.name: seen})
    assert in_time(known, [found], HOUR, now - HOUR, now) == ()
    assert len(in_time(known, [found], HOUR, now - HOUR / 2, now)) == 1, "the same window, looked at again"


def _window(result: dg.ExecuteInProcessResult) -> str:
    return next(
        str(check.metadata["verdict"].value)
        for check in result.get_asset_check_evaluations()
        if check.check_name == "window"
    )
