"""Exact bounds for rates and their difference, also with no event at all."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import EffectKind, Stratum, Sums, stratified_effect
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.proportions import (
    EXACT_PART,
    Buckets,
    ProportionSequence,
    log_e_below,
    proportion_upper,
    rare_event_trials,
    upper_bound,
)
from pipelines.core.statistics.sequences import AsymptoticSequence


def one(n1: float, x1: float, n0: float, x0: float) -> Buckets:
    return Buckets(*(np.array([value]) for value in (n1, x1, n0, x0)))


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.001, 0.999), st.floats(0.01, 0.2))
def test_interval_holds_the_observed_rate_and_ends_at_the_boundary(
    a: int, b: int, typical: float, alpha: float
) -> None:
    sequence = ProportionSequence(typical)
    low, high = sequence.interval(events=a, trials=a + b, alpha=alpha)
    assert 0 <= low <= high <= 1
    if a + b > 0:
        assert low <= a / (a + b) <= high
    for end in (low, high):
        if 0 < end < 1:
            # Beside 1 the next float is far away, as e-values go.
            step = (a + b) * float(np.spacing(end)) / min(end, 1 - end)
            found = sequence.log_e(end, events=a, trials=a + b)
            assert found == pytest.approx(-math.log(alpha), abs=1e-5 + 4 * step)


def test_nothing_seen_nothing_known() -> None:
    assert ProportionSequence().interval(events=0, trials=0, alpha=0.05) == (0, 1)


@pytest.mark.parametrize("rate", [0.002, 0.05, 0.6])
def test_coverage_at_every_look(rate: float) -> None:
    rng = np.random.default_rng(11)
    sequence, missed, runs = ProportionSequence(0.05), 0, 400
    for _ in range(runs):
        events = np.cumsum(rng.binomial(50, rate, size=40))
        trials = 50.0 * np.arange(1, 41)
        worst = max(sequence.log_e(rate, events=x, trials=n) for x, n in zip(events, trials, strict=True))
        missed += worst >= math.log(20)
    assert missed / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


# Thousandths: scipy's own probabilities overflow beside the smallest numbers there are.
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.01, 0.4), st.integers(0, 1000))
def test_mean_on_the_edge_of_the_margin_is_at_most_one(n1: int, n0: int, margin: float, place: int) -> None:
    """Exact: summed over every outcome of one bucket, anywhere on p1 = p0 + margin."""
    from scipy.stats import binom

    p0 = place / 1000 * (1 - margin)
    x1, x0 = np.arange(n1 + 1), np.arange(n0 + 1)
    probability = np.outer(binom.pmf(x1, n1, p0 + margin), binom.pmf(x0, n0, p0))
    e = [[math.exp(log_e_below(one(n1, a, n0, b), margin, None)) for b in x0.tolist()] for a in x1.tolist()]
    assert float((probability * np.array(e)).sum()) <= 1 + 1e-9


def test_non_inferiority_of_errors_that_never_happen() -> None:
    """Half a point of margin is proved by about a thousand canary requests without an error."""
    assert log_e_below(one(1100, 0, 9900, 0), 0.005, None) >= math.log(20)
    assert upper_bound(one(1100, 0, 9900, 0), 0.05) < 0.005
    assert upper_bound(one(400, 0, 3600, 0), 0.05) > 0.005
    assert 600 < rare_event_trials(0.005, 0.05) < 1100


def test_few_events_are_left_to_the_exact_bound() -> None:
    """The normal approximation is too sure of a canary that happens to have few events."""

    def both(scale: float) -> tuple[float, float]:
        data = Buckets(*(np.full(10, value) for value in (100.0 * scale, scale, 900.0 * scale, 9.0 * scale)))
        sums = [Sums(n=n, sy=x, syy=x) for n, x in ((9000 * scale, 90 * scale), (1000 * scale, 10 * scale))]
        effect = stratified_effect([Stratum(sums[0], sums[1])], EffectKind.PROPORTION)
        assert effect is not None
        bound = proportion_upper(data, effect, AsymptoticSequence(1e-5), 0.05)
        return bound, upper_bound(data, 0.05 * EXACT_PART)

    few, exact = both(1)
    assert few == exact
    many, exact = both(10)
    assert many < exact


def test_bound_is_near_the_normal_one_with_many_events() -> None:
    buckets = Buckets(*(np.full(50, value) for value in (200.0, 2.0, 1800.0, 18.0)))
    error = math.sqrt(0.01 * 0.99 * (1 / 10_000 + 1 / 90_000))
    assert 1.96 * error < upper_bound(buckets, 0.05) < 4.5 * error


def test_a_worse_canary_is_never_proved_harmless() -> None:
    rng = np.random.default_rng(3)
    passed = 0
    for _ in range(400):
        # The base rate moves; the canary is worse by exactly the margin.
        base = 0.002 + 0.01 * rng.random(60)
        n1, n0 = rng.binomial(300, 0.2, 60) + 1.0, rng.binomial(300, 0.8, 60) + 1.0
        x1, x0 = rng.binomial(n1.astype(int), base + 0.02), rng.binomial(n0.astype(int), base)
        looks = (
            log_e_below(Buckets(n1[:look], x1[:look], n0[:look], x0[:look]), 0.02, None)
            for look in range(6, 61, 6)
        )
        passed += max(looks) >= math.log(20)
    assert passed / 400 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


@given(st.integers(20, 500), st.integers(20, 500), st.integers(0, 5), st.integers(0, 5))
def test_more_canary_events_raise_the_bound(n1: int, n0: int, x1: int, x0: int) -> None:
    assert upper_bound(one(n1, x1 + 1, n0, x0), 0.05) >= upper_bound(one(n1, x1, n0, x0), 0.05) - 1e-6


def test_buckets_without_an_arm_say_nothing() -> None:
    empty = one(100, 0, 0, 0)
    assert upper_bound(empty, 0.05) == 1
    assert log_e_below(empty.informative(), 0.01, None) == pytest.approx(0, abs=1e-12)


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(NotMeasured, match="3 events in 2 trials"):
        upper_bound(one(2, 3, 2, 0), 0.05)
    with pytest.raises(NotMeasured, match="canary_trials == nan"):
        upper_bound(one(math.nan, 0, 2, 0), 0.05)
    with pytest.raises(NotMeasured):
        ProportionSequence().interval(events=3, trials=2, alpha=0.05)
    with pytest.raises(ParameterError, match="alpha == 1.5"):
        upper_bound(one(1, 0, 1, 0), 1.5)
