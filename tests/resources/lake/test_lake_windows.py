"""Windows of the prediction log, and the housekeeping that must not change them."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest

from pipelines.core.errors import LakeError
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.maintenance import expire_unpaired, maintain, remove_loaded
from resources.lake.schema import RowCounts, counts
from resources.lake.windows import answered, window
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, lake_below, prediction

Rows = Callable[[str], list[tuple[Any, ...]]]

MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """For all who only read it."""
    home = tmp_path_factory.mktemp("hour")
    return an_hour(lake_below(home, threads=2), Log.below(home))


@pytest.fixture
def own_hour(lake: Lake, log: Log) -> Lake:
    return an_hour(lake, log)


def an_hour(lake: Lake, log: Log) -> Lake:
    """An hour with a prediction a minute: version 1, every third version 2, every tenth pinned."""
    for part in range(6):
        lines: list[str] = []
        for i in range(part * 10, part * 10 + 10):
            lines += prediction(
                f"r{i}", at=i * MINUTE, version="2" if i % 3 == 0 else "1", status=500 if i == 59 else 200,
                assignment="pinned" if i % 10 == 0 else "weighted", inputs={"distance": [float(i)], "origin": ["JFK"]},
            )  # fmt: skip
        log.segment(str(part), *lines)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions, portion_bytes=1)
    return lake


def test_a_sample_is_taken_of_answered_rows_and_no_failure_makes_it_smaller(hour: Lake) -> None:
    """59 of the hour's 60 are answered, six of them pinned: a sample of 53 has 53 rows."""
    assert len(answered(hour, MODEL, START, START + 60 * MINUTE, sample=53)) == 53
    assert set(answered(hour, MODEL, START, START + 60 * MINUTE, sample=1000)["status"]) == {200}


def distances(frame: pd.DataFrame) -> list[float]:
    return sorted(frame["features.distance"])


def test_the_end_is_not_part_of_a_window(hour: Lake) -> None:
    frame = window(hour, MODEL, START + 5 * MINUTE, START + 10 * MINUTE)
    assert distances(frame) == [5.0, 6.0, 7.0, 8.0, 9.0]
    assert list(frame.columns) == [
        "request_id", "row", "unit_id", "version", "requested_at", "latency_ms", "status",
        "features.distance", "features.origin", "outputs.probability",
    ]  # fmt: skip
    assert str(frame["requested_at"].dt.tz) == "UTC"


def test_version_and_assignment(hour: Lake) -> None:
    def found(**options: Any) -> list[float]:
        return distances(window(hour, MODEL, START, START + 13 * MINUTE, **options))

    assert found(version="2") == [3, 6, 9, 12]
    assert found(version="2", assignment="pinned") == [0]
    assert found(version="2", assignment=None) == [0, 3, 6, 9, 12]
    assert found(version="9") == []


def test_a_sample_is_repeatable_and_depends_on_the_seed(hour: Lake) -> None:
    def sample(seed: int) -> list[float]:
        return distances(window(hour, MODEL, START, START + 60 * MINUTE, sample=20, seed=seed))

    assert len(sample(1)) == 20
    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert len(window(hour, MODEL, START, START + 60 * MINUTE, sample=1000)) == 54


def test_sampling_is_uniform(hour: Lake) -> None:
    drawn = [
        x for seed in range(30) for x in distances(window(hour, MODEL, START, START + 60 * MINUTE, sample=18, seed=seed))
    ]  # fmt: skip
    times = pd.Series(drawn).value_counts()
    assert len(times) == 54
    # Each row is drawn Binomial(30, 1/3) times: 10 +- 2.58, and 54 of them must hold.
    assert times.between(10 - 3.5 * 2.58, 10 + 5 * 2.58).all()


def test_a_model_without_tables_is_named(lake: Lake) -> None:
    with pytest.raises(LakeError, match="nothing of model 'flight-delay'"):
        window(lake, MODEL, START, START + MINUTE)
    assert counts(lake, MODEL) == RowCounts()


def test_maintenance_changes_files_and_not_data(own_hour: Lake, rows: Rows, log: Log) -> None:
    before = window(own_hour, MODEL, START, START + 60 * MINUTE).sort_values("request_id", ignore_index=True)
    done = maintain(own_hour, keep_snapshots=timedelta(0))
    assert done.files_merged > 6
    assert done.snapshots_expired > 5
    assert done.files_removed > 6
    after = window(own_hour, MODEL, START, START + 60 * MINUTE).sort_values("request_id", ignore_index=True)
    pd.testing.assert_frame_equal(before, after)
    log.segment("more", *prediction("more", at=30 * MINUTE))
    assert ingest_predictions(own_hour, MODEL, SCHEMA, log.predictions).rows == 1
    assert counts(own_hour, MODEL)[:3] == (61, 61, 0)


def test_maintenance_keeps_recent_snapshots(own_hour: Lake) -> None:
    assert maintain(own_hour).snapshots_expired == 0


def test_halves_that_waited_too_long_go_to_the_quarantine(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment("1", prediction("a")[0])
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert expire_unpaired(lake, MODEL) == 1
    assert expire_unpaired(lake, MODEL) == 0
    assert rows("SELECT reason, raw FROM quarantine") == [
        ("a request without its other half since 2026-01-01 00:00:00+00", "request a")
    ]
    assert rows("SELECT count(*) FROM unpaired") == [(0,)]


def test_loaded_segments_are_removed_and_no_others(own_hour: Lake, log: Log) -> None:
    waiting = log.segment("waiting", *prediction("later"))
    assert remove_loaded(own_hour, MODEL, "predictions", log.predictions) == 0
    assert remove_loaded(own_hour, MODEL, "predictions", log.predictions, older_than=timedelta(0)) == 6
    assert list(log.predictions.iterdir()) == [waiting]
    assert ingest_predictions(own_hour, MODEL, SCHEMA, log.predictions).rows == 1


def test_a_call_that_was_asked_again_counts_once_by_the_attempt_that_its_caller_got(
    lake: Lake, log: Log
) -> None:
    """The first champion froze and answered after all, or failed; the canary's copy and its own attempt are other sides."""
    again = timedelta(seconds=1)

    def asked(call: str, at: timedelta, probability: float, **options: Any) -> list[str]:
        return prediction(call, at=at, outputs={"probability": [probability]}, **options)

    log.segment(
        "all",
        *asked("late", MINUTE, 0.1, version="1", revision="a"),
        *asked("late", MINUTE + again, 0.2, version="1", revision="b"),
        *asked("same", MINUTE, 0.1, version="1", revision="a"),
        *asked("same", MINUTE + again, 0.2, version="1", revision="a"),
        *asked("failed", MINUTE, 0.1, version="1", revision="a", status=500),
        *asked("failed", MINUTE + again, 0.2, version="1", revision="b"),
        *asked("lost", MINUTE, 0.1, version="1", revision="a"),
        *asked("lost", MINUTE + again, 0.2, version="1", revision="b", status=500),
        *asked("canary", MINUTE, 0.3, version="2", revision="c"),
        *asked("canary", MINUTE + again, 0.2, version="1", revision="b"),
        *asked("canary", MINUTE, 0.9, version="3", revision="d", assignment="shadow"),
    )
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    end = START + 60 * MINUTE

    def outputs(**options: Any) -> list[tuple[str, float]]:
        frame = answered(lake, MODEL, START, end, sample=options.pop("sample", 1000), **options)
        return sorted(zip(frame["request_id"], frame["outputs.probability"], strict=True))

    got = [("canary", 0.2), ("failed", 0.2), ("late", 0.2), ("same", 0.2)]
    assert outputs() == outputs(version="1") == outputs(sample=4) == got
    assert outputs(version="2") == [("canary", 0.3)], "which was asked first, and whose answer it is"
    statuses = {each: window(lake, MODEL, START, end, version=each)["status"].tolist() for each in ("1", "2")}
    assert [len(found) for found in statuses.values()] == [5, 1]
    assert sum(status != 200 for status in statuses["1"]) == 1
    assert len(window(lake, MODEL, START, end, assignment=None)) == 6
