"""One evaluation of very many open rollouts: read, fold, guardrail processes, decision.

    python benchmarks/many_rollouts.py [--rollouts 1000] [--guardrails 20]

Writes var/bench/many_rollouts.json. Each rollout has its history and its counters in one SQLite ledger. An evaluation
reads every rollout from it, takes new counters into each guardrail's e-process, judges them, decides, and writes down
what is news. The reference reads and parses the same events with sqlite3 and json alone. Limits are for two cores.
"""

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Decided,
    Decision,
    DecisionKind,
    Done,
    Event,
    EvidenceRecorded,
    Intent,
    Started,
)
from pipelines.core.rollout.policy import VALIDATION, Policy
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.platform.systems import Systems
from pipelines.rollouts.counting import first_watermark, written
from pipelines.rollouts.guardrails import GuardrailWatch
from pipelines.rollouts.open_rollout import open_rollout
from resources.ledger.counters import CounterBucket
from resources.ledger.ledger import Ledger
from resources.serving.contract import Counters, GatewayCounters, RevisionCounters
from resources.settings import ROOT, Settings

LIMIT_S = 60.0

START = datetime.now(UTC) - timedelta(minutes=10)

BUCKETS = 10
"""Stored buckets per guardrail."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--guardrails", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        systems = Systems(Settings.from_environment({"RAMPGATE_HOME": directory}))
        manifests = [manifest(k, options.guardrails) for k in range(options.rollouts)]
        for each in manifests:
            write_history(systems.ledger, each)
        results = measure(systems, manifests, Path(directory))
    save("many_rollouts", results)


def measure(systems: Systems, manifests: list[RolloutManifest], home: Path) -> list[dict[str, Any]]:
    """Starting all watches, one evaluation that finds news, one that finds none."""
    reference = timed(lambda: bare_read(home / "ledger.db"))
    watches: dict[str, GuardrailWatch] = {}
    started = timed(lambda: start_watches(systems, manifests, watches))
    first = timed(lambda: evaluate(systems, manifests, watches, polls=1))
    begun = time.process_time()
    second = timed(lambda: evaluate(systems, manifests, watches, polls=2))
    processor = time.process_time() - begun
    size = f"{len(manifests)} rollouts, {len(manifests[0].guardrails)} guardrails each"
    return [
        result(f"start watching: {size}", started, reference, limit=None),
        result(f"evaluate, with news: {size}", first, reference, limit=LIMIT_S),
        result(f"evaluate, no news: {size}", second, reference, limit=LIMIT_S),
        result(f"evaluate, no news, CPU time: {size}", processor, reference, limit=2 * LIMIT_S),
    ]


def start_watches(
    systems: Systems, manifests: list[RolloutManifest], watches: dict[str, GuardrailWatch]
) -> None:
    for each in manifests:
        state = open_rollout(systems.ledger, each.model)
        assert state is not None
        watches[each.model] = GuardrailWatch(
            store=systems.ledger.counters, manifest=each, state=state, save_every=timedelta(hours=1)
        )


def evaluate(
    systems: Systems, manifests: list[RolloutManifest], watches: dict[str, GuardrailWatch], *, polls: int
) -> None:
    for each in manifests:
        state = open_rollout(systems.ledger, each.model)
        assert state is not None
        watch = watches[each.model]
        watch.follow(state)
        watch.observe(counters(polls))
        decision = systems.controller.assess(state.rollout_id, watch.evidence(datetime.now(UTC)))
        assert decision.kind is DecisionKind.CONTINUE, decision


def counters(polls: int) -> Counters:
    """Cumulative; both sides fail one answer in a hundred."""
    total = 1000 * polls
    sides = tuple(
        RevisionCounters(
            revision=f"r{version}",
            version=version,
            requests=total,
            errors=total // 100,
            over_slo={250: total // 50},
        )
        for version in ("1", "2")
    )
    now = datetime.now(UTC)
    return Counters(at=now, gateways=(GatewayCounters(instance="e", at=now, revisions=sides),))


def manifest(number: int, guardrails: int) -> RolloutManifest:
    """Half of the guardrails count errors, half slow answers."""
    kinds = ({"source": "serving.errors"}, {"source": "serving.over_slo", "slo": "250ms"})
    shared = {"type": "proportion", "margin": "1pp"}
    return RolloutManifest.model_validate(
        {
            "model": f"model-{number}",
            "steps": [10, 50, 100],
            "experiment": {
                "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"}
            },
            "guardrails": [{"name": f"g{k}", **shared, **kinds[k % 2]} for k in range(guardrails)],
        }
    )


def write_history(ledger: Ledger, manifest: RolloutManifest) -> None:
    """Up to the first step, with evidence of each guardrail, and half a minute of buckets."""
    rollout_id = f"{manifest.model}-v2-00000000"
    ledger.append(*history(rollout_id, manifest))
    buckets = [
        CounterBucket(
            rollout_id=rollout_id,
            epoch="e",
            at=START + timedelta(minutes=1, seconds=k),
            step=0,
            metric=guardrail.name,
            canary_trials=10,
            canary_events=k % 10 == 0,
            champion_trials=90,
            champion_events=k % 2,
        )
        for k in range(BUCKETS)
        for guardrail in manifest.guardrails
    ]
    shown = counters(0).gateways
    before = written(first_watermark(Counters(at=START, gateways=shown)))
    ledger.counters.append(buckets, key=f"watch:{rollout_id}", value=before, after=None)


def history(rollout_id: str, manifest: RolloutManifest) -> list[Event]:
    """Started, deployed, validated, advanced to the first step, and one round of evidence."""

    def common(seq: int) -> dict[str, Any]:
        return {"rollout_id": rollout_id, "seq": seq, "at": START + timedelta(seconds=seq), "by": "benchmark"}

    advance = Decision(kind=DecisionKind.ADVANCE, rule="passed", reason="validated", step=0, percent=10.0)
    later = START + timedelta(minutes=9)
    names = ["units", *(guardrail.name for guardrail in manifest.guardrails)]
    return [
        Started(
            **common(1),
            model=manifest.model,
            version="2",
            champion="1",
            artefact=Artefact(uri="models/2", digest="0" * 64),
            salt=rollout_id,
            policy=Policy.of(manifest),
            manifest_digest="0" * 64,
        ),
        Intent(**common(2), action_id="deploy@2", action=Action.DEPLOY),
        Done(**common(3), action_id="deploy@2"),
        EvidenceRecorded(
            **common(4), evidence=(passed(VALIDATION, START + timedelta(seconds=4), VALIDATION),)
        ),
        Decided(**common(5), decision=advance),
        Intent(**common(6), action_id="set_percent@6", action=Action.SET_PERCENT, percent=10.0, step=0),
        Done(**common(7), action_id="set_percent@6"),
        EvidenceRecorded(**common(8), evidence=tuple(passed(name, later, "experiment") for name in names)),
    ]


def passed(name: str, at: datetime, source: str) -> Evidence:
    values = {"harm": 0.1, "boundary": 6.0, "effect": 0.001, "low": -0.01, "high": 0.01, "units": 500}
    return Evidence(
        name=name, source=source, verdict=Verdict.PASS, reason=f"{name} is as good", at=at, values=values
    )


def bare_read(path: Path) -> None:
    """Every event once, parsed and thrown away."""
    with sqlite3.connect(path) as connection:
        for (body,) in connection.execute("SELECT body FROM events ORDER BY rollout_id, seq"):
            json.loads(body)


def timed(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def result(name: str, ours: float, reference: float, *, limit: float | None) -> dict[str, Any]:
    print(f"{name}: {ours:.2f} s (bare read and parse: {reference:.2f} s)")
    return {
        "name": name,
        "ours": round(ours, 3),
        "reference": round(reference, 3),
        "reference_is": "sqlite3 and json reading the same events once",
        "ratio": round(ours / reference, 2),
        "unit": "s",
        "limit": limit,
    }


def save(name: str, results: list[dict[str, Any]]) -> None:
    folder = Settings.from_environment({}).home / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {(folder / f'{name}.json').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
