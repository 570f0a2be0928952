"""A whole rollout on generated traffic: real segments, lake, ledger and controller; the serving side is in memory."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.core.manifest.load import Model
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.experiments.exposure import belongs_to_challenger
from pipelines.experiments.looks import TakenLook, take_look
from resources.lake.ingest import ingest_predictions
from resources.lake.outcomes import ingest_outcomes
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import lake_below
from tests.support.rollouts import MODEL, Clock, Rig, artefact

SCHEMA = ModelSchema((Column("amount", "double"),), (Column("score", "double"),))

MINUTE = timedelta(minutes=1)

DAY = timedelta(days=1)

Cost = Callable[[np.random.Generator, bool], float | None]
"""The cost that a unit causes, given whether the challenger served it; None where nobody ever says."""

Assign = Callable[[str, str, float], bool]


def ab_manifest(**changes: Any) -> RolloutManifest:
    """A cost per customer, and errors, in minutes instead of days."""
    return RolloutManifest.model_validate(
        {
            "model": MODEL,
            "steps": [20, 50, 100],
            "bake": "0s",
            "experiment": {
                "unit": "customer",
                "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%"},
                "outcome_window": "30s",
                "look_every": "1m",
                "max_duration": "20m",
            },
            "guardrails": [
                {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "5pp"}
            ],
            "step": {"min_duration": "2m", "min_units": 50},
        }
        | changes
    )


def same_cost(random: np.random.Generator, is_challenger: bool) -> float:
    return float(random.gamma(4.0, 0.5))


@dataclass
class Simulation:
    """One model's traffic, minute by minute."""

    folder: Path
    manifest: RolloutManifest = field(default_factory=ab_manifest)
    cost: Cost = same_cost
    assign: Assign = belongs_to_challenger
    amount: Callable[[np.random.Generator], float] = lambda _: 1.0
    """What a unit's request has as its input."""
    per_minute: int = 400
    seed: int = 1
    looks: list[TakenLook] = field(default_factory=list)
    evidence: dict[str, Evidence] = field(default_factory=dict)
    _serial: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.rig = Rig(self.folder, clock=self.clock)
        self.random = np.random.default_rng(self.seed)
        self.lake = lake_below(self.folder)
        self.predictions, self.outcomes = self.folder / "predictions", self.folder / "outcomes"
        self.predictions.mkdir()
        self.outcomes.mkdir()
        self.model = Model(name=MODEL, folder=self.folder, rollout=self.manifest, service={}, digest="")

    def history(self, units: int = 1000) -> None:
        """What the champion did on the day before."""
        self.traffic(self.clock.now - DAY, self.clock.now - timedelta(hours=1), units, salt="", percent=0.0)

    def start(self, **options: Any) -> str:
        self.rig.world.serving(MODEL, "1")
        self.controller = self.rig.controller()
        rollout_id = self.controller.start(self.manifest, "2", "1", artefact("2"), **options)
        self.controller.drive(rollout_id, [_validated(self.clock.now)])
        return rollout_id

    def minute(self, rollout_id: str) -> RolloutState:
        """A minute of traffic, a look, and what follows from it."""
        state = self.controller.state(rollout_id)
        begin = self.clock.now
        self.clock.tick()
        self.traffic(begin, self.clock.now, self.per_minute, salt=state.salt, percent=self.rig.share())
        taken, evidence = take_look(
            self.lake, self.rig.ledger, self.model, state, now=self.clock.now, sticky=True
        )
        self.looks += [taken] if taken else []
        self.evidence |= {item.name: item for item in evidence}
        self.controller.drive(rollout_id, evidence)
        return self.controller.state(rollout_id)

    def until_the_end(self, rollout_id: str, *, minutes: int = 60) -> RolloutState:
        for _ in range(minutes):
            state = self.minute(rollout_id)
            if state.end is not None:
                return state
        return self.controller.state(rollout_id)

    def traffic(self, begin: datetime, end: datetime, units: int, *, salt: str, percent: float) -> None:
        """Requests of new units at random times, with their outcomes ten seconds later, loaded into the lake."""
        lines: list[str] = []
        outcomes: list[dict[str, Any]] = []
        for share in sorted(self.random.random(units)):
            self._serial += 1
            unit, at = f"customer-{self._serial}", begin + share * (end - begin)
            challenger = self.assign(unit, salt, percent)
            version = "2" if challenger else "1"
            lines += _answered(f"r{self._serial}", unit, version, at, self.amount(self.random))
            outcomes += self._outcome(unit, at, challenger)
        (self.predictions / f"{MODEL}-00001.writer.{self._serial}.jsonl").write_text("".join(lines))
        (self.outcomes / f"{self._serial}.jsonl").write_text("".join(json.dumps(o) + "\n" for o in outcomes))
        ingest_predictions(self.lake, MODEL, SCHEMA, self.predictions)
        ingest_outcomes(self.lake, MODEL, self.outcomes, now=self.clock.now + MINUTE)

    def _outcome(self, unit: str, at: datetime, challenger: bool) -> list[dict[str, Any]]:
        seen = (at + timedelta(seconds=10)).isoformat()
        value = self.cost(self.random, challenger)
        return (
            [] if value is None else [{"id": f"o-{unit}", "key": unit, "at": seen, "values": {"cost": value}}]
        )


def _answered(request: str, unit: str, version: str, at: datetime, amount: float) -> tuple[str, str]:
    shared: dict[str, Any] = {
        "specversion": "1.0",
        "id": request,
        "source": f"{MODEL}-0000{version}",
        "datacontenttype": "application/json",
        "inferenceservicename": MODEL,
        "namespace": "default",
        "component": "predictor",
        "endpoint": "",
        "metadata": {"x-assignment": ["weighted"], "x-unit-id": [unit]},
        "annotations": {"rampgate.io/version": version, "rampgate.io/revision": f"{MODEL}-0000{version}"},
    }
    asked = shared | {
        "type": "org.kubeflow.serving.inference.request",
        "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "data": {"inputs": [{"name": "amount", "shape": [1], "datatype": "FP64", "data": [amount]}]},
    }
    answered = shared | {
        "type": "org.kubeflow.serving.inference.response",
        "time": f"{at + timedelta(milliseconds=3):%Y-%m-%dT%H:%M:%S.%fZ}",
        "latencyms": 3.0,
        "status": 200,
        "data": {"outputs": [{"name": "score", "shape": [1], "datatype": "FP64", "data": [0.5]}]},
    }
    return json.dumps(asked) + "\n", json.dumps(answered) + "\n"


def _validated(at: datetime) -> Evidence:
    return Evidence(name="validation", source="validation", verdict=Verdict.PASS, reason="it answers", at=at)
