"""Group sequential boundaries, exit probabilities, the sample ratio test and the error budget."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics import srm
from pipelines.core.statistics.group_sequential import (
    GroupSequential,
    boundaries,
    exits,
    obrien_fleming_spent,
)
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.look_spec import ErrorBudget
from pipelines.core.statistics.srm import StepUnits


@given(st.lists(st.floats(0.02, 0.99), min_size=1, max_size=6, unique_by=lambda f: round(f, 2)))
def test_boundaries_spend_exactly_what_the_function_allows(fractions: list[float]) -> None:
    fractions = [*sorted(fractions), 1.0]
    z = boundaries(fractions, 0.05)
    left = exits(fractions, low=[-bound for bound in z], high=z)
    spent = np.cumsum(left.below + left.above)
    wanted = [obrien_fleming_spent(fraction, 0.05) for fraction in fractions]
    assert spent == pytest.approx(wanted, abs=2e-6)
    assert spent[-1] == pytest.approx(0.05, abs=2e-6)


def test_exits_match_a_simulation() -> None:
    fractions, drift = [0.15, 0.4, 0.8, 1.0], 2.0
    high, low = [2.5, 2.2, 2.0, 1.9], [-math.inf, -1.0, 0.0, 1.9]
    rng = np.random.default_rng(0)
    steps = np.diff([0.0, *fractions])
    walk = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), size=(100_000, 4)), axis=1)
    z = walk / np.sqrt(fractions)
    out = (z >= high) | (z <= low)
    first = np.where(out.any(axis=1), out.argmax(axis=1), -1)
    found = exits(fractions, low=low, high=high, drift=drift)
    for look in range(4):
        above = np.mean((first == look) & (z[:, look] >= high[look]))
        below = np.mean((first == look) & (z[:, look] <= low[look]))
        assert found.above[look] == pytest.approx(above, abs=0.005)
        assert found.below[look] == pytest.approx(below, abs=0.005)


def test_a_later_look_leaves_earlier_boundaries_alone() -> None:
    assert boundaries([0.3, 0.5], 0.05) == boundaries([0.3, 0.5, 0.9], 0.05)[:2]


def test_the_final_look_spends_what_is_left() -> None:
    early = GroupSequential(0.05, max_information=100)
    assert early.boundary([0.5], 0.8, final=True) < early.boundary([0.5], 0.8)
    assert early.fraction(variance=0.02) == pytest.approx(0.5)
    assert boundaries([1.3], 0.05) == pytest.approx([1.959964], abs=1e-5)


@pytest.mark.parametrize("fractions", [[0.5, 0.4], [0.0, 0.5], [math.nan], [1.0, 1.2]])
def test_fractions_must_grow_and_end_once(fractions: list[float]) -> None:
    with pytest.raises(ParameterError, match="information fractions"):
        boundaries(fractions, 0.05)


def test_sample_ratio_finds_a_lost_hundredth() -> None:
    broken = [StepUnits(0, champion=90_000, challenger=9_300, challenger_share=0.1)]
    assert srm.log_e(broken) > math.log(100)
    assert srm.chi_square(broken).p < 1e-6
    sound = [StepUnits(0, champion=90_000, challenger=10_000, challenger_share=0.1)]
    assert srm.log_e(sound) < 0
    assert srm.chi_square(sound).p > 0.9


def test_steps_have_their_own_shares() -> None:
    ramp = [
        StepUnits(0, champion=9_900, challenger=100, challenger_share=0.01),
        StepUnits(1, champion=5_000, challenger=5_000, challenger_share=0.5),
        StepUnits(2, champion=0, challenger=4_000, challenger_share=1.0),
    ]
    assert srm.log_e(ramp) < 0
    assert srm.log_e(ramp) == pytest.approx(srm.log_e(ramp[:1]) + srm.log_e(ramp[1:]))
    assert srm.chi_square(ramp).degrees == 2
    assert srm.chi_square([]).p == 1


def test_stray_units_of_a_side_that_has_no_share_say_nothing_of_the_split() -> None:
    """A client that keeps its connection goes on reaching the other side, in a bake without a holdback for example."""
    ramp = StepUnits(0, champion=9_000, challenger=1_000, challenger_share=0.1)
    bake = StepUnits(1, champion=3, challenger=4_000, challenger_share=1.0)
    before = StepUnits(2, champion=4_000, challenger=3, challenger_share=0.0)
    assert srm.log_e([ramp, bake, before]) == srm.log_e([ramp])
    assert srm.chi_square([ramp, bake, before]) == srm.chi_square([ramp])


def test_sample_ratio_holds_under_peeking() -> None:
    rng = np.random.default_rng(9)
    challenger = np.cumsum(rng.binomial(200, 0.1, size=(2000, 100)), axis=1)
    total = 200 * np.arange(1, 101)
    alarms = [
        any(
            srm.log_e([StepUnits(0, n - x, x, 0.1)]) >= math.log(100) for n, x in zip(total, row, strict=True)
        )
        for row in challenger[:200]
    ]
    assert np.mean(alarms) <= 0.03


def test_callers_who_stay_where_they_are_break_no_sample_ratio_where_every_request_is_a_unit() -> None:
    rng = np.random.default_rng(10)
    alarms = np.zeros(2)
    for _ in range(300):
        requests = rng.poisson(30, 2_000) + 1
        is_canary = rng.random(2_000) < 0.1
        step = StepUnits(0, int(requests[~is_canary].sum()), int(requests[is_canary].sum()), 0.1)
        drawn = step._replace(champion_drawn=int((~is_canary).sum()), challenger_drawn=int(is_canary.sum()))
        alarms += [srm.log_e([each]) >= math.log(20) for each in (step, drawn)]
    assert alarms[0] / 300 > 0.5, "as if each were drawn on its own"
    assert alarms[1] / 300 <= 0.05


def test_sample_ratio_refuses_impossible_units() -> None:
    with pytest.raises(NotMeasured, match="step 3: champion == -1"):
        srm.log_e([StepUnits(3, -1, 5, 0.5)])
    with pytest.raises(ParameterError, match="challenger_share == nan"):
        srm.log_e([StepUnits(0, 10, 5, math.nan)])


def test_budget_is_shared_among_all_tests() -> None:
    budget = ErrorBudget(0.05, tests=20)
    assert budget.log_boundary == pytest.approx(math.log(400))
    assert budget.harmful({"errors": 7.0, "slow": 5.0, "cost": 6.0}) == ["errors", "cost"]
    assert budget.harmful({"errors": 5.5, "slow": 1.0, "cost": 5.4}) == ["errors", "cost"], "together 466"
    assert budget.harmful({"errors": 5.5, "slow": 1.0}) == budget.harmful({}) == []
    assert not budget.is_harm(-math.inf)


def test_budget_refuses_what_it_was_not_made_for() -> None:
    with pytest.raises(NotMeasured):
        ErrorBudget().is_harm(math.nan)
    with pytest.raises(ParameterError, match="2 harm tests on a budget for 1"):
        ErrorBudget(tests=1).harmful({"a": 0.0, "b": 0.0})
    with pytest.raises(ParameterError, match="tests == 0"):
        ErrorBudget(tests=0)
    with pytest.raises(ParameterError, match="alpha == 0.7"):
        ErrorBudget(0.7)
