"""Rollouts decided by their experiment, from generated predictions and outcomes to the registry."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.rollout.events import DecisionKind, End
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Verdict
from pipelines.experiments.exposure import belongs_to_challenger
from pipelines.experiments.looks import cells_of, past_looks
from tests.support.rollouts import MODEL
from tests.support.simulated_rollout import Simulation, ab_manifest, same_cost


def cheaper(random: np.random.Generator, is_challenger: bool) -> float:
    return same_cost(random, is_challenger) * (0.7 if is_challenger else 1.0)


def dearer(random: np.random.Generator, is_challenger: bool) -> float:
    return same_cost(random, is_challenger) * (1.5 if is_challenger else 1.0)


def test_a_good_challenger_is_promoted_on_its_outcomes(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, cost=cheaper)
    simulation.history()
    state = simulation.until_the_end(simulation.start())
    assert state.end is End.PROMOTED
    assert simulation.rig.world.aliases[MODEL, "champion"] == "2"
    assert [weight.percent for weight in state.weights if weight.percent < 100] == [20, 50]
    last = simulation.looks[-1]
    assert last.look.primary is not None and "challenger is better" in last.look.primary.sentence
    assert last.look.srm is not None and last.look.srm.p is not None, "the chi-square at decision time"
    assert last.exposure is not None and last.exposure.mismatches == 0 < last.exposure.compared


def test_a_worse_challenger_is_rolled_back_by_its_experiment(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, cost=dearer)
    simulation.history()
    state = simulation.until_the_end(simulation.start())
    assert state.end is End.ROLLED_BACK
    assert "The challenger is worse" in state.end_reason
    assert simulation.rig.share() == 0
    assert max(weight.percent for weight in state.weights) == 20, "it never got past the first step"


def test_a_healthy_version_is_promoted_on_a_metric_that_is_0_at_every_unit(tmp_path: Path) -> None:
    """No change can be a share of it, and equal values are within any margin."""
    manifest = ab_manifest(steps=[50, 100])
    simulation = Simulation(
        tmp_path, manifest=manifest, cost=lambda random, is_challenger: 0.0, per_minute=500
    )
    simulation.history(200)
    state = simulation.until_the_end(simulation.start(), minutes=6)
    assert state.end is End.PROMOTED, state.end_reason
    assert "Equal values are within any margin" in state.end_reason


def test_a_broken_split_holds_and_is_never_promoted(tmp_path: Path) -> None:
    def leaky(unit: str, salt: str, percent: float) -> bool:
        """A quarter of the challenger's units never get there."""
        return belongs_to_challenger(unit, salt, percent) and not belongs_to_challenger(unit, "leak", 25)

    manifest = ab_manifest()
    short = manifest.experiment.model_copy(update={"max_duration": timedelta(minutes=6)})
    of_a_few_minutes = manifest.model_copy(update={"experiment": short})
    simulation = Simulation(tmp_path, manifest=of_a_few_minutes, cost=cheaper, assign=leaky, per_minute=900)
    simulation.history()
    state = simulation.until_the_end(simulation.start(), minutes=4)
    assert state.end is None
    assert state.decided is DecisionKind.HOLD
    assert simulation.evidence["sample_ratio"].verdict is Verdict.FAIL
    assert "do not hold their planned shares" in simulation.evidence["sample_ratio"].reason
    assert simulation.evidence["assignment"].verdict is Verdict.FAIL
    assert "belongs to the challenger" in simulation.evidence["assignment"].reason
    state = simulation.until_the_end(state.rollout_id, minutes=4)
    assert state.end is End.ROLLED_BACK, "out of time: the champion stays"
    assert "inconclusive" in state.end_reason


def test_outcomes_that_are_no_numbers_are_named_and_kept_out(tmp_path: Path) -> None:
    def broken(random: np.random.Generator, is_challenger: bool) -> float:
        value = cheaper(random, is_challenger)
        return float("nan") if random.random() < 0.1 else value

    simulation = Simulation(tmp_path, cost=broken)
    simulation.history()
    state = simulation.until_the_end(simulation.start())
    assert state.end is End.PROMOTED
    outcomes = simulation.looks[-1].outcomes
    assert outcomes is not None and outcomes.quarantined > 50
    assert "not" in outcomes.reason and "quarantined" in outcomes.sentence


def test_without_a_history_the_constants_come_from_the_first_units(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, cost=cheaper)
    rollout_id = simulation.start()
    simulation.per_minute = 60
    simulation.minute(rollout_id)
    assert "there is no history" in simulation.evidence["cost.harm"].reason
    assert simulation.evidence["cost.harm"].pending
    simulation.per_minute = 400
    state = simulation.until_the_end(rollout_id)
    assert state.end is End.PROMOTED
    registered = {r.spec.name: r for look in simulation.looks for r in look.registered}
    assert "there was no history" in registered["cost"].origin
    specs = [m for look in simulation.looks for m in look.spec.metrics if m.name == "cost"]
    assert len(set(specs)) == 1, "constants never change once they are set"


def test_looks_add_up_and_late_data_changes_none(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path)
    simulation.history()
    rollout_id = simulation.start()
    for _ in range(3):
        simulation.minute(rollout_id)
    looks = past_looks(simulation.rig.ledger, rollout_id)
    assert looks == tuple(simulation.looks), "stored as they were"
    cells = cells_of(looks)
    assert len({(c.metric, c.step, c.bucket) for c in cells}) == len(cells), "a bucket enters one look only"
    begin = simulation.clock.now - 3 * (simulation.clock.now - looks[-2].at)
    simulation.traffic(begin, begin + (looks[1].at - looks[0].at), 500, salt="", percent=0)
    simulation.minute(rollout_id)
    again = cells_of(past_looks(simulation.rig.ledger, rollout_id))
    assert again[: len(cells)] == cells
    assert min(c.bucket for c in again[len(cells) :]) > begin.timestamp() + 60, (
        "late units reach no old bucket"
    )


@pytest.mark.parametrize(("then", "end"), [("keep", End.COMPARED), ("promote_if_better", End.PROMOTED)])
def test_an_ab_test_holds_its_share_and_ends_with_its_period(tmp_path: Path, then: str, end: End) -> None:
    manifest = ab_manifest(ab_test={"share": 50, "duration": "3m", "then": then})
    simulation = Simulation(tmp_path, manifest=manifest, cost=cheaper)
    simulation.history()
    rollout_id = simulation.start(policy=Policy.of_test(manifest))
    for _ in range(2):
        state = simulation.minute(rollout_id)
        assert (state.percent, state.end) == (50, None)
    state = simulation.until_the_end(rollout_id, minutes=3)
    assert state.end is end
    assert "cost" in state.end_reason and "challenger is better" in state.end_reason
    assert any(look.spec.is_final for look in simulation.looks)


def test_a_dry_run_is_looked_at_and_finds_nothing_to_compare(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, cost=dearer)
    simulation.history()
    policy = replace(Policy.of(simulation.manifest), dry_run=True)
    rollout_id = simulation.start(policy=policy)
    for _ in range(3):
        state = simulation.minute(rollout_id)
    assert (state.phase, state.percent, state.weights, state.end) == (Phase.STEPPING, 0.0, (), None)
    assert simulation.rig.share() == 0, "nobody was served by the challenger"
    assert len(simulation.looks) == 3
    assert [cell for look in simulation.looks for cell in look.cells if cell.metric == "cost"] == []


def test_an_aa_test_keeps_the_champion(tmp_path: Path) -> None:
    manifest = ab_manifest(ab_test={"share": 50, "duration": "3m", "then": "promote_if_better"})
    simulation = Simulation(tmp_path, manifest=manifest)
    simulation.history()
    state = simulation.until_the_end(simulation.start(policy=Policy.of_test(manifest)))
    assert state.end is End.COMPARED
    assert "the champion stays" in state.end_reason
    assert simulation.rig.world.aliases[MODEL, "champion"] == "1"


def baking(simulation: Simulation) -> str:
    """A cheaper version that was promoted and bakes, with a large holdback: a test has no hours."""
    simulation.history()
    rollout_id = simulation.start()
    for _ in range(20):
        if simulation.minute(rollout_id).phase is Phase.BAKING:
            return rollout_id
    raise AssertionError(simulation.controller.state(rollout_id))


def test_harm_that_begins_in_the_bake_restores_the_previous_champion(tmp_path: Path) -> None:
    costs = [cheaper]
    simulation = Simulation(
        tmp_path,
        manifest=ab_manifest(bake="15m", holdback="40%"),
        cost=lambda random, is_challenger: costs[-1](random, is_challenger),
    )
    rollout_id = baking(simulation)
    assert simulation.rig.world.aliases[MODEL, "champion"] == "2"
    costs.append(dearer)
    state = simulation.until_the_end(rollout_id)
    assert state.end is End.ROLLED_BACK
    assert "The challenger is worse" in state.end_reason
    assert simulation.rig.world.aliases[MODEL, "champion"] == "1"
    assert simulation.rig.world.share(MODEL, "1") == 100


def test_the_bake_is_tested_on_a_part_of_alpha_of_its_own_and_nothing_is_tested_twice(tmp_path: Path) -> None:
    simulation = Simulation(tmp_path, manifest=ab_manifest(bake="4m", holdback="40%"), cost=cheaper)
    state = simulation.until_the_end(baking(simulation))
    assert (state.end, state.last is not None and state.last.decision.rule) == (End.PROMOTED, "baked")
    looks = past_looks(simulation.rig.ledger, state.rollout_id)
    ramp = [look for look in looks if not look.bake]
    bake = [look for look in looks if look.bake]
    assert all(look.spec.harm_alpha == pytest.approx(0.04) for look in ramp) and ramp
    assert all(look.spec.harm_alpha == pytest.approx(0.01) for look in bake) and bake
    seen = [(cell.metric, cell.step, cell.bucket) for look in looks for cell in look.cells]
    assert len(set(seen)) == len(seen), "a bucket enters one look only"
    late = [cell for look in bake for cell in look.cells if cell.step < state.exposure]
    assert late, "outcomes of the ramp that came late count in the bake"
