"""Units without a value: left out at both versions alike, or nothing follows from the metric; or counted as 0."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.sequential_parts.missing import START, Scenario, begun, manifest, play
from pipelines.core.rollout.events import DecisionKind, End
from pipelines.core.statistics.look import analyse
from pipelines.core.statistics.look_spec import Conclusion
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.experiments.evidence import look_evidence, waiting_evidence
from pipelines.experiments.look_inputs import look_spec
from pipelines.experiments.registering import RegisteredConstants, guardrail_spec
from tests.support.simulated_rollout import Simulation, ab_manifest


def dearer_and_lost(random: np.random.Generator, is_challenger: bool) -> float | None:
    """Skewed costs; the challenger's are 15 % higher, and its dearest 18 % are never told."""
    value = float(random.lognormal(0, 1))
    if not is_challenger:
        return value
    return 1.15 * value if value < 2.5 else None


def spend(random: np.random.Generator, is_challenger: bool) -> float | None:
    """Half of the champion's customers buy, and a tenth of the challenger's; who does not sends no outcome."""
    return float(random.gamma(4, 0.5)) if random.random() < (0.1 if is_challenger else 0.5) else None


def simulated(folder: Path, cost: Any, *, steps: list[int], minutes: int, **primary: Any) -> Simulation:
    metric = {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "20%"} | primary
    asked = ab_manifest(steps=steps, guardrails=[])
    experiment = asked.experiment.model_dump() | {
        "primary": metric,
        "max_duration": timedelta(minutes=minutes),
    }
    asked = asked.model_validate(asked.model_dump() | {"experiment": experiment})
    simulation = Simulation(folder, manifest=asked, cost=cost, per_minute=200)
    simulation.history(250)
    return simulation


def test_values_lost_at_one_version_hold_with_the_reason_and_neither_promote_nor_roll_back(
    tmp_path: Path,
) -> None:
    simulation = simulated(tmp_path, dearer_and_lost, steps=[50, 100], minutes=4)
    rollout_id = simulation.start()
    state = simulation.until_the_end(rollout_id, minutes=3)
    assert (state.end, state.decided, state.percent) == (None, DecisionKind.HOLD, 50)
    found = simulation.evidence["cost.missing"]
    assert (found.verdict, found.on_fail) == (Verdict.FAIL, OnFail.HOLD)
    assert "of the challenger's units have no value when their outcome window is over" in found.reason
    assert "say `missing: zero`" in found.reason
    assert state.last is not None and state.last.decision.evidence == ("cost.missing",)
    assert "and 0 % of the champion's (evidence of a difference" in state.last.decision.reason
    harm = simulation.evidence["cost.harm"]
    assert (harm.verdict, harm.pending) == (Verdict.UNKNOWN, True), "neither good nor bad"
    assert not any(look.look.metrics[0].conclusion is Conclusion.BETTER for look in simulation.looks)
    state = simulation.until_the_end(rollout_id, minutes=2)
    assert state.end is End.ROLLED_BACK
    assert "inconclusive" in state.end_reason and "not compared" in state.end_reason


@pytest.mark.parametrize("missing", ["zero", None])
def test_revenue_posted_for_buyers_only_is_worse_with_fewer_of_them_where_missing_is_zero(
    tmp_path: Path, missing: str | None
) -> None:
    """Where nothing is said, nobody knows what the others spent: it is held."""
    simulation = simulated(tmp_path, spend, steps=[50, 100], minutes=20, better="higher", missing=missing)
    state = simulation.until_the_end(simulation.start(), minutes=3)
    assert state.last is not None
    if missing is None:
        assert (state.end, state.decided) == (None, DecisionKind.HOLD)
        assert "cost.missing" in state.last.decision.reason
    else:
        assert state.end is End.ROLLED_BACK
        assert "The challenger is worse" in state.end_reason
        assert "cost.missing" not in simulation.evidence, "no unit is left out"


def test_a_dearer_version_that_loses_its_dearest_values_is_never_called_better() -> None:
    """`benchmarks/sequential_parts/missing.py` plays 400 rollouts: none was, so the 95 % bound is 0.9 %."""
    rng, lost = np.random.default_rng(3), Scenario(dearer=1.15, lost="dearest", share=0.07)
    played = [play(rng, lost, looks=12) for _ in range(8)]
    assert all(rollout.held for rollout in played)
    assert not any(rollout.better or rollout.promoted or rollout.rolled_back for rollout in played)
    blind = [play(rng, lost, guarded=False, looks=12) for _ in range(4)]
    assert any(rollout.better for rollout in blind) and all(rollout.promoted for rollout in blind)


def test_a_harmless_version_that_loses_its_cheapest_values_is_not_gone_back_for() -> None:
    rng, lost = np.random.default_rng(4), Scenario(lost="cheapest", share=0.3)
    assert all(play(rng, lost, looks=10).held for _ in range(3))
    assert any(play(rng, lost, guarded=False, looks=10).rolled_back for _ in range(3))


def test_values_lost_at_both_versions_alike_hold_nobody() -> None:
    rng, alike = np.random.default_rng(5), Scenario(dearer=0.7, lost="any", share=0.3, champion_share=0.3)
    assert all(play(rng, alike, looks=30).promoted for _ in range(3))


@pytest.mark.parametrize(
    ("log_e", "verdict", "pending"),
    [(5.0, Verdict.FAIL, False), (2.0, Verdict.UNKNOWN, True), (0.5, Verdict.PASS, False)],
)
@pytest.mark.parametrize("on_fail", OnFail)
def test_what_is_not_yet_clear_is_waited_for_and_what_only_warns_holds_nobody(
    log_e: float, verdict: Verdict, pending: bool, on_fail: OnFail
) -> None:
    paid = {"name": "paid", "type": "mean", "source": "outcomes.paid", "margin": 1, "on_fail": on_fail}
    asked = manifest(Scenario())
    asked = asked.model_validate(asked.model_dump() | {"guardrails": [paid]})
    spec = look_spec(
        asked,
        {},
        [RegisteredConstants(spec=guardrail_spec(asked.guardrails[0], asked.experiment))],
        is_final=False,
    )
    look = analyse([], spec)
    losses = (
        replace(look.losses[0], champion=0.1, challenger=0.2, log_e=log_e, log_e_now=log_e, log_boundary=4.6),
    )
    found = look_evidence(asked, begun(asked), replace(look, losses=losses), at=START)
    (lost,) = (item for item in found if item.name == "paid.missing")
    assert (lost.verdict, lost.pending) == (verdict, pending)
    waits = OnFail.WARN if on_fail is OnFail.WARN else OnFail.HOLD
    assert lost.on_fail is waits
    margins = [each for each in found if each.name == "paid.margin"]
    margins += [
        each
        for each in waiting_evidence(asked, asked.guardrails, at=START, seen=frozenset())
        if each.name == "paid.margin"
    ]
    assert [each.on_fail for each in margins] == [waits, waits], "a margin that is not shown yet"
    assert ("advance below 3 to 1" in lost.reason) is pending
