"""Plans: what they cost, that they say when they cannot work, and that simulation keeps their promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.planning import Baseline, Target, plan, power_curve
from pipelines.core.statistics.power import (
    Design,
    SequentialMethod,
    information_per_unit,
    z_sum,
)
from pipelines.core.statistics.sequences import critical_z, planned_scale

COST = Baseline(name="cost", kind=EffectKind.MEAN, value=5.0, variance=30.0, units_per_day=5000)

ERRORS = Baseline(name="errors", kind=EffectKind.PROPORTION, value=0.01, units_per_day=20_000)

FAST = Design(looks=30)


def test_price_of_peeking() -> None:
    assert Design(looks=100).inflation(0.8) == pytest.approx(1.67, abs=0.02)
    assert Design(looks=100).inflation(0.9) == pytest.approx(1.55, abs=0.04)
    assert Design(method=SequentialMethod.FIXED).inflation(0.8) == pytest.approx(1, abs=1e-3)
    assert 1 < Design(method=SequentialMethod.GROUP_SEQUENTIAL, looks=5).inflation(0.8) < 1.05


@given(st.floats(0.5, 6), st.floats(0.1, 1))
def test_power_grows_with_the_effect(shift: float, more: float) -> None:
    design = Design(looks=5)
    assert design.power(shift + more) >= design.power(shift)


def test_detectable_effect_and_needed_information_are_inverse() -> None:
    for method in SequentialMethod:
        design = Design(method=method, looks=10)
        information = design.information(0.3, 0.8)
        assert design.detectable(information, 0.8) == pytest.approx(0.3)
        assert design.power(0.3 * math.sqrt(information)) == pytest.approx(0.8, abs=1e-3)


def test_fixed_plan_agrees_with_the_sample_size() -> None:
    target = Target(mde=0.05, design=Design(method=SequentialMethod.FIXED))
    units = z_sum(alpha=0.05, power=0.8, two_sided=True) ** 2 * 30.0 * (1 + 1 / 9) / 0.25**2
    made = plan(COST, target, shares=[0.1], max_days=30)
    assert made.best.challenger_units == pytest.approx(units, rel=0.01)


def test_plan_per_step() -> None:
    made = plan(COST, Target(mde=0.05, design=FAST), shares=[0.1, 0.5, 1.0], max_days=20)
    small, half = made.steps
    assert made.best is half
    assert small.days / half.days == pytest.approx(0.25 / 0.09, rel=0.01)
    assert small.days == pytest.approx((small.challenger_units + small.champion_units) / 5000, rel=1e-3)
    assert not made.is_underpowered
    assert made.warnings == ()
    assert "challenger and" in made.sentences[0]


def test_underpowered_plan_says_so_in_words() -> None:
    made = plan(COST, Target(mde=0.005, design=FAST), shares=[0.1, 0.5], max_days=14)
    assert made.is_underpowered
    assert made.best.inconclusive > 0.5
    (warning,) = made.warnings
    assert "underpowered" in warning
    assert "without an answer" in warning
    assert f"{100 * made.best.detectable / 5:.1f} %" in warning
    again = plan(COST, Target(mde=made.best.detectable / 5, design=FAST), shares=[0.1, 0.5], max_days=14)
    assert again.best.days == pytest.approx(14, rel=0.01)
    assert again.best.inconclusive == pytest.approx(0.2, abs=0.01)


def test_rare_metric_is_named() -> None:
    rare = Baseline(name="crashes", kind=EffectKind.PROPORTION, value=1e-6, units_per_day=10_000)
    made = plan(rare, Target(mde=0.5, design=FAST), shares=[0.1], max_days=7)
    assert made.best.inconclusive == 1
    assert any("rare" in warning for warning in made.warnings)


def test_margin_plan_needs_the_exact_bound_where_events_are_rare() -> None:
    never = Baseline(name="errors", kind=EffectKind.PROPORTION, value=1e-7, units_per_day=10_000)
    target = Target(margin=0.005, design=Design(looks=30, one_sided=True))
    made = plan(never, target, shares=[0.1], max_days=7)
    assert 900 < made.best.challenger_units < 1600


def test_power_curve_rises() -> None:
    curve = power_curve(
        ERRORS, Target(mde=0.2, design=FAST), units=200_000, share=0.5, effects=[0.0005, 0.002, 0.004]
    )
    assert curve == sorted(curve)
    assert curve[0] < 0.2 < 0.99 < curve[2]


def test_unequal_arms_plan_for_the_larger_of_two_variances() -> None:
    few, many = (COST.analysed_variance(share=0.1, effect=0, units=units) for units in (1e3, 1e9))
    assert many == pytest.approx(30, rel=1e-3)
    assert 1.02 * many < few < 1.1 * many
    assert COST.analysed_variance(share=0.5, effect=0, units=1e3) == pytest.approx(30)
    assert ERRORS.analysed_variance(share=0.1, effect=0.005, units=1e9) > 1.3 * ERRORS.per_unit_variance()


def test_realised_power_is_the_planned_one() -> None:
    """2,000 experiments on a gamma metric at 20/80, 30 looks: within Monte-Carlo error of 80 %."""
    share, effect, variance, looks = 0.2, 0.4, 12.0, 30
    needed = FAST.information(effect, 0.8)
    units = needed / information_per_unit(share, variance)
    tau2 = planned_scale(alpha=0.05, information=needed)
    rng = np.random.default_rng(5)
    n1, n0 = round(units * share / looks), round(units * (1 - share) / looks)
    shape0, shape1 = 3.0, 3.0 + effect / 2
    mean1 = rng.gamma(shape1 * n1, 2.0, (2000, looks)).cumsum(axis=1) / (n1 * np.arange(1, looks + 1))
    mean0 = rng.gamma(shape0 * n0, 2.0, (2000, looks)).cumsum(axis=1) / (n0 * np.arange(1, looks + 1))
    spread = variance * (1 / n1 + 1 / n0) / np.arange(1, looks + 1)
    critical = np.array([critical_z(v, tau2, 0.05) for v in spread])
    power = np.mean(((mean1 - mean0) / np.sqrt(spread) >= critical).any(axis=1))
    assert power == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(
    ("baseline", "target", "message"),
    [
        (COST, Target(), "give exactly one"),
        (COST, Target(mde=0.1, margin=0.1), "give exactly one"),
        (COST, Target(mde=-0.1), "mde == -0.1"),
        (
            Baseline(name="y", kind=EffectKind.MEAN, value=1, units_per_day=5),
            Target(mde=0.1),
            "needs its variance",
        ),
        (
            Baseline(name="y", kind=EffectKind.MEAN, value=1, variance=1, units_per_day=0),
            Target(mde=0.1),
            "units_per_day",
        ),
        (
            Baseline(name="y", kind=EffectKind.PROPORTION, value=1.2, units_per_day=5),
            Target(margin=0.1),
            "baseline rate",
        ),
    ],
)
def test_bad_plans_are_refused(baseline: Baseline, target: Target, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        plan(baseline, target, shares=[0.5], max_days=7)


def test_a_rollout_that_compares_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="nothing would be compared"):
        plan(COST, Target(mde=0.1), shares=[0, 1], max_days=7)
