"""Effects from sums: against raw data, stratification, CUPED, and the confidence sequences built on them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.columns import columns
from pipelines.core.statistics.effects import (
    Cell,
    Effect,
    EffectKind,
    Stratum,
    Sums,
    pooled_theta,
    stratified_effect,
)
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.sequences import (
    AsymptoticSequence,
    critical_z,
    critical_z_one_sided,
    crossing,
    fieller,
    is_enough,
    log_e_above,
    planned_scale,
    tightest,
)

Column = np.ndarray


def sums(y: Column, d: Column | None = None, x: Column | None = None, reference: float = 0.0) -> Sums:
    d = np.ones_like(y) if d is None else d
    x = np.zeros_like(y) if x is None else x
    y = y - reference
    pairs = [y, y * y, d, d * d, y * d, x, x * x, x * y, x * d]
    return Sums(len(y), *(float(column.sum()) for column in pairs))


def adjusted(strata: list[Stratum], kind: EffectKind) -> list[Stratum]:
    """The strata as the look sees them with CUPED."""
    cells = [Cell("m", step, 0.0, *stratum) for step, stratum in enumerate(strata)]
    return list(columns(cells, "m", kind).adjusted(kind).strata().values())


def effect_of(strata: list[Stratum], kind: EffectKind) -> Effect:
    effect = stratified_effect(strata, kind)
    assert effect is not None
    return effect


def test_mean_effect_matches_the_raw_data() -> None:
    rng = np.random.default_rng(1)
    zero, one = rng.gamma(2, 3, 900), rng.gamma(2, 3.3, 100)
    effect = effect_of([Stratum(sums(zero), sums(one))], EffectKind.MEAN)
    welch = zero.var() / 900 + one.var() / 100
    pooled = np.concatenate([zero, one]).var() * (1 / 900 + 1 / 100)
    assert effect.value == pytest.approx(one.mean() - zero.mean())
    assert effect.variance == pytest.approx(max(welch, pooled))
    assert effect.champion_variance + effect.challenger_variance == pytest.approx(effect.variance)


@pytest.mark.parametrize("kind", [EffectKind.MEAN, EffectKind.RATIO])
def test_a_subtracted_reference_changes_nothing(kind: EffectKind) -> None:
    rng = np.random.default_rng(2)
    zero, one = rng.normal(1e6, 1, 400), rng.normal(1e6 + 0.1, 1, 300)
    d0, d1 = rng.poisson(3, 400) + 1.0, rng.poisson(3, 300) + 1.0
    plain = effect_of([Stratum(sums(zero, d0), sums(one, d1))], kind)
    referred = effect_of([Stratum(sums(zero, d0, None, 1e6), sums(one, d1, None, 1e6), 1e6)], kind)
    assert referred.value == pytest.approx(plain.value, rel=1e-6)
    assert referred.variance == pytest.approx(plain.variance, rel=2e-3)


def test_ratio_variance_matches_the_residuals() -> None:
    rng = np.random.default_rng(3)
    d0, d1 = rng.poisson(4, 5000) + 1.0, rng.poisson(4, 5000) + 1.0
    y0, y1 = rng.poisson(0.3 * d0) * 1.0, rng.poisson(0.3 * d1) * 1.0
    effect = effect_of([Stratum(sums(y0, d0), sums(y1, d1))], EffectKind.RATIO)
    parts = [np.var(y - y.sum() / d.sum() * d) / d.mean() ** 2 / len(y) for y, d in ((y0, d0), (y1, d1))]
    assert effect.value == pytest.approx(y1.sum() / d1.sum() - y0.sum() / d0.sum())
    assert effect.variance == pytest.approx(sum(parts), rel=0.05)
    assert effect.variance >= sum(parts) * (1 - 1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=30), st.integers(1, 3))
def test_sums_are_additive(values: list[float], at: int) -> None:
    y = np.array(values)
    parts = sums(y[:at]).plus(sums(y[at:]))
    assert tuple(parts) == pytest.approx(tuple(sums(y)), rel=1e-9, abs=1e-6)


def test_simpson_ramp_shows_no_effect_once_stratified() -> None:
    """The rate falls from 20 to 5 % while the canary's share grows: raw pooling finds a huge effect."""

    def counts(n: float, rate: float) -> Sums:
        return Sums(n=n, sy=n * rate, syy=n * rate)

    strata = [
        Stratum(counts(9900, 0.2), counts(100, 0.2)),
        Stratum(counts(9000, 0.1), counts(1000, 0.1)),
        Stratum(counts(5000, 0.05), counts(5000, 0.05)),
    ]
    pooled = Stratum(*(strata[0][i].plus(strata[1][i]).plus(strata[2][i]) for i in (0, 1)))
    naive = effect_of([pooled], EffectKind.PROPORTION)
    assert abs(naive.value) / math.sqrt(naive.variance) > 10
    assert effect_of(strata, EffectKind.PROPORTION).value == pytest.approx(0, abs=1e-12)


def test_welch_trap_a_small_arm_without_its_outliers_has_no_small_variance() -> None:
    """Ten of a thousand champion units carry all the revenue; none happens to be among the canary's 10."""
    zero = np.concatenate([np.zeros(990), np.full(10, 1000.0)])
    one = np.linspace(0, 0.1, 10)
    effect = effect_of([Stratum(sums(zero), sums(one))], EffectKind.MEAN)
    welch = zero.var() / 1000 + one.var() / 10
    assert abs(effect.value) / math.sqrt(welch) > 3
    assert abs(effect.value) / math.sqrt(effect.variance) < 1


def test_without_both_arms_there_is_no_effect() -> None:
    assert stratified_effect([], EffectKind.MEAN) is None
    assert stratified_effect([Stratum(Sums(n=5, sy=1, syy=1), Sums())], EffectKind.MEAN) is None


def test_impossible_sums_are_refused() -> None:
    bad = Sums(n=10, sy=100, syy=1)
    with pytest.raises(NotMeasured, match="no data can have"):
        stratified_effect([Stratum(bad, bad)], EffectKind.MEAN)


def test_cuped_takes_out_what_the_covariate_explains() -> None:
    rng = np.random.default_rng(4)
    x0, x1 = rng.normal(10, 2, 4000), rng.normal(10, 2, 1000)
    y0, y1 = 3 * x0 + rng.normal(0, 1, 4000), 3 * x1 + rng.normal(0, 1, 1000) + 0.5
    strata = [Stratum(sums(y0, x=x0), sums(y1, x=x1))]
    assert pooled_theta(strata, EffectKind.MEAN) == pytest.approx(3, abs=0.05)
    plain, tight = (
        effect_of(strata, EffectKind.MEAN),
        effect_of(adjusted(strata, EffectKind.MEAN), EffectKind.MEAN),
    )
    assert tight.variance < plain.variance / 20
    assert abs(tight.value - 0.5) < 4 * math.sqrt(tight.variance)


def test_cuped_on_sums_equals_cuped_on_units() -> None:
    rng = np.random.default_rng(5)
    x0, x1, d0, d1 = (rng.normal(3, 1, 50) for _ in range(4))
    d0, d1 = np.abs(d0) + 1, np.abs(d1) + 1
    y0, y1 = x0 + d0 + rng.normal(size=50), x1 + d1 + rng.normal(size=50)
    strata = [Stratum(sums(y0, d0, x0), sums(y1, d1, x1))]
    theta, mean = pooled_theta(strata, EffectKind.RATIO), np.concatenate([x0, x1]).mean()
    by_hand = [sums(y - theta * (x - mean), d, x) for y, d, x in ((y0, d0, x0), (y1, d1, x1))]
    (found,) = adjusted(strata, EffectKind.RATIO)
    assert tuple(found.champion) == pytest.approx(tuple(by_hand[0]), rel=1e-9, abs=1e-9)
    assert tuple(found.challenger) == pytest.approx(tuple(by_hand[1]), rel=1e-9, abs=1e-9)


def test_cuped_without_a_covariate_changes_nothing() -> None:
    strata = [Stratum(sums(np.arange(10.0)), sums(np.arange(5.0)))]
    assert adjusted(strata, EffectKind.MEAN) == strata


def test_scale_is_tightest_at_the_planned_information() -> None:
    assert tightest(0.05) == pytest.approx(7.936, abs=5e-4)
    effect = _effect(variance=0.01)
    planned = AsymptoticSequence(planned_scale(alpha=0.05, information=100))
    others = [AsymptoticSequence(planned.tau2 * factor) for factor in (0.5, 0.8, 1.25, 2)]
    width = planned.interval(effect, 0.05).high
    assert all(other.interval(effect, 0.05).high > width for other in others)


@given(st.floats(-2, 2), st.floats(1e-4, 1), st.floats(0.01, 0.2))
def test_interval_and_e_value_agree(value: float, variance: float, alpha: float) -> None:
    sequence, effect = AsymptoticSequence(1.0), _effect(value, variance)
    interval = sequence.interval(effect, alpha)
    rejected = sequence.log_e(effect) >= -math.log(alpha)
    assert rejected == (interval.low >= 0 or interval.high <= 0)
    relative = fieller(effect, critical_z(effect.variance, sequence.tau2, alpha))
    if relative is not None and abs(interval.low) > 1e-9 and abs(interval.high) > 1e-9:
        assert (relative.low > 0, relative.high < 0) == (interval.low > 0, interval.high < 0)


@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.01, 2))
def test_a_root_is_looked_for_between_the_ends_and_is_an_end_where_there_is_no_change_of_sign(
    place: float, low: float, width: float
) -> None:
    high, asked = low + width, list[float]()

    def rises(x: float) -> float:
        asked.append(x)
        return math.inf if x > place + 1 else math.expm1(x - place)

    assert crossing(rises, low, high) == pytest.approx(min(max(place, low), high), abs=1e-9)
    assert all(low <= x <= high for x in asked)
    assert len(asked) == len(set(asked)), "an expensive function is asked once for a place"


def test_a_root_beside_an_end_is_found_as_finely_as_floats_are() -> None:
    assert crossing(lambda x: x - 3e-200, 0.0, 1.0, tolerance=0.0) == pytest.approx(3e-200)


@given(st.floats(1e-4, 100), st.floats(0.001, 0.3))
def test_one_sided_bound_is_where_its_e_value_reaches_the_boundary(variance: float, alpha: float) -> None:
    z = critical_z_one_sided(variance, 1.0, alpha)
    assert log_e_above(z * math.sqrt(variance), variance, 1.0) == pytest.approx(-math.log(alpha), abs=1e-6)


def test_one_sided_bounds_are_tighter_and_mirror_each_other() -> None:
    sequence, effect = AsymptoticSequence(1.0), _effect(0.3, 0.01)
    interval = sequence.interval(effect, 0.05)
    assert interval.low < sequence.lower(effect, 0.05) < 0.3 < sequence.upper(effect, 0.05) < interval.high
    assert sequence.lower(effect, 0.05) == pytest.approx(-sequence.upper(effect.mirrored(), 0.05))


def test_far_below_zero_the_one_sided_evidence_stays_finite() -> None:
    assert math.isfinite(log_e_above(-1e3, 1.0, 1.0))


def test_rare_events_and_small_samples_are_not_enough() -> None:
    assert not is_enough(_effect()._replace(fewest_expected=4.9))
    assert not is_enough(_effect()._replace(challenger_units=29))
    assert not is_enough(_effect(variance=0.0))
    assert is_enough(_effect())


def test_bad_parameters_name_value_and_range() -> None:
    with pytest.raises(ParameterError, match="alpha == 2, must be above 0"):
        planned_scale(alpha=2, information=1)
    with pytest.raises(ParameterError, match="information == 0"):
        planned_scale(alpha=0.05, information=0)


def _effect(value: float = 0.0, variance: float = 0.01) -> Effect:
    return Effect(value, variance, 5.0, 5.0 + value, variance / 4, 3 * variance / 4, 1000, 300, math.inf)
