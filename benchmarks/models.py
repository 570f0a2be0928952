"""What the platform costs with many models, and how soon it acts.

    python benchmarks/models.py [--models 1,30,100,300] [--minutes 2] [--starts 5] [--rollouts 10] [--rollbacks 9]

For each number of models the whole platform is started in a home of its own (Dagster's daemon and code server, Envoy,
supervisord, MLflow). The models are idle: each has its folder and one version in MLflow, and nothing is served. Then the
version of some models gets the alias `challenger`, one after the other, and the ledger is watched for its first event.
With the most models, as many rollouts as `--rollouts` are opened beside the idle ones, on predictors that load no model,
and canaries that fail half of their answers are left to the guardrails, as in benchmarks/rollback.py.

CPU seconds are those of a part's processes and of all their children, read from /proc. The reference is the smallest
number of models.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rollback_parts.boundary import measure
from benchmarks.rollback_parts.logged import logged
from benchmarks.rollback_parts.rows import percentile
from pipelines.rollouts.open_rollout import open_rollout
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Supervisor, wait_until
from resources.settings import ROOT
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop

WATCHED = ("daemon", "code")
"""What the idle cost is made of; `runs` is where runs are forked from."""

IDLE_RATIO, IDLE_S = 1.15, 6.0
"""At the most models: times the cost at the fewest; seconds of a minute, 10 % of a core."""

EVENT_S, BOUNDARY_S = 10.0, 5.0

SETTLE_S, SETTLED, MOST_SETTLES = 30.0, 0.9, 12
"""Loading goes on in the daemon after all parts answer. Idle is when half a minute costs no less than nine tenths of the one before."""

PATIENCE_S = 240.0

RATE = 60.0


@dataclass(kw_only=True)
class Measured:
    """One number of models."""

    models: int
    load_s: float = 0.0
    """CPU seconds of the code server until the location has loaded."""
    idle: dict[str, float] = field(default_factory=dict[str, float])
    """CPU seconds a minute, by part."""
    memory: dict[str, float] = field(default_factory=dict[str, float])
    """MiB, by part."""
    events: list[float] = field(default_factory=list[float])
    """Seconds from alias to first event."""
    open_rollouts: int = 0
    busy: dict[str, float] = field(default_factory=dict[str, float])
    boundary: list[float] = field(default_factory=list[float])
    """Seconds from a guardrail's boundary to 0 %."""

    @property
    def idle_s(self) -> float:
        return sum(self.idle[part] for part in WATCHED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="1,30,100,300")
    parser.add_argument("--minutes", type=float, default=2.0, help="for which CPU time is counted")
    parser.add_argument("--starts", type=int, default=5, help="aliases given, at each number of models")
    parser.add_argument("--rollouts", type=int, default=10, help="open at the most models; 0 leaves them out")
    parser.add_argument("--rollbacks", type=int, default=9)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "models.json")
    given = parser.parse_args()
    numbers = sorted({int(text) for text in given.models.split(",")})
    measured: list[Measured] = []
    for number in numbers:
        measured.append(measure_at(number, given, most=number == numbers[-1]))
        print(measured[-1], flush=True)
        save(given.out, rows(measured))
    print(given.out.read_text())


def save(out: Path, results: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2) + "\n")


def measure_at(number: int, given: argparse.Namespace, *, most: bool) -> Measured:
    idle = [f"idle-{index:03}" for index in range(number)]
    rollouts = [f"busy-{index}" for index in range(given.rollouts if most else 0)]
    found = Measured(models=number)
    with light_platform(rollouts, idle=idle, serve=False, say=lambda _: None) as platform:
        source = logged(platform.settings.mlflow_uri)
        for model in idle:
            platform.register_logged(model, **source)
        found.load_s = spent(platform)["code"]
        settle(platform)
        found.idle, found.memory = a_minute(platform, given.minutes), memory(platform)
        for model in idle[: given.starts]:
            found.events.append(alias_to_event(platform, model))
        if rollouts:
            with_rollouts(platform, rollouts, given, found)
    return found


def with_rollouts(
    platform: LightPlatform, models: list[str], given: argparse.Namespace, found: Measured
) -> None:
    """Open rollouts that go well, counted; then as many that do not as are asked for."""
    platform.stop_looking()
    for model in models:
        platform.serve(model)
    opened = [platform.open(model, platform.register(model, "2")) for model in models]
    found.open_rollouts = len(opened)
    found.busy = a_minute(platform, given.minutes)
    for rollout_id in opened[:3]:
        platform.controller.roll_back_now(rollout_id, "the benchmark goes on", by="bench", ordered=True)
        wait_until(
            lambda each=rollout_id: platform.state(each).end is not None, seconds=PATIENCE_S, every=0.5
        )
    asked = argparse.Namespace(rollbacks=given.rollbacks, fail_share=0.5, seed=1)
    clients = OpenLoop(platform.settings, models[0], RATE)
    with clients.running():
        found.boundary = [each.boundary_to_safe for each in measure(platform, models[:3], clients, asked)]


def alias_to_event(platform: LightPlatform, model: str) -> float:
    """From the alias to the first event; the rollout is then ended, and its run waited for."""
    ledger = platform.systems.ledger
    begun = time.monotonic()
    platform.systems.registry.set_alias(model, "challenger", "1")
    if not wait_until(lambda: bool(ledger.rollouts(model)), seconds=PATIENCE_S, every=0.05):
        raise SystemExit(f"{model} was not started within {PATIENCE_S:g} s")
    seconds = time.monotonic() - begun
    platform.systems.registry.remove_alias(model, "challenger")
    wait_until(lambda: open_rollout(ledger, model) is None, seconds=PATIENCE_S, every=0.5)
    return round(seconds, 2)


def settle(platform: LightPlatform) -> None:
    """Wait until what starting costs is over."""
    before = float("inf")
    for _ in range(MOST_SETTLES):
        cost = a_minute(platform, SETTLE_S / 60)
        now = sum(cost[part] for part in WATCHED)
        if now >= SETTLED * before:
            return
        before = now


def a_minute(platform: LightPlatform, minutes: float) -> dict[str, float]:
    """CPU seconds a minute, by part."""
    before = spent(platform)
    begun = time.monotonic()
    time.sleep(60 * minutes)
    after, passed = spent(platform), (time.monotonic() - begun) / 60
    return {part: round((after[part] - before[part]) / passed, 2) for part in before}


def spent(platform: LightPlatform) -> dict[str, float]:
    return {part: sum(map(_cpu, _tree(pid))) for part, pid in _pids(platform).items()}


def memory(platform: LightPlatform) -> dict[str, float]:
    found = {
        part: sum(each.memory_info().rss for each in _tree(pid)) for part, pid in _pids(platform).items()
    }
    return {part: round(size / 2**20) for part, size in found.items()}


def _pids(platform: LightPlatform) -> dict[str, int]:
    processes = Supervisor(Layout(platform.settings.home).socket).processes()
    return {part: processes[part].pid for part in (*WATCHED, "runs", "mlflow")}


def _tree(pid: int) -> list[psutil.Process]:
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def _cpu(process: psutil.Process) -> float:
    """With what its ended children have used."""
    try:
        return float(sum(process.cpu_times()[:4]))
    except psutil.NoSuchProcess:
        return 0.0


def rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    least, most = measured[0], measured[-1]
    found: list[dict[str, Any]] = []
    for each in measured:
        size = f"{each.models} idle models"
        top = each is most
        found += [
            row(f"idle cost of daemon and code server: {size}", each.idle_s, least.idle_s, "s/min", IDLE_S),
            *(
                row(f"idle cost of {part}: {size}", each.idle[part], least.idle[part], "s/min", None)
                for part in each.idle
            ),
            row(f"memory of daemon and code server: {size}", _both(each), _both(least), "MiB", None),
            row(f"CPU time of loading the code location: {size}", each.load_s, least.load_s, "s", None),
        ]
        for p in (50, 99) if each.events else ():
            limit = EVENT_S if p == 99 and top else None
            name = f"alias -> first event in the ledger, {len(each.events)} starts, p{p}: {size}"
            found.append(row(name, percentile(each.events, p), percentile(least.events, p), "s", limit))
    if most is not least:
        name = f"idle cost at {most.models} models / at {least.models}"
        found.append(row(name, most.idle_s / least.idle_s, 1.0, "ratio", IDLE_RATIO))
    return found + _busy(most)


def _both(each: Measured) -> float:
    return sum(each.memory[part] for part in WATCHED)


def _busy(most: Measured) -> list[dict[str, Any]]:
    if not most.open_rollouts:
        return []
    size = f"{most.open_rollouts} open rollouts beside {most.models} idle models"
    busy = sum(most.busy[part] for part in WATCHED)
    found = [row(f"cost of daemon and code server: {size}", busy, most.idle_s, "s/min", None)]
    for p, limit in ((50, None), (99, BOUNDARY_S)) if most.boundary else ():
        name = f"boundary crossed -> 0 % confirmed, {len(most.boundary)} rollbacks, p{p}: {size}"
        middle = statistics.median(most.boundary)
        found.append(row(name, percentile(most.boundary, p), middle, "s", limit, "the median"))
    return found


def row(
    name: str,
    ours: float,
    reference: float,
    unit: str,
    limit: float | None,
    reference_is: str = "the same at the smallest number of models",
) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 2),
        "reference": round(reference, 2),
        "reference_is": reference_is,
        "ratio": round(ours / reference, 2) if reference else None,
        "unit": unit,
        "limit": limit,
    }


if __name__ == "__main__":
    main()
