"""What comes round for every model: as often as its tier says, at a time of its own, where something was logged."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import dagster as dg
import pytest

from pipelines.core.manifest.model import RolloutManifest
from pipelines.rollouts.naming import Turn
from resources.lake.windows import mark_ingested
from sensors.routine import INGEST, WINDOWS, Turns, routine_sensor
from tests.support.memory_systems import MemorySystems, given, write_model
from tests.support.rollouts import MODEL

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

HOUR = timedelta(hours=1)


def asked(
    systems: MemorySystems, instance: dg.DagsterInstance, cursor: str | None, at: datetime
) -> tuple[list[str], str | None]:
    """The jobs that one tick asks for, and its cursor."""
    sensor = routine_sensor(systems.catalogue.models, clock=lambda: at)
    result = sensor(dg.build_sensor_context(instance=instance, cursor=cursor, resources=given(systems)))
    requests = result.run_requests or ()
    assert all(request.tags.items() >= Turn.SCHEDULED.tags.items() for request in requests)
    assert len({request.run_key for request in requests}) == len(requests)
    return [str(request.job_name) for request in requests], result.cursor


def over(
    systems: MemorySystems, instance: dg.DagsterInstance, length: timedelta, every: timedelta
) -> list[str]:
    """All jobs asked for by the ticks of some time."""
    found: list[str] = []
    _, cursor = asked(systems, instance, None, NOW)
    for number in range(1, length // every + 1):
        jobs, cursor = asked(systems, instance, cursor, NOW + number * every)
        found += jobs
    return found


def logged(systems: MemorySystems, at: datetime, name: str = "a.jsonl", model: str = MODEL) -> Path:
    folder = systems.settings.prediction_log / model
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("{}\n")
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def test_every_tier_says_how_often() -> None:
    tiers = set(get_args(RolloutManifest.model_fields["tier"].annotation))
    assert INGEST.keys() == WINDOWS.keys() == tiers


def test_a_model_for_which_nothing_was_logged_is_left_alone(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    assert over(systems, instance, HOUR, timedelta(minutes=1)) == []


def test_what_was_logged_is_loaded_and_checked_as_often_as_the_tier_says(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    assert systems.model.rollout.tier == "high"
    logged(systems, NOW)
    found = over(systems, instance, HOUR, timedelta(seconds=20))
    assert found.count("flight_delay_ingest") == 60, "until an ingestion ends well"
    assert found.count("flight_delay_windows") == 4


def test_what_is_loaded_is_not_loaded_again(systems: MemorySystems, instance: dg.DagsterInstance) -> None:
    path = logged(systems, NOW)
    mark_ingested(path.parent, NOW + timedelta(seconds=1))
    assert "flight_delay_ingest" not in over(systems, instance, HOUR, timedelta(minutes=1))
    logged(systems, NOW, "b.open")
    assert "flight_delay_ingest" in over(systems, instance, HOUR, timedelta(minutes=1)), (
        "its writer may be dead"
    )


def test_windows_end_when_nothing_is_in_them_any_more(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    logged(systems, NOW - timedelta(minutes=30))
    found = over(systems, instance, 3 * HOUR, timedelta(minutes=5))
    assert 2 <= found.count("flight_delay_windows") <= 4, "a window of an hour, and one turn more"


def test_turns_that_were_missed_are_made_up_for_once(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    logged(systems, NOW)
    _, cursor = asked(systems, instance, None, NOW)
    jobs, cursor = asked(systems, instance, cursor, NOW + 10 * timedelta(minutes=1))
    assert jobs.count("flight_delay_ingest") == 1
    assert asked(systems, instance, cursor, NOW + 10 * timedelta(minutes=1))[0] == []


def test_the_turns_of_many_models_do_not_come_at_once() -> None:
    period = timedelta(hours=1)
    starts = [Turns(f"model_{number}_windows", period).begun(0).timestamp() for number in range(300)]
    minutes = [int(start // 60) for start in starts]
    assert max(map(minutes.count, set(minutes))) <= 15
    assert set(minutes) <= set(range(60))


def test_one_models_folder_that_cannot_be_read_keeps_no_other_from_its_turn(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(systems.settings.manifests, "churn")
    logged(systems, NOW)
    logged(systems, NOW, model="churn")

    def broken(path: Path, pattern: str) -> object:
        if path.name == "churn":
            raise PermissionError(13, "Permission denied")
        return glob(path, pattern)

    glob = Path.glob
    monkeypatch.setattr(Path, "glob", broken)
    found = over(systems, instance, timedelta(minutes=3), timedelta(minutes=1))
    assert set(found) >= {"flight_delay_ingest"}
    assert not [job for job in found if job.startswith("churn")]
    assert "churn's routine failed" in systems.titles()
