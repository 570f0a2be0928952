"""A harmless version stays in production, however often one looks: seeded simulations that can fail."""

import math

import numpy as np

from pipelines.core.statistics.binomial import log_e_process
from pipelines.core.statistics.effects import EffectKind, Stratum, Sums, stratified_effect
from pipelines.core.statistics.sequences import AsymptoticSequence, is_enough

RUNS = 600

BOUNDARY = math.log(20)

ALLOWED = 0.05 + 2 * math.sqrt(0.05 * 0.95 / RUNS)


def test_counts_on_a_ramp_with_a_moving_base_rate() -> None:
    """1 -> 10 -> 50 % while the base rate falls from 5 to 1 %; raw pooling would roll back every time."""
    rng = np.random.default_rng(21)
    share = np.repeat([0.01, 0.1, 0.5], 60)
    rate = np.linspace(0.05, 0.01, share.size)
    stratified, pooled = 0, 0
    for _ in range(RUNS):
        n1 = rng.binomial(1000, share)
        n0 = 1000 - n1
        x1, x0 = rng.binomial(n1, rate), rng.binomial(n0, rate)
        stratified += log_e_process(*(c.astype(float) for c in (n1, x1, n0, x0))).max() >= BOUNDARY
        reversed_ramp = [np.array([float(column.sum())]) for column in (n0, x0, n1, x1)]
        pooled += log_e_process(*reversed_ramp).max() >= BOUNDARY
    assert stratified / RUNS <= ALLOWED
    assert pooled / RUNS > 0.9


def test_rare_counts_from_the_first_hundred_units_on() -> None:
    rng = np.random.default_rng(22)
    false = 0
    for _ in range(RUNS):
        n1 = rng.binomial(100, 0.01, 300)
        x1, x0 = rng.binomial(n1, 0.001), rng.binomial(100 - n1, 0.001)
        counts = (c.astype(float) for c in (n1, x1, 100 - n1, x0))
        false += log_e_process(*counts).max() >= BOUNDARY
    assert false / RUNS <= ALLOWED


def test_skewed_means_on_an_unequal_split_where_welch_alone_fails() -> None:
    """Revenue: 2 % buy, log-normal; 1/99; two-sided, looks every 1,000 units."""
    rng = np.random.default_rng(23)
    looks, runs = 60, 150
    ours, welch = 0, 0
    for _ in range(runs):
        zero, one = _revenue(rng, 990, looks), _revenue(rng, 10, looks)
        ours += any(_log_e(a, b) >= BOUNDARY for a, b in zip(zero, one, strict=True))
        welch += any(_log_e(a, b, pooled=False) >= BOUNDARY for a, b in zip(zero, one, strict=True))
    assert ours / runs <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)
    assert welch / runs > 0.15


def _revenue(rng: np.random.Generator, units: int, looks: int) -> list[Sums]:
    y = np.where(rng.random((looks, units)) < 0.02, rng.lognormal(3, 1, (looks, units)), 0.0)
    sy, syy = y.sum(axis=1).cumsum(), (y * y).sum(axis=1).cumsum()
    return [
        Sums(n=units * (look + 1.0), sy=a, syy=b) for look, (a, b) in enumerate(zip(sy, syy, strict=True))
    ]


def _log_e(zero: Sums, one: Sums, *, pooled: bool = True) -> float:
    effect = stratified_effect([Stratum(zero, one)], EffectKind.MEAN)
    assert effect is not None
    if not pooled:
        own = [sums.syy / sums.n - (sums.sy / sums.n) ** 2 for sums in (zero, one)]
        effect = effect._replace(variance=own[0] / zero.n + own[1] / one.n)
    if not is_enough(effect):
        return 0.0
    return AsymptoticSequence(tau2=1.0).log_e(effect)
