"""Exposures -> additive buckets -> every metric of a look, beside one bare GROUP BY on the same Parquet file.

    python benchmarks/buckets.py [--rows 10000000] [--raw 1000000]

Writes var/bench/buckets.json. An exposure is a row with the values of four metrics (proportion, mean with a CUPED
covariate, ratio, latency over SLO). `--raw` is the size of the whole way from prediction rows and outcomes in a lake.
Compares with one mean by tea-tasting and by spotify-confidence, which gets an environment of its own from
benchmarks/peers.lock.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.effects import Cell, EffectKind
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.look_spec import LookSpec, MetricSpec
from pipelines.core.statistics.srm import StepUnits
from pipelines.experiments.analysing import analyse_next
from resources.lake.buckets import cells_of_values, collect
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow
from resources.lake.schema import ensure_tables
from resources.registry.signature import Column, ModelSchema
from resources.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)

DAYS = 10

METRICS = (
    MetricQuery(name="bought", kind=UnitValue.ANY, source="outcomes.bought"),
    MetricQuery(
        name="revenue", kind=UnitValue.AMOUNT, source="outcomes.revenue", covariate="predictions.before"
    ),
    MetricQuery(name="clicks", kind=UnitValue.RATIO, source="outcomes.clicks", denominator="outcomes.views"),
    MetricQuery(name="slow", kind=UnitValue.ANY, source="serving.over_slo", slo_ms=250.0),
)

KINDS = (EffectKind.PROPORTION, EffectKind.MEAN, EffectKind.RATIO, EffectKind.PROPORTION)

SPEC = LookSpec(
    metrics=tuple(
        MetricSpec(name=m.name, kind=kind, margin=0.1, use_covariate=m.covariate is not None)
        for m, kind in zip(METRICS, KINDS, strict=True)
    ),
    shares={0: 0.1, 1: 0.5},
)

QUERY = ExperimentQuery(
    champion="1",
    challenger="2",
    steps=(
        StepWindow(START, START + timedelta(days=5), 0),
        StepWindow(START + timedelta(days=5), START + timedelta(days=DAYS), 1),
    ),
    metrics=METRICS,
    outcome_window=timedelta(hours=1),
    watermark=START + timedelta(days=DAYS + 1),
    by_request=False,
    bucket=timedelta(minutes=30),
)

SUMS = """count(y0), sum(y0), sum(y0 * y0), count(y1), sum(y1), sum(y1 * y1), sum(x1), sum(x1 * x1),
    sum(x1 * y1), count(y2), sum(y2), sum(y2 * y2), sum(d2), sum(d2 * d2), sum(y2 * d2), count(y3), sum(y3), sum(y3 * y3)"""

BARE = f"SELECT challenger, {SUMS} FROM read_parquet($file) GROUP BY ALL"

BARE_BUCKETS = f"""SELECT step, epoch_us(exposed) // 1800000000, challenger, {SUMS}
    FROM read_parquet($file) GROUP BY ALL"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--raw", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        file = str(Path(directory) / "exposures.parquet")
        write_exposures(file, given.rows)
        rows = summing(file, given.rows) + whole_way(Path(directory), given.raw) + peers(file)
    save("buckets", rows)


def summing(file: str, n: int) -> list[dict[str, Any]]:
    """Values per unit -> buckets -> look."""
    # One after the other in turn: another process on the machine hits both alike.
    reference, coarse, ours = [], [], []
    for _ in range(3):
        reference.append(in_a_process(bare, file, BARE_BUCKETS)[0])
        ours.append(in_a_process(look_at, file))
        coarse.append(in_a_process(bare, file, BARE)[0])
    best = min(ours)
    memory = max(found[1] for found in ours)
    return [
        row(f"{n:,} exposures to a look, CPU s", best[0], min(reference), "CPU s", 1.2)
        | {"reference_is": "one bare DuckDB GROUP BY of the same sums in the same buckets of the same file"},
        row(f"{n:,} exposures to a look, beside two groups, CPU s", best[0], min(coarse), "s", None)
        | {"reference_is": "one bare DuckDB GROUP BY of the same sums by version alone: two groups, no time"},
        row("peak memory of that process, MB", memory, None, "MB", 300),
        row("a look from its buckets, CPU ms", best[2], None, "ms", 50)
        | {"cells": int(best[3]), "reference_is": "none: the limit is a time"},
    ]


def bare(file: str, query: str) -> tuple[float, ...]:
    with duckdb.connect(config={"threads": 2, "memory_limit": "200MB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        begin = cpu_seconds()
        connection.execute(query, {"file": file}).fetchall()
        return (cpu_seconds() - begin, peak())


def look_at(file: str) -> tuple[float, ...]:
    """(CPU seconds in all, peak MB, ms of the look alone, cells)."""
    import scipy.special  # noqa: F401  (a process pays for it once, whatever it looks at)

    with duckdb.connect(config={"threads": 2, "memory_limit": "200MB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        begin = cpu_seconds()
        connection.execute(f"CREATE TEMP VIEW unit_values AS SELECT * FROM read_parquet('{file}')")
        cells = cells_of_values(connection, QUERY)
        from_cells = cpu_seconds()
        looked(cells)
        end = cpu_seconds()
    return (end - begin, peak(), 1000 * (end - from_cells), float(len(cells)))


def looked(cells: list[Cell]) -> Look:
    counted: dict[int, list[float]] = {}
    for cell in cells:
        if cell.metric == "bought":
            both = counted.setdefault(cell.step, [0.0, 0.0])
            both[0] += cell.champion.n
            both[1] += cell.challenger.n
    units = tuple(StepUnits(step, *both, SPEC.shares[step]) for step, both in sorted(counted.items()))
    return analyse_next(cells, SPEC, units, past=[], planned_looks={}, is_last_step=True)


def whole_way(home: Path, n: int) -> list[dict[str, Any]]:
    """Rows of the prediction log and outcomes in a lake -> cohort -> values -> buckets, memory limit as shipped."""
    seconds, memory, reference = in_a_process(raw, str(home), n)
    return [
        row(f"{n:,} logged predictions and their outcomes to buckets, s", seconds, reference, "s", None)
        | {
            "reference_is": "a bare GROUP BY over the predictions alone: no cohort, no joins",
            "peak_mb": round(memory),
        }
    ]


def raw(home: str, n: int) -> tuple[float, ...]:
    lake = Lake(f"sqlite:{home}/lake/catalog.db", f"{home}/lake/data", Path(home))
    schema = ModelSchema((Column("before", "double"),), (Column("score", "double"),))
    with lake.connect() as connection:
        ensure_tables(lake, connection, "benchmark", schema)
        connection.execute(
            f"""INSERT INTO lake.benchmark.predictions BY NAME
            SELECT 'r' || i AS request_id, 0 AS "row", 'u' || (i // 2) AS unit_id, 'b-1' AS revision,
                CASE WHEN hash(i // 2) % 100 < 30 THEN '2' ELSE '1' END AS version, 'weighted' AS assignment,
                $start + to_microseconds(i * {DAYS * 86_400_000_000 // n}) AS requested_at, NULL AS responded_at,
                hash(i) % 300 AS latency_ms, 200 AS status, {{'before': (hash(i, 1) % 100)::DOUBLE}} AS features,
                {{'score': 0.5::DOUBLE}} AS outputs, 's' AS segment
            FROM range({n}) t(i)""",
            {"start": START},
        )
        for k, name in enumerate(("bought", "revenue", "clicks", "views")):
            connection.execute(
                f"""INSERT INTO lake.benchmark.outcomes BY NAME
                SELECT 'o{k}-' || i AS id, 'u' || i AS key, '{name}' AS metric,
                    (1 + hash(i, {k}) % 5)::DOUBLE AS value,
                    $start + to_microseconds((2 * i + 2) * {DAYS * 86_400_000_000 // n}) AS "at", 's' AS segment
                FROM range({n // 2}) t(i)""",
                {"start": START},
            )
    begin = time.perf_counter()
    found = collect(lake, "benchmark", QUERY)
    spent = time.perf_counter() - begin
    assert found.cells and found.coverage.units == n // 2, found.coverage
    memory = peak()
    with lake.connect() as connection:
        begin = time.perf_counter()
        connection.execute(
            """SELECT version, count(*), sum(latency_ms), sum(latency_ms * latency_ms), sum(features.before)
            FROM lake.benchmark.predictions GROUP BY version"""
        ).fetchall()
    return (spent, memory, time.perf_counter() - begin)


def peers(file: str) -> list[dict[str, Any]]:
    """One mean by a peer, beside all of our metrics to a look."""
    ours = in_a_process(look_wall, file)[0]
    return [
        row(
            "four metrics to a look, beside one mean of a peer, s", ours, asked(python, name, file), "s", None
        )
        | {"reference_is": name}
        for name, python in (("tea_tasting", Path(sys.executable)), ("spotify_confidence", peers_python()))
    ]


def asked(python: Path, peer: str, file: str) -> float:
    script = Path(__file__).parent / "bucket_parts" / "peers.py"
    found = subprocess.run([python, script, peer, file], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])


def peers_python() -> Path:
    """An environment for the peer that does not belong into ours, from its own lock file."""
    place, lock = Settings.from_environment().home / "peers-venv", Path(__file__).parent / "peers.lock"
    python, made_from = place / "bin" / "python", place / "peers.lock"
    if not made_from.exists() or made_from.read_bytes() != lock.read_bytes():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, place], check=True)
        install = [
            "pip",
            "install",
            "--quiet",
            "--python",
            python,
            "--no-deps",
            "--require-hashes",
            "-r",
            lock,
        ]
        subprocess.run([uv, *install], check=True)
        shutil.copy(lock, made_from)
    return python


def look_wall(file: str) -> tuple[float, ...]:
    begin = time.perf_counter()
    look_at(file)
    return (time.perf_counter() - begin,)


def write_exposures(file: str, n: int) -> None:
    with duckdb.connect(config={"threads": 2, "memory_limit": "500MB"}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""COPY (SELECT (i >= {n // 2})::INTEGER AS step,
                TIMESTAMPTZ '2026-01-01 00:00:00+00' + to_microseconds(i * {DAYS * 86_400_000_000 // n}) AS exposed,
                hash(i) % 100 < CASE WHEN i < {n // 2} THEN 10 ELSE 50 END AS challenger,
                (hash(i, 1) % 20 = 0)::DOUBLE AS y0, -ln(1e-9 + (hash(i, 2) % 1000000) / 1e6) AS y1,
                (hash(i, 3) % 1000)::DOUBLE AS x1, (hash(i, 4) % 5)::DOUBLE AS y2, (1 + hash(i, 5) % 9)::DOUBLE AS d2,
                (hash(i, 6) % 50 = 0)::DOUBLE AS y3
            FROM range({n}) t(i)) TO '{file}' (FORMAT parquet)"""
        )


def in_a_process(work: Callable[..., tuple[float, ...]], *arguments: Any) -> tuple[float, ...]:
    """In a process of its own: its peak memory is nobody else's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def cpu_seconds() -> float:
    """Of this process, all threads: unlike time on the wall, hardly moved by what else the machine does."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak() -> float:
    """MB of this process at most, Python and libraries included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(name: str, ours: float, reference: float | None, unit: str, limit: float | None) -> dict[str, Any]:
    ratio = None if reference is None else round(ours / reference, 3)
    told = f"{name}: {ours:.3g} {unit}" + (
        f", reference {reference:.3g} {unit}, ratio {ratio}" if reference else ""
    )
    print(told + (f", limit {limit:g}" if limit else ""))
    return {
        "name": name,
        "ours": round(ours, 4),
        "reference": reference,
        "reference_is": "none",
        "ratio": ratio,
        "unit": unit,
        "limit": limit,
    }


def save(name: str, rows: list[dict[str, Any]]) -> None:
    folder = Settings.from_environment().home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
