"""Exactly once, whatever dies and whoever else is at work."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from resources.lake import segments
from resources.lake.connection import Lake, Location
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import counts
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, Log, predictions

ROOT = Path(__file__).parents[3]

INGEST = """
import sys
from pathlib import Path
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA
catalog, data, home, log = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
report = ingest_predictions(Lake(catalog, data, Path(home)), MODEL, SCHEMA, Path(log), portion_bytes=1)
print(report.segments, report.rows)
"""


def start_ingester(lake: Lake, log: Log) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", INGEST, lake.catalog, lake.data_path, str(lake.home), str(log.predictions)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def many_segments(log: Log, n: int, rows: int) -> None:
    for i in range(n):
        log.segment(f"{i:03d}", *predictions(f"s{i}", rows))


def test_a_failure_at_the_last_step_leaves_nothing(
    lake: Lake, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.segment("1", *predictions("a", 3))

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "record", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert counts(lake, MODEL).rows == 0
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows == 3
    assert counts(lake, MODEL)[:3] == (3, 3, 0)


def test_killed_while_ingesting(lake: Lake, log: Log) -> None:
    many_segments(log, 60, 20)
    process = start_ingester(lake, log)
    go(process)
    while counts(lake, MODEL).segments < 3:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = counts(lake, MODEL)
    assert before.segments < 60, "it was done before it could be killed"
    assert before.rows == before.segments * 20
    rest = ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert rest.segments == 60 - before.segments
    assert counts(lake, MODEL)[:3] == (1200, 1200, 0)


def test_two_processes_share_the_work(lake: Lake, log: Log) -> None:
    many_segments(log, 12, 20)
    ingesters = [start_ingester(lake, log) for _ in range(2)]
    for process in ingesters:
        go(process)
    reports = [process.communicate(timeout=120)[0].split() for process in ingesters]
    assert sum(int(loaded) for loaded, _ in reports) == 12
    assert sum(int(rows) for _, rows in reports) == 240
    assert counts(lake, MODEL)[:3] == (240, 240, 0)


def test_the_catalogue_itself_refuses_the_loser(
    lake: Lake, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the queue of writers: both have loaded the segment before either commits."""
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.segment("1", *predictions("a", 5))
    monkeypatch.setattr(Location, "writing", lambda _: nullcontext())
    both_loaded = threading.Barrier(2, timeout=60)
    record, waited = segments.record, threading.local()

    def record_together(*arguments: object) -> None:
        record(*arguments)  # type: ignore[arg-type]
        if not getattr(waited, "done", False):
            waited.done = True
            both_loaded.wait()

    monkeypatch.setattr(segments, "record", record_together)
    reports: list[int] = []

    def ingest() -> None:
        reports.append(ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows)

    threads = [threading.Thread(target=ingest) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reports) == [0, 5]
    assert counts(lake, MODEL)[:3] == (5, 5, 0)


def test_readers_always_see_whole_segments(lake: Lake, log: Log) -> None:
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    many_segments(log, 15, 10)
    process = start_ingester(lake, log)
    go(process)
    seen: list[int] = []
    while process.poll() is None:
        with lake.connect() as connection:
            row = connection.execute(
                f"""SELECT (SELECT count(*) FROM lake."{MODEL}".predictions),
                    (SELECT coalesce(sum(rows), 0) FROM lake."{MODEL}".segments)"""
            ).fetchone()
        assert row is not None
        assert row[0] == row[1]
        seen.append(row[0])
        time.sleep(0.02)
    process.communicate()
    assert seen == sorted(seen)
    assert len(set(seen)) > 2, "read beside a writer at work"


def test_a_lake_that_was_replaced_is_opened_anew(lake: Lake, log: Log) -> None:
    log.segment("1", *predictions("a", 2))
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    for file in Path(lake.catalog.removeprefix("sqlite:")).parent.glob("catalog.db*"):
        file.unlink()
    assert counts(lake, MODEL).rows == 0
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows == 2
