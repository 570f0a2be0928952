"""How long a rehearsal takes: read the champion's history from a lake, play the rollouts.

    python benchmarks/rehearsal.py [--rows 10000000]

Writes var/bench/rehearsal.json. Each case is a process of its own with DuckDB's memory limit as shipped. Two weeks of answers with an
outcome for every other one, a mean from outcomes beside errors and latency, steps of 10 and 50 %, a bake; harm of 1, 5 and 20 %
in every metric.
"""

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.buckets import cpu_seconds, in_a_process, peak, row, save
from pipelines.core.manifest.model import RolloutManifest
from pipelines.experiments.rehearsal import rehearse
from pipelines.experiments.rehearsal_stage import set_stage
from resources.lake.connection import Lake
from resources.lake.schema import ensure_tables
from resources.registry.signature import Column, ModelSchema

START, DAYS = datetime(2026, 11, 1, tzinfo=UTC), 14

LIMIT = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    given = parser.parse_args()
    cases = [
        (given.rows, "request", 2, LIMIT),
        (given.rows, "customer", 2, LIMIT),
        (given.rows // 10, "request", 2, None),
        (given.rows // 10, "customer", 2, None),
        (given.rows // 10, "request", 8, None),
    ]
    save("rehearsal", [found for case in cases for found in rehearsed(*case)])


def rehearsed(rows: int, unit: str, guardrails: int, limit: float | None) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as home:
        in_a_process(write, home, rows, unit)
        seconds, played, cpu, memory = in_a_process(timed, home, unit, guardrails)
    name = f"rehearsal of {rows:,} answers, unit: {unit}, {1 + guardrails} metrics"
    whole = row(f"{name}, s", seconds, seconds - played, "s", limit)
    return [
        whole | {"reference_is": "reading the lake alone", "cpu_s": round(cpu, 1), "peak_mb": round(memory)}
    ]


def manifest(unit: str, guardrails: int) -> RolloutManifest:
    primary = {
        "name": "revenue",
        "type": "mean",
        "source": "outcomes.revenue",
        "better": "higher",
        "mde": "3%",
    }
    slow = {"type": "proportion", "source": "serving.over_slo", "margin": "1pp"}
    return RolloutManifest.model_validate(
        {
            "model": "benchmark",
            "steps": [10, 50, 100],
            "experiment": {"unit": unit, "primary": primary},
            "guardrails": [
                {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "0.5pp"},
                *(slow | {"name": f"slow{i}", "slo": f"{290 + i}ms"} for i in range(guardrails - 1)),
            ],
        }
    )


def lake_below(home: str) -> Lake:
    return Lake(f"sqlite:{home}/lake/catalog.db", f"{home}/lake/data", Path(home))


def timed(home: str, unit: str, guardrails: int) -> tuple[float, ...]:
    """(Seconds in all, of them playing, CPU seconds, peak MB)."""
    import scipy.special  # noqa: F401  (a process pays for it once, whatever it does)

    begin, used = time.perf_counter(), cpu_seconds()
    stage = set_stage(lake_below(home), manifest(unit, guardrails), "1", now=START + timedelta(days=DAYS))
    read = time.perf_counter()
    found = rehearse(stage)
    end = time.perf_counter()
    assert len(found.same.rollouts) == 50, found.same
    return (end - begin, end - read, cpu_seconds() - used, peak())


def write(home: str, n: int, unit: str) -> tuple[float, ...]:
    """Two answers for each unit id, in a row."""
    lake, step = lake_below(home), DAYS * 86_400_000_000 // n
    schema = ModelSchema((Column("before", "double"),), (Column("score", "double"),))
    key = "'r' || (2 * i)" if unit == "request" else "'u' || i"
    with lake.connect() as connection:
        ensure_tables(lake, connection, "benchmark", schema)
        connection.execute(
            f"""INSERT INTO lake.benchmark.predictions BY NAME
            SELECT 'r' || i AS request_id, 0 AS "row", 'u' || (i // 2) AS unit_id, 'b-1' AS revision, '1' AS version,
                'weighted' AS assignment, $start + to_microseconds(i * {step}) AS requested_at, NULL AS responded_at,
                hash(i) % 300 AS latency_ms, CASE WHEN hash(i, 9) % 500 = 0 THEN 500 ELSE 200 END AS status,
                {{'before': (hash(i, 1) % 100)::DOUBLE}} AS features, {{'score': 0.5::DOUBLE}} AS outputs, 's' AS segment
            FROM range({n}) t(i)""",
            {"start": START},
        )
        connection.execute(
            f"""INSERT INTO lake.benchmark.outcomes BY NAME
            SELECT 'o' || i AS id, {key} AS key, 'revenue' AS metric, (1 + hash(i, 2) % 5)::DOUBLE AS value,
                $start + to_microseconds((2 * i + 2) * {step}) AS "at", 's' AS segment FROM range({n // 2}) t(i)""",
            {"start": START},
        )
    return (0.0,)


if __name__ == "__main__":
    main()
