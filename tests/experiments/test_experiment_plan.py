"""Planning from the champion's history, and by hand."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.experiments.history import champion_history
from pipelines.experiments.plan import curve, plan_experiment
from tests.support.simulated_rollout import Simulation, ab_manifest


def skewed(random: np.random.Generator, is_challenger: bool) -> float:
    return float(random.lognormal(0.0, 1.5))


@pytest.fixture
def simulation(tmp_path: Path) -> Simulation:
    return Simulation(tmp_path, cost=skewed)


def test_the_history_is_what_the_champion_did(simulation: Simulation) -> None:
    simulation.history(2000)
    manifest = ab_manifest()
    metrics = (manifest.experiment.primary, *manifest.guardrails)
    history = champion_history(simulation.lake, manifest, "1", metrics, until=simulation.clock.now)
    cost, errors = history.metrics["cost"], history.metrics["errors"]
    values = np.random.default_rng(1)
    values.random(2000)
    expected = np.array([skewed(values, False) for _ in range(2000)])
    assert (cost.units, errors.value) == (2000, 0.0)
    assert cost.value == pytest.approx(expected.mean())
    assert cost.variance == pytest.approx(expected.var())
    assert history.units_per_day == pytest.approx(2000, rel=0.01)


def test_winsorising_caps_at_the_champions_quantile(simulation: Simulation) -> None:
    simulation.history(2000)
    primary = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%", "winsorise": 0.95}
    manifest = ab_manifest(experiment={"unit": "customer", "primary": primary, "outcome_window": "30s"})
    known = champion_history(
        simulation.lake, manifest, "1", (manifest.experiment.primary,), until=simulation.clock.now
    ).metrics["cost"]
    values = np.random.default_rng(1)
    values.random(2000)
    expected = np.array([skewed(values, False) for _ in range(2000)])
    assert known.cap == pytest.approx(np.quantile(expected, 0.95))
    assert known.variance == pytest.approx(np.minimum(expected, known.cap).var())
    rollout_id = simulation.start()
    simulation.manifest = manifest
    simulation.model = simulation.model.__class__(**{**simulation.model.__dict__, "rollout": manifest})
    for _ in range(3):
        simulation.minute(rollout_id)
    caps = {r.cap for look in simulation.looks for r in look.registered if r.spec.name == "cost"}
    assert caps == {known.cap}, "frozen at the first look"


def test_an_underpowered_plan_warns_in_words(simulation: Simulation) -> None:
    simulation.history(500)
    made = plan_experiment(simulation.lake, ab_manifest(), "1", now=simulation.clock.now)
    assert made.primary is not None and made.primary.is_underpowered
    assert any("underpowered" in warning for warning in made.warnings)
    powers = [point.power for point in curve(made.primary)]
    assert powers == sorted(powers)
    assert powers[7] == pytest.approx(0.8, abs=0.02), "the planned units give the wanted power"


def test_without_history_there_is_no_plan_but_a_way_to_one(simulation: Simulation) -> None:
    simulation.history(50)
    made = plan_experiment(
        simulation.lake, ab_manifest(), "1", now=simulation.clock.now + timedelta(minutes=1)
    )
    assert made.primary is None
    assert "the champion has 50 counted units" in made.warnings[0]
    assert "python -m pipelines.experiments" in made.warnings[0]


def test_the_whole_decision_is_planned_from_the_history(simulation: Simulation) -> None:
    simulation.history(500)
    made = plan_experiment(simulation.lake, ab_manifest(), "1", now=simulation.clock.now)
    assert made.promotion is not None
    assert made.promotion.course.units_per_day == pytest.approx(500, rel=0.02)
    assert made.warnings[0].startswith(
        "A version that is as good as the champion is promoted within 20 minutes in"
    )
    assert "Outcomes count for 30 seconds after exposure" in made.note


def test_a_metric_without_variance_is_planned_in_words(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, cost=lambda random, is_challenger: 2.0)
    simulation.history(500)
    made = plan_experiment(simulation.lake, ab_manifest(), "1", now=simulation.clock.now)
    assert made.metrics[0].plan is None and made.metrics[0].warnings == ()
    assert (
        "All 500 units of the champion have the same value, 2; equal values are within any"
        in made.metrics[0].note
    )
