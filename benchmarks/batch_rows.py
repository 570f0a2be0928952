"""How memory and time of loading grow with the rows of one request: 1 to 100,000, beside a bare read of the same file.

    python benchmarks/batch_rows.py [--rows 100000]

Writes var/bench/batch_rows.json. Each log holds as many rows as the largest request, six features each. Memory is the
peak of a process of its own, less what the process had before it began.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.core.manifest.model import PredictionLog
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import counts
from resources.registry.signature import Column, ModelSchema
from resources.settings import Settings

MODEL = "benchmark"

FEATURES = tuple(f"f{i}" for i in range(6))

SCHEMA = ModelSchema(tuple(Column(name, "double") for name in FEATURES), (Column("probability", "double"),))

SIZES = (1, 10, 100, 1_000, 10_000, 100_000)

LEAST_MEMORY = 64.0
"""MB that any load takes: buffers, the catalogue, Parquet."""

LIMIT_MEMORY, LIMIT_TIME, LIMIT_FLAT = 8.0, 60.0, 3.0

BARE = f"DuckDB read_json of every value of the same files, two threads; memory at least {LEAST_MEMORY:g} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=SIZES[-1])
    parser.add_argument("--measure", choices=("ours", "reference"))
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measured(given.measure, given.log)))
        return
    results: list[dict[str, Any]] = []
    for size in (size for size in SIZES if size <= given.rows):
        with tempfile.TemporaryDirectory() as directory:
            log = Path(directory) / "log"
            log.mkdir()
            write_log(log, given.rows, size)
            ours, reference = (in_a_process(what, log) for what in ("ours", "reference"))
        assert ours["rows"] == given.rows, ours
        results += compared(size, given.rows, ours, reference)
    memory = [each["ours"] for each in results if each["unit"] == "MB"]
    what = f"the most memory that {given.rows:,} rows took, however many in a request"
    save(
        [*results, row(what, max(memory), memory[0], "MB", LIMIT_FLAT, f"{given.rows:,} requests of one row")]
    )


def compared(
    size: int, rows: int, ours: dict[str, float], reference: dict[str, float]
) -> list[dict[str, Any]]:
    """Two rows of the result."""
    memory = [max(LEAST_MEMORY, side["memory"]) for side in (ours, reference)]
    micros = [side["seconds"] / rows * 1e6 for side in (ours, reference)]
    return [
        row(f"peak memory of loading {rows:,} rows, {size:,} a request", *memory, "MB", LIMIT_MEMORY),
        row(f"time of loading a row, {size:,} a request", *micros, "µs", LIMIT_TIME),
    ]


def in_a_process(what: str, log: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, "--log", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def measured(what: str, log: Path) -> dict[str, float]:
    """Seconds, and MB beyond those that the process had when it began."""
    home = log.parent / what
    lake = Lake(f"sqlite:{home}/catalog.db", str(home / "data"), home)
    ingest_predictions(lake, MODEL, SCHEMA, log.parent / "nothing")
    limits = PredictionLog(max_rows=SIZES[-1], max_bytes=64 * 1024 * 1024)
    before, started = peak(), time.perf_counter()
    if what == "ours":
        rows = ingest_predictions(lake, MODEL, SCHEMA, log, limits=limits).rows
        assert counts(lake, MODEL).rows == rows
    else:
        rows = bare_read(log)
    return {"rows": rows, "seconds": time.perf_counter() - started, "memory": peak() - before}


def bare_read(log: Path) -> int:
    """Every value of the file, once."""
    with duckdb.connect(config={"threads": 2, "memory_limit": "1GB"}) as connection:
        found = connection.execute(
            """SELECT sum(list_sum(list_transform(data.inputs, lambda t: len(t.data))))
               FROM read_json($files, format = 'newline_delimited', maximum_object_size = 33554432, columns = {
                   id: 'VARCHAR', data: 'STRUCT(inputs STRUCT(name VARCHAR, data DOUBLE[])[])'})""",
            {"files": [str(path) for path in sorted(log.glob("*.jsonl"))]},
        ).fetchone()
    return int(found[0]) // len(FEATURES) if found else 0


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_log(log: Path, rows: int, size: int) -> None:
    """Closed segments of some 8 MB, as predictors write them."""
    part, number, held = [], 0, 0
    for first in range(0, rows, size):
        part.append(request(first, size))
        held += len(part[-1])
        if held > 8 * 1024 * 1024 or first + size >= rows:
            (log / f"benchmark-00001.writer.{number:08d}.jsonl").write_text("".join(part))
            part, number, held = [], number + 1, 0


def request(first: int, size: int) -> str:
    second, milli = divmod(first // size, 1000)
    shared = {
        "id": f"r-{first}", "source": "benchmark-00001",
        "time": f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.{milli:03d}000Z",
        "metadata": {"x-unit-id": [f"u{first}"], "x-assignment": ["weighted"]},
        "annotations": {"rampgate.io/version": "1", "rampgate.io/revision": "benchmark-00001"},
    }  # fmt: skip
    values = [(first + i) / 7 for i in range(size)]
    inputs = [{"name": name, "shape": [size], "datatype": "FP64", "data": values} for name in FEATURES]
    outputs = [{"name": "probability", "shape": [size], "datatype": "FP64", "data": values}]
    kind = "org.kubeflow.serving.inference."
    asked = shared | {"type": f"{kind}request", "data": {"inputs": inputs}}
    answered = shared | {
        "type": f"{kind}response",
        "latencyms": 3.2,
        "status": 200,
        "data": {"outputs": outputs},
    }
    return f"{json.dumps(asked)}\n{json.dumps(answered)}\n"


def row(name: str, ours: float, reference: float, unit: str, limit: float, of: str = BARE) -> dict[str, Any]:
    print(f"{name}: {ours:.1f} {unit}; {of}: {reference:.1f} {unit}", file=sys.stderr)
    return {
        "name": name,
        "ours": round(ours, 2),
        "reference": round(reference, 2),
        "reference_is": of,
        "ratio": round(ours / reference, 2),
        "unit": unit,
        "limit": limit,
    }


def save(results: list[dict[str, Any]]) -> None:
    path = Settings.from_environment().home / "bench" / "batch_rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
