"""Do the statistics keep their word? False rollbacks, speed of detection, realised power, time of a look.

    python benchmarks/sequential.py [--paths 20000] [--runs 3000] [--seed 1] [--only detection ...]

Writes var/bench/statistics.json. Paths are guardrails simulated per scenario (20,000 make 1,000 rollouts with
20 guardrails); runs are experiments per power scenario. Seeded: the same arguments give the same numbers.
(The script is not called statistics.py because Python would then find it in place of the standard library's.)
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.sequential_parts import (
    detection,
    false_rollback,
    gateways,
    late,
    missing,
    moments,
    peers,
    power,
    promotion,
    slices,
    units,
)
from benchmarks.sequential_parts.rows import row
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.look import analyse
from pipelines.core.statistics.look_spec import LookSpec, MetricSpec
from resources.settings import Settings

PARTS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "look": lambda given: _look(),
    "detection": lambda given: detection.rows(max(given.paths // 10, 200), given.seed),
    "late": lambda given: late.rows(given.paths, given.seed),
    "gateways": lambda given: gateways.rows(given.paths, given.seed),
    "moments": lambda given: moments.rows(max(given.paths // 20, 200), given.seed),
    "units": lambda given: units.rows(given.paths, given.seed),
    "missing": lambda given: missing.rows(max(given.paths // 50, 100), given.seed),
    "power": lambda given: power.rows(given.runs, given.seed),
    "promotion": lambda given: promotion.rows(given.runs, given.seed),
    "slices": lambda given: slices.rows(given.paths, given.seed),
    "peers": lambda given: peers.rows(max(given.runs // 10, 100), given.seed),
    "false_rollback": lambda given: false_rollback.rows(given.paths, given.seed),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--paths", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    results: list[dict[str, Any]] = []
    for part in given.only:
        started = time.perf_counter()
        for result in PARTS[part](given):
            results.append(result)
            _tell(result)
        print(f"-- {part}: {time.perf_counter() - started:.0f} s", flush=True)
    path = Settings.from_environment().home / "bench" / "statistics.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path)


def _tell(result: dict[str, Any]) -> None:
    limit, value = result["limit"], result["ours"]
    if result["unit"] == "events":
        value = result["ratio"]
    mark = "" if limit is None else "  ok" if value <= limit else f"  ABOVE {limit}"
    print(
        f"{result['name']}: {result['ours']:g} against {result['reference']:g} ({result['ratio']}){mark}",
        flush=True,
    )


def _look() -> Iterator[dict[str, Any]]:
    """One look at three metrics from 1,460 buckets (two weeks of hours, plus a ramp), against adding them up."""
    rng = np.random.default_rng(0)
    cells = [_cell(rng, name, i) for name in ("cost", "errors", "slow", "clicks") for i in range(365)]
    spec = LookSpec(
        metrics=(
            MetricSpec(name="cost", kind=EffectKind.MEAN, mde=0.05, is_primary=True, leaves_units_out=True),
            MetricSpec(name="errors", kind=EffectKind.PROPORTION, margin=0.005),
            MetricSpec(name="slow", kind=EffectKind.PROPORTION, margin=0.01),
            MetricSpec(name="clicks", kind=EffectKind.PROPORTION, margin=0.01),
        ),
        shares={0: 0.1, 1: 0.5},
    )
    took = min(_milliseconds(lambda: analyse(cells, spec)) for _ in range(20))
    adding = min(_milliseconds(lambda: _added(cells)) for _ in range(20))
    yield row("one look from 1,460 buckets", took, adding, "adding up their sums in numpy", "ms", 50)


def _cell(rng: np.random.Generator, name: str, index: int) -> Cell:
    step = index // 200
    n1 = int(rng.binomial(1000, (0.1, 0.5)[step]))
    x1, x0 = rng.binomial(n1, 0.004), rng.binomial(1000 - n1, 0.004)
    zero, one = Sums(n=1000 - n1, sy=x0, syy=x0), Sums(n=n1, sy=x1, syy=x1)
    return Cell(name, step, 3600.0 * index, zero, one)


def _added(cells: list[Cell]) -> np.ndarray:
    return np.array([cell.champion for cell in cells]).sum(axis=0) + np.array(
        [cell.challenger for cell in cells]
    ).sum(axis=0)


def _milliseconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)


if __name__ == "__main__":
    main()
