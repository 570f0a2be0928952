"""How often the bake of a harmless version ends in an undo: simulated, with the statistics that the platform uses.

New version and holdback answer alike (A/A). Through a whole bake the live counters' e-processes and the looks at all metrics
are evaluated as the guardrail watch and the experiment evaluate them, on the bake's part of the error budget. A bake ends in an undo when any of them calls for a rollback, at any time.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.rollback_parts.rows import Row, row
from benchmarks.sequential_parts.rows import upper_95
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.look import analyse
from pipelines.core.statistics.look_spec import LookSpec, MetricSpec
from pipelines.rollouts.harm_budget import harm_budget
from pipelines.rollouts.serving_metrics import serving_metrics

LOOKS, POLLS = 24, 4
"""A look an hour of a day's bake; polls of the counters that find something new, between two looks."""

SLOW_RATE, COST, SPREAD = 0.02, 1.0, 1.0

MARGIN = 0.005


@dataclass(frozen=True)
class Scenario:
    """What the model's traffic is like."""

    name: str
    units: int
    """Between two looks, both sides together."""
    error_rate: float
    harm: float = 1.0
    """The new version's error rate over that of the other one; 1: it is harmless."""


SCENARIOS = (
    Scenario("little traffic", 400, 0.01),
    Scenario("much traffic", 20_000, 0.01),
    Scenario("much traffic, seldom an error", 20_000, 0.001),
)

MANIFEST = RolloutManifest.model_validate(
    {
        "model": "simulated",
        "steps": [10, 50, 100],
        "bake": "24h",
        "experiment": {"primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"}},
        "guardrails": [
            {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "0.5pp"},
            {
                "name": "slow",
                "type": "proportion",
                "source": "serving.over_slo",
                "slo": "250ms",
                "margin": "0.5pp",
            },
        ],
    }
)

BUDGET = harm_budget(MANIFEST, baking=True)

SHARE = 1 - MANIFEST.holdback / 100

LOOK = LookSpec(
    metrics=(MetricSpec(name="cost", kind=EffectKind.MEAN, mde=0.05, is_primary=True),),
    alpha=MANIFEST.experiment.alpha,
    harm_alpha=BUDGET.alpha,
    tests=BUDGET.tests,
)
"""As `pipelines.experiments.look_inputs.look_spec` makes it for a bake."""


def rows(given: argparse.Namespace) -> list[Row]:
    """`given.runs` bakes of each scenario."""
    return list(simulated(given.runs, given.seed))


def simulated(runs: int, seed: int) -> Iterator[Row]:
    """A row for each scenario."""
    for scenario in SCENARIOS:
        rng = np.random.default_rng(seed)
        undone = sum(ends_in_undo(rng, scenario) for _ in range(runs))
        yield row(
            f"false undo in a bake, {scenario.name}: upper 95 % bound of {runs} simulated bakes",
            upper_95(undone, runs),
            limit=BUDGET.alpha,
            reference=undone / runs,
            reference_is="the simulated rate itself",
            unit="share of bakes",
        )


def ends_in_undo(rng: np.random.Generator, scenario: Scenario) -> bool:
    """One bake, watched to its end: the live counters' e-values together, and the looks at what is not counted live."""
    processes = {metric.name: ConditionalBinomial() for metric in serving_metrics(MANIFEST)}
    costs: list[Cell] = []
    for look in range(LOOKS):
        answered = Counts()
        for _ in range(POLLS):
            polled = _polled(rng, scenario)
            answered = answered.plus(polled["errors"])
            processes = {name: process.observe(polled[name]) for name, process in processes.items()}
            if BUDGET.harmful({name: process.log_e for name, process in processes.items()}):
                return True
        costs.append(_costs(rng, look, answered))
        if analyse(costs, LOOK).harmful:
            return True
    return False


def _polled(rng: np.random.Generator, scenario: Scenario) -> dict[str, Counts]:
    """What one poll finds; the same answers for each metric."""
    units = scenario.units // POLLS
    new = int(rng.binomial(units, SHARE))
    errors = scenario.error_rate
    rates = {"errors": (scenario.harm * errors, errors), "slow": (SLOW_RATE, SLOW_RATE)}
    return {
        name: Counts(new, rng.binomial(new, ours), units - new, rng.binomial(units - new, theirs))
        for name, (ours, theirs) in rates.items()
    }


def _costs(rng: np.random.Generator, look: int, answered: Counts) -> Cell:
    """Skewed: what an answer costs varies as much as it costs."""
    champion, new = (_skewed(rng, int(n)) for n in (answered.champion_trials, answered.canary_trials))
    return Cell("cost", 0, 3600.0 * look, champion, new)


def _skewed(rng: np.random.Generator, units: int) -> Sums:
    costs = rng.gamma((COST / SPREAD) ** 2, SPREAD**2 / COST, units)
    return Sums(n=float(units), sy=float(costs.sum()), syy=float((costs**2).sum()))
