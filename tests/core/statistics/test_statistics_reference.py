"""Published and independently computed numbers that a correct implementation reproduces."""

import math

import numpy as np
import pytest

from pipelines.core.statistics import srm
from pipelines.core.statistics.binomial import ConditionalBinomial, log_e_process, normal_mixture
from pipelines.core.statistics.effects import EffectKind, Stratum, Sums, stratified_effect
from pipelines.core.statistics.group_sequential import boundaries, exits
from pipelines.core.statistics.power import Design, SequentialMethod, information_per_unit
from pipelines.core.statistics.sequences import AsymptoticSequence, planned_scale


@pytest.mark.parametrize(("two_sided", "total"), [(True, 32160), (False, 25332)])
def test_sample_size_of_a_relative_change_of_a_mean(two_sided: bool, total: int) -> None:
    design = Design(method=SequentialMethod.FIXED, one_sided=not two_sided)
    units = design.information(0.01 * 4.56, 0.8) / information_per_unit(0.5, 2.13)
    assert units == pytest.approx(total, abs=1)


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
    """O'Brien-Fleming's and Pocock's, for five equally spaced looks, spend 5 %: to the four digits they are printed with."""
    fractions = [look / 5 for look in range(1, 6)]
    for bounds in ([4.5617, 3.2256, 2.6337, 2.2809, 2.0401], [2.4132] * 5):
        left = [
            exits(fractions, low=[-z - off for z in bounds], high=[z + off for z in bounds])
            for off in (-5e-5, 0.0, 5e-5)
        ]
        spent = [float(each.below.sum() + each.above.sum()) for each in left]
        assert spent[1] == pytest.approx(0.05, abs=6e-6)
        assert spent[2] < 0.05 < spent[0]


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
    ratio = srm.chi_square([srm.StepUnits(0, champion=44700, challenger=45489, challenger_share=0.5)])
    assert ratio.statistic == pytest.approx(6.90240, rel=1e-5)
    assert ratio.p == pytest.approx(0.00860799, rel=1e-6)


def test_conditional_binomial() -> None:
    mixture = normal_mixture(0.2)
    assert mixture.ratios.size == 41
    assert ConditionalBinomial(mixture, later=0.0).update(80, 500, 0.1).log_e == pytest.approx(
        2.249414, rel=1e-6
    )
    path = log_e_process(*map(np.array, ([100.0], [80.0], [900.0], [500.0])), mixture=mixture, later=0.0)
    assert path == pytest.approx([2.249414], rel=1e-6)


def _counts(n: float, events: float) -> Sums:
    return Sums(n=n, sy=events, syy=events)
