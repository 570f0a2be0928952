"""Units without a value: left out at both versions alike, or nothing follows from the metric; or counted as 0."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sequential_parts.missing import Scenario, play
from pipelines.core.rollout.events import DecisionKind, End
from pipelines.core.statistics.look_spec import Conclusion
from pipelines.core.vocabulary import OnFail, Verdict
from tests.support.simulated_rollout import Simulation, ab_manifest


def lossy(*, dearer: float, cheapest: float = 0.0, dearest: float = 1e9) -> Any:
    """Skewed costs, of which the challenger's are lost below `cheapest` and above `dearest`."""

    def cost(random: np.random.Generator, is_challenger: bool) -> float | None:
        value = float(random.lognormal(0, 1))
        if not is_challenger:
            return value
        return dearer * value if cheapest < value < dearest else None

    return cost


def spend(random: np.random.Generator, is_challenger: bool) -> float | None:
    """A fifth of the champion's customers buy, and half as many of the challenger's; who does not sends no outcome."""
    return float(random.gamma(4, 0.5)) if random.random() < (0.1 if is_challenger else 0.2) else None


def experiment(*, max_minutes: int = 20, **primary: Any) -> dict[str, Any]:
    cost = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%"}
    return {
        "unit": "customer",
        "primary": cost | primary,
        "outcome_window": "30s",
        "look_every": "1m",
        "max_duration": f"{max_minutes}m",
    }


@pytest.mark.parametrize(
    "cost",
    [lossy(dearer=1.15, dearest=4.375), lossy(dearer=1.0, cheapest=0.6)],
    ids=["the dearest 7 % of a dearer version", "the cheapest 30 % of a harmless version"],
)
def test_values_lost_at_one_version_hold_with_the_reason_and_neither_promote_nor_roll_back(
    tmp_path: Path, cost: Any
) -> None:
    simulation = Simulation(
        tmp_path, manifest=ab_manifest(experiment=experiment(max_minutes=9)), cost=cost, per_minute=500
    )
    simulation.history()
    rollout_id = simulation.start()
    state = simulation.until_the_end(rollout_id, minutes=8)
    assert (state.end, state.decided, state.percent) == (None, DecisionKind.HOLD, 20)
    found = simulation.evidence["cost.missing"]
    assert (found.verdict, found.on_fail) == (Verdict.FAIL, OnFail.HOLD)
    assert "of the challenger's units have no value when their outcome window is over" in found.reason
    assert "say `missing: zero`" in found.reason
    assert state.last is not None and found.reason in state.last.decision.reason
    harm = simulation.evidence["cost.harm"]
    assert (harm.verdict, harm.pending) == (Verdict.UNKNOWN, True), "neither good nor bad"
    assert not any(look.look.metrics[0].conclusion is Conclusion.BETTER for look in simulation.looks)
    state = simulation.until_the_end(rollout_id, minutes=3)
    assert state.end is End.ROLLED_BACK
    assert "inconclusive" in state.end_reason and "not compared" in state.end_reason


@pytest.mark.parametrize(("missing", "held"), [("zero", False), ("exclude", True), (None, True)])
def test_revenue_posted_for_buyers_only_is_worse_with_half_of_them_where_missing_is_zero(
    tmp_path: Path, missing: str | None, held: bool
) -> None:
    primary: dict[str, Any] = {"better": "higher"} | ({"missing": missing} if missing else {})
    manifest = ab_manifest(experiment=experiment(**primary), steps=[50, 100])
    simulation = Simulation(tmp_path, manifest=manifest, cost=spend)
    simulation.history()
    state = simulation.until_the_end(simulation.start(), minutes=8)
    if held:
        assert (state.end, state.decided) == (None, DecisionKind.HOLD)
        assert "cost.missing" in state.last.decision.reason  # type: ignore[union-attr]
    else:
        assert state.end is End.ROLLED_BACK
        assert "The challenger is worse" in state.end_reason
        assert "cost.missing" not in simulation.evidence, "no unit is left out"


def test_values_lost_at_both_versions_alike_hold_nobody(tmp_path: Path) -> None:
    def cost(random: np.random.Generator, is_challenger: bool) -> float | None:
        value = float(random.gamma(4, 0.5)) * (0.7 if is_challenger else 1.0)
        return value if random.random() > 0.3 else None

    simulation = Simulation(tmp_path, cost=cost)
    simulation.history()
    state = simulation.until_the_end(simulation.start())
    assert state.end is End.PROMOTED
    assert "as many are left out at both" in simulation.evidence["cost.missing"].reason


def test_what_only_warns_holds_nobody_when_its_values_are_lost(tmp_path: Path) -> None:
    guardrail = {"name": "paid", "type": "mean", "source": "outcomes.cost", "margin": 1, "on_fail": "warn"}
    manifest = ab_manifest(experiment=experiment(missing="zero"), guardrails=[guardrail])
    simulation = Simulation(tmp_path, manifest=manifest, cost=lossy(dearer=1.0, cheapest=0.6))
    simulation.history()
    rollout_id = simulation.start()
    for _ in range(3):
        simulation.minute(rollout_id)
    found = simulation.evidence["paid.missing"]
    assert (found.verdict, found.on_fail) == (Verdict.FAIL, OnFail.WARN)


def test_a_dearer_version_that_loses_its_dearest_values_is_never_called_better() -> None:
    """`benchmarks/sequential_parts/missing.py` plays 400 rollouts: none was, so the 95 % bound is 0.9 %."""
    rng, lost = np.random.default_rng(3), Scenario(dearer=1.15, lost="dearest", share=0.07)
    played = [play(rng, lost, looks=12) for _ in range(12)]
    assert all(rollout.held for rollout in played)
    assert not any(rollout.better or rollout.promoted or rollout.rolled_back for rollout in played)
    blind = [play(rng, lost, guarded=False, looks=12) for _ in range(6)]
    assert any(rollout.better for rollout in blind) and all(rollout.promoted for rollout in blind)
