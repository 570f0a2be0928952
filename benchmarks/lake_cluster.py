"""The lake on Postgres and an S3-compatible server: writers and readers at the same time.

    python benchmarks/lake_cluster.py [--seconds 60] [--writers 4] [--readers 4]

Every writer closes segments into one log and ingests whatever is not loaded yet, so that all of them race for the same
segments; every reader counts and aggregates. Writes var/bench/lake_cluster.json. Needs Postgres and `weed`.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import counts
from resources.settings import Settings
from tests.resources.lake.segments_by_hand import SCHEMA, predictions
from tests.support.cluster_services import object_store, postgres

MODEL = "contended"

PER_SEGMENT = 200

TOGETHER: Any = None
"""The barrier of a run, set in each of its processes."""


@dataclass(frozen=True)
class Place:
    """Where the processes of one run meet."""

    dsn: str
    home: Path
    log: Path
    seconds: float = 0

    def lake(self, name: str) -> Lake:
        return Lake(
            f"postgres:{self.dsn}",
            "s3://rampgate-lake/data",
            self.home / name,
            memory_limit="300MB",
            threads=1,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--readers", type=int, default=4)
    given = parser.parse_args()
    with postgres() as dsn, object_store() as variables, tempfile.TemporaryDirectory() as directory:
        os.environ.update(variables)
        home = Path(directory)
        ingest_predictions(Place(dsn, home, home).lake("main"), MODEL, SCHEMA, home / "nothing")
        results = measured(dsn, home, given.seconds, given.writers, given.readers)
    save("lake_cluster", results)


def measured(dsn: str, home: Path, seconds: float, writers: int, readers: int) -> list[dict[str, Any]]:
    alone = run(dsn, home / "alone", min(seconds, 15), writers=1, readers=0)
    quiet = run(dsn, home / "quiet", min(seconds, 15), writers=0, readers=readers)
    both = run(dsn, home / "both", seconds, writers=writers, readers=readers)
    lake = Place(dsn, home, home).lake("main")
    written, found = alone.written + both.written, counts(lake, MODEL)
    distinct = distinct_rows(lake)
    assert both.errors == quiet.errors == [], (both.errors + quiet.errors)[:3]
    calm, busy = percentile(quiet.reads, 99), percentile(both.reads, 99)
    return [
        row("lost", written - distinct, written, "predictions written", "predictions", 0),
        row("duplicate", found.rows - distinct, written, "predictions written", "predictions", 0),
        row("ingested", both.written / both.took, alone.written / alone.took, "one writer alone", "predictions/s", None),
        row("read_p50", percentile(both.reads, 50), percentile(quiet.reads, 50), "the same readers without writers", "ms", None),
        row("read_p99", busy, calm, "the same readers without writers", "ms", None),
        row("read_max", max(both.reads), max(quiet.reads), "the same readers without writers", "ms", 10_000),
    ]  # fmt: skip


@dataclass(frozen=True)
class Run:
    written: int
    took: float
    reads: list[float]
    """Milliseconds."""
    errors: list[str]


def run(dsn: str, home: Path, seconds: float, *, writers: int, readers: int) -> Run:
    log = home / "log"
    log.mkdir(parents=True)
    context = multiprocessing.get_context("spawn")
    place = Place(dsn, home, log, seconds)
    together = context.Barrier(writers + readers)
    with context.Pool(writers + readers, initializer=meet, initargs=(together,)) as pool:
        writing = [pool.apply_async(write, (place, number)) for number in range(writers)]
        reading = [pool.apply_async(read, (place, number)) for number in range(readers)]
        written = [each.get() for each in writing]
        read_all = [each.get() for each in reading]
    ingest_predictions(place.lake("rest"), MODEL, None, log)
    return Run(
        sum(made for made, _ in written),
        max([took for _, took in written], default=0.0),
        [ms for times, _ in read_all for ms in times],
        [error for _, errors in read_all for error in errors],
    )


def meet(together: Any) -> None:
    """In each process, before anything else."""
    global TOGETHER
    TOGETHER = together


def begin(lake: Lake) -> float:
    """When everybody has opened the lake; returns now."""
    with lake.connect():
        TOGETHER.wait(120)
    return time.monotonic()


def write(place: Place, number: int) -> tuple[int, float]:
    """Predictions that this writer put into the log, and how long it took to write and load."""
    lake, written = place.lake(f"writer-{number}"), 0
    started = begin(lake)
    while time.monotonic() - started < place.seconds:
        lines = predictions(f"{place.home.name}-{number}-{written}", PER_SEGMENT)
        draft = place.log / f"{place.home.name}-w{number}.{written:08d}.draft"
        draft.write_text("".join(lines))
        draft.rename(draft.with_suffix(".jsonl"))
        written += PER_SEGMENT
        ingest_predictions(lake, MODEL, None, place.log)
    return written, time.monotonic() - started


def read(place: Place, number: int) -> tuple[list[float], list[str]]:
    """How long each read took, and what went wrong."""
    from pipelines.core.errors import LakeError

    lake, times, errors = place.lake(f"reader-{number}"), list[float](), list[str]()
    seen, begun = 0, begin(lake)
    while time.monotonic() - begun < place.seconds:
        started = time.perf_counter()
        try:
            with lake.connect() as connection:
                rows = connection.execute(
                    f'SELECT count(*), avg(latency_ms), count(DISTINCT unit_id) FROM lake."{MODEL}".predictions'
                ).fetchall()
        except LakeError as error:
            errors.append(str(error))
            continue
        times.append((time.perf_counter() - started) * 1000)
        if rows[0][0] < seen:
            errors.append(f"a read saw {rows[0][0]} rows after {seen}")
        seen = rows[0][0]
        time.sleep(0.05)
    return times, errors


def distinct_rows(lake: Lake) -> int:
    with lake.connect() as connection:
        query = f'SELECT count(DISTINCT (request_id, "row")) FROM lake."{MODEL}".predictions'
        return int(connection.execute(query).fetchall()[0][0])


def percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def row(name: str, ours: float, reference: float, is_: str, unit: str, limit: float | None) -> dict[str, Any]:
    return {
        "name": f"lake_cluster.{name}",
        "ours": round(ours, 1),
        "reference": round(reference, 1),
        "reference_is": is_,
        "ratio": round(ours / reference, 3) if reference else None,
        "unit": unit,
        "limit": limit,
    }


def save(name: str, results: list[dict[str, Any]]) -> None:
    path = Settings.from_environment().home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
