"""Prediction log -> lake, in events per second, beside DuckDB merely counting the same lines.

    python benchmarks/ingest.py [--events 1000000]

Writes var/bench/ingest.json. An event is half a prediction (request or response), 6 features, 480 bytes on average.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import counts
from resources.registry.signature import Column, ModelSchema
from resources.settings import Settings

MODEL = "benchmark"

FEATURES = ("distance", "hour", "wind_speed", "visibility")

SCHEMA = ModelSchema(
    (*(Column(name, "double") for name in FEATURES), Column("origin", "string"), Column("carrier", "string")),
    (Column("probability", "double"),),
)

HEAD = (
    '{"specversion":"1.0","source":"benchmark-00001","datacontenttype":"application/json",'
    '"inferenceservicename":"benchmark","namespace":"default","component":"predictor","endpoint":"",'
    '"annotations":{"rampgate.io/version":"1","rampgate.io/revision":"benchmark-00001"},'
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    events = parser.parse_args().events
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        lake = Lake(f"sqlite:{home}/lake/catalog.db", str(home / "lake" / "data"), home)
        log = home / "log"
        log.mkdir()
        write_log(log, events, "bulk")
        results = [bulk(lake, log, events), steady(lake, log)]
        found = counts(lake, MODEL)
        assert (found.rows, found.duplicates) == (events // 2 + 10 * 50, 0), found
    save("ingest", results)


def bulk(lake: Lake, log: Path, events: int) -> dict[str, Any]:
    """A full log into an empty lake, against a bare count."""
    reference_wall, reference_cpu = timed(lambda: bare_count(log))
    wall, cpu = timed(lambda: ingest_predictions(lake, MODEL, SCHEMA, log))
    print(
        f"bulk: {events} events in {wall:.2f} s wall, {cpu:.2f} CPU s; bare count {reference_wall:.2f} s wall"
    )
    return row("events ingested per second", events / wall, events / reference_wall, "events/s") | {
        "reference_is": "DuckDB read_json count(*) of the same files, two threads",
        "cpu_seconds": round(cpu, 2),
        "reference_cpu_seconds": round(reference_cpu, 2),
    }


def steady(lake: Lake, log: Path) -> dict[str, Any]:
    """What a scheduled call with one small segment costs, the lake being as large as `bulk` left it."""
    ours: list[float] = []
    reference: list[float] = []
    for i in range(10):
        write_log(log, 100, f"small{i}")
        ours.append(timed(lambda: ingest_predictions(lake, MODEL, SCHEMA, log))[1])
        small = next(log.glob(f"small{i}.*"))
        reference.append(timed(lambda small=small: bare_count(small.parent, small.name))[1])
    ours.sort()
    reference.sort()
    return row("CPU seconds to ingest a segment of 50 predictions (median)", ours[5], reference[5], "s") | {
        "reference_is": "DuckDB read_json count(*) of that segment"
    }


def bare_count(log: Path, pattern: str = "*.jsonl") -> None:
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.execute(
            "SELECT count(*) FROM read_json($files, format = 'newline_delimited', columns = {id: 'VARCHAR'})",
            {"files": [str(path) for path in sorted(log.glob(pattern))]},
        ).fetchall()


def write_log(log: Path, events: int, name: str) -> None:
    """Closed segments of 10,000 predictions, a thousand requests a second."""
    draw = random.Random(name)
    for first in range(0, events // 2, 10_000):
        with (log / f"{name}.{first:09d}.jsonl").open("w") as file:
            for i in range(first, min(first + 10_000, events // 2)):
                file.write(prediction(f"{name}-{i}", i, draw))


def prediction(request_id: str, i: int, draw: random.Random) -> str:
    second, milli = divmod(i, 1000)
    stamp = f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}.{milli:03d}000Z"
    shared = (
        f'{HEAD}"id":"{request_id}","time":"{stamp}",'
        f'"metadata":{{"x-unit-id":["u{i % 50_000}"],"x-assignment":["weighted"]}},'
    )
    numbers = [tensor(name, "FP64", f"{draw.random() * 100:.4f}") for name in FEATURES]
    inputs = ",".join([*numbers, tensor("origin", "BYTES", '"JFK"'), tensor("carrier", "BYTES", '"UA"')])
    output = tensor("probability", "FP64", f"{draw.random():.6f}")
    return (
        f'{shared}"type":"org.kubeflow.serving.inference.request","data":{{"inputs":[{inputs}]}}}}\n'
        f'{shared}"type":"org.kubeflow.serving.inference.response","latencyms":3.2,"status":200,'
        f'"data":{{"model_name":"benchmark","model_version":"1","outputs":[{output}]}}}}\n'
    )


def tensor(name: str, datatype: str, value: str) -> str:
    return f'{{"name":"{name}","shape":[1],"datatype":"{datatype}","data":[{value}]}}'


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    work()
    return time.perf_counter() - wall, cpu_seconds() - cpu


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def row(name: str, ours: float, reference: float, unit: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 4),
        "reference": round(reference, 4),
        "ratio": round(ours / reference, 4),
        "unit": unit,
    }


def save(name: str, results: list[dict[str, Any]]) -> None:
    path = Settings.from_environment().home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
