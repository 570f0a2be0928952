"""The benchmark's simulated bakes (`make bench-rollback`)."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.rollback_parts.false_undo import BUDGET, SCENARIOS, ends_in_undo
from pipelines.rollouts.harm_budget import BAKE_PART


def test_a_simulated_bake_is_undone_for_harm_and_not_without_on_the_bakes_part_of_alpha() -> None:
    much = SCENARIOS[1]
    assert ends_in_undo(np.random.default_rng(1), replace(much, harm=4.0))
    assert not ends_in_undo(np.random.default_rng(1), much)
    assert pytest.approx(0.05 * BAKE_PART) == BUDGET.alpha
