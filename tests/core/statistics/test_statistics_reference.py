"""Published and independently computed numbers that a correct implementation reproduces."""

import math

import numpy as np
import pytest
from statsmodels.stats.power import NormalIndPower, TTestIndPower
from statsmodels.stats.proportion import proportion_effectsize, proportions_ztest

from pipelines.core.statistics import fixed, power, srm
from pipelines.core.statistics.binomial import ConditionalBinomial, log_e_process, normal_mixture
from pipelines.core.statistics.effects import EffectKind, Stratum, Sums, stratified_effect
from pipelines.core.statistics.group_sequential import boundaries, obrien_fleming, pocock
from pipelines.core.statistics.sequences import AsymptoticSequence, planned_scale


@pytest.mark.parametrize(
    ("baseline", "other", "units"),
    [(0.2, 0.25, 1030.22), (0.05, 0.055, 30244.40), (0.1, 0.12, 3622.62), (0.03, 0.04, 4781.65)],
)
def test_sample_size_of_two_proportions(baseline: float, other: float, units: float) -> None:
    assert power.two_proportions(baseline, other) == pytest.approx(units, abs=0.006)


@pytest.mark.parametrize(
    ("baseline", "other", "ratio", "units"),
    [
        (0.1, 0.12, 1, 3834.596),
        (0.1, 0.12, 9, 2130.331),
        (0.05, 0.055, 1, 31217.423),
        (0.05, 0.055, 9, 17343.013),
    ],
)
def test_arcsine_sample_size(baseline: float, other: float, ratio: float, units: float) -> None:
    ours = power.two_proportions_arcsine(baseline, other, ratio=ratio)
    oracle = NormalIndPower().solve_power(
        effect_size=proportion_effectsize(other, baseline), alpha=0.05, power=0.8, ratio=ratio
    )
    assert ours == pytest.approx(units, rel=1e-4)
    assert ours == pytest.approx(oracle, rel=1e-4)


@pytest.mark.parametrize(("effect", "units"), [(0.2, 393.4057), (0.5, 63.7656)])
def test_t_test_sample_size(effect: float, units: float) -> None:
    assert power.t_test(effect) == pytest.approx(units, abs=1e-4)
    oracle = TTestIndPower().solve_power(effect_size=effect, alpha=0.05, power=0.8, ratio=3)
    assert power.t_test(effect, ratio=3) == pytest.approx(oracle, rel=1e-4)


@pytest.mark.parametrize(("two_sided", "total"), [(True, 32160), (False, 25332)])
def test_sample_size_of_a_relative_change_of_a_mean(two_sided: bool, total: int) -> None:
    units = power.means(0.01 * 4.56, 2.13, two_sided=two_sided)
    assert 2 * units == pytest.approx(total, abs=1)


@pytest.mark.parametrize(
    "expected",
    [
        [4.8769, 3.3570, 2.6803, 2.2898, 2.0310],
        [4.3326, 2.9631, 2.3590, 2.0141],
        [3.7103, 2.5114, 1.9930],
    ],
)
def test_lan_demets_obrien_fleming(expected: list[float]) -> None:
    looks = len(expected)
    found = boundaries([look / looks for look in range(1, looks + 1)], 0.05)
    assert found == pytest.approx(expected, abs=6e-5)


def test_classical_boundaries() -> None:
    assert obrien_fleming(5, 0.05) == pytest.approx([4.5617, 3.2256, 2.6337, 2.2809, 2.0401], abs=6e-5)
    assert pocock(5, 0.05) == pytest.approx([2.4132] * 5, abs=6e-5)


def test_welch() -> None:
    test = fixed.welch(fixed.Sample(3407, 0.41, 3.9), fixed.Sample(3461, 0.70, 6.2))
    assert test.interval == pytest.approx((0.04538, 0.53462), abs=6e-6)
    assert test.p == pytest.approx(0.02016, abs=6e-6)


@pytest.mark.parametrize(
    ("tuned_at", "e", "low", "high"),
    [(5000, 2.305634, -0.0035552, 0.0235552), (20000, 3.554304, None, None)],
)
def test_asymptotic_sequence(tuned_at: int, e: float, low: float | None, high: float | None) -> None:
    effect = stratified_effect([Stratum(_counts(10000, 1000), _counts(10000, 1100))], EffectKind.PROPORTION)
    assert effect is not None
    # The maximum-likelihood variance of the reference is the Welch one; ours takes the larger, pooled one.
    own = effect._replace(variance=0.1 * 0.9 / 1e4 + 0.11 * 0.89 / 1e4)
    assert own.value / math.sqrt(own.variance) == pytest.approx(2.306942, rel=1e-6)
    assert effect.variance == pytest.approx(own.variance, rel=2e-3)
    information = tuned_at / 20000 / own.variance
    sequence = AsymptoticSequence(planned_scale(alpha=0.05, information=information))
    assert math.exp(sequence.log_e(own)) == pytest.approx(e, rel=1e-6)
    if low is not None:
        assert sequence.interval(own, 0.05) == pytest.approx((low, high), abs=6e-8)


def test_cookie_cats() -> None:
    test = fixed.two_proportions(20119, 45489, 20034, 44700)
    oracle = proportions_ztest([20034, 20119], [44700, 45489])
    assert test.statistic == pytest.approx(1.784086, rel=1e-6)
    assert test.p == pytest.approx(0.0744097, rel=1e-6)
    assert (test.statistic, test.p) == pytest.approx(oracle, rel=1e-9)
    ratio = srm.chi_square([srm.StepUnits(0, champion=44700, challenger=45489, challenger_share=0.5)])
    assert ratio.statistic == pytest.approx(6.90240, rel=1e-5)
    assert ratio.p == pytest.approx(0.00860799, rel=1e-6)


def test_conditional_binomial() -> None:
    mixture = normal_mixture(0.2)
    assert mixture.ratios.size == 41
    assert ConditionalBinomial(mixture).update(80, 500, 0.1).log_e == pytest.approx(2.249414, rel=1e-6)
    path = log_e_process(*map(np.array, ([100.0], [80.0], [900.0], [500.0])), mixture=mixture)
    assert path == pytest.approx([2.249414], rel=1e-6)


def _counts(n: float, events: float) -> Sums:
    return Sums(n=n, sy=events, syy=events)
