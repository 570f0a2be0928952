"""Planned power against the power that simulated experiments reach, with estimated variances."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.sequential_parts.rows import row
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.group_sequential import boundaries
from pipelines.core.statistics.planning import Baseline, Target, plan
from pipelines.core.statistics.power import Design, SequentialMethod
from pipelines.core.statistics.sequences import planned_scale

ALPHA = 0.05

SHARES = (0.1, 0.3, 0.5)

EFFECTS = {"proportion": (0.1, 0.2), "mean": (0.05, 0.1), "skewed mean": (0.1, 0.2)}
"""Relative, per kind: the more a metric varies, the larger, so that a run stays affordable."""

POWERS = (0.7, 0.8, 0.9)

METHODS = ((SequentialMethod.ANYTIME, 25), (SequentialMethod.GROUP_SEQUENTIAL, 5))


def rows(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    worst, count, apart = ("", 0.0), 0, list[float]()
    for kind, place, share, power, (method, looks) in itertools.product(
        EFFECTS, (0, 1), SHARES, POWERS, METHODS
    ):
        effect = EFFECTS[kind][place]
        realised = _realised(rng, runs, kind, share, effect, power, method, looks)
        distance, count = abs(realised - power), count + 1
        apart.append(realised - power)
        if distance > worst[1]:
            worst = (f"{kind}, {100 * share:g} %, +{100 * effect:g} %, power {power}, {method}", distance)
    error = math.sqrt(0.8 * 0.2 / runs)
    yield row(
        f"realised minus planned power, worst of {count} scenarios ({worst[0]})",
        worst[1],
        error,
        "one Monte-Carlo standard error",
        "probability",
        0.03,
    )
    yield row(
        f"realised minus planned power, mean of {count} scenarios",
        float(np.mean(apart)),
        error / math.sqrt(count),
        "one Monte-Carlo standard error",
        "probability",
        None,
    )


def _realised(
    rng: np.random.Generator,
    runs: int,
    kind: str,
    share: float,
    effect: float,
    power: float,
    method: SequentialMethod,
    looks: int,
) -> float:
    """Power reached with the units that the plan asks for."""
    base = 0.1 if kind == "proportion" else 1.0
    variance = {"proportion": 0.09, "mean": 0.25, "skewed mean": 4.0}[kind]
    difference = base * effect
    design = Design(method=method, alpha=ALPHA, looks=looks)
    baseline = Baseline(
        name=kind,
        kind=EffectKind.PROPORTION if kind == "proportion" else EffectKind.MEAN,
        value=base,
        variance=variance,
        kurtosis=3 + 6 * variance / base**2 if kind == "skewed mean" else 3,
        units_per_day=1e9,
    )
    made = plan(baseline, Target(mde=effect, power=power, design=design), shares=[share], max_days=1).best
    n1, n0 = (max(round(units / looks), 1) for units in (made.challenger_units, made.champion_units))
    sums1 = _sums(rng, kind, base * (1 + effect), variance, n1, (runs, looks))
    sums0 = _sums(rng, kind, base, variance, n0, (runs, looks))
    z, spread = _z(sums1, sums0, n1, n0)
    if method is SequentialMethod.ANYTIME:
        tau2 = planned_scale(alpha=ALPHA, information=design.information(difference, power))
        v = tau2 / spread
        bound = np.sqrt((1 + 1 / v) * (-2 * math.log(ALPHA) + np.log1p(v)))
    else:
        bound = np.array(boundaries([k / looks for k in range(1, looks + 1)], ALPHA))
    return float((z >= bound).any(axis=1).mean())


def _sums(
    rng: np.random.Generator, kind: str, mean: float, variance: float, n: int, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative sums of y and of y^2 per run and look."""
    if kind == "proportion":
        events = np.cumsum(rng.binomial(n, mean, shape), axis=1).astype(float)
        return events, events
    if kind == "mean":
        y = rng.normal(0, math.sqrt(variance / n), shape)
        squares = variance * rng.chisquare(max(n - 1, 1), shape) if n > 1 else np.zeros(shape)
        return _cumulated(mean, y, squares, n)
    y = np.empty(shape)
    squares = np.empty(shape)
    k = mean**2 / variance
    for look in range(shape[1]):
        draws = rng.gamma(k, variance / mean, (shape[0], n))
        y[:, look], squares[:, look] = draws.sum(axis=1), (draws**2).sum(axis=1)
    return np.cumsum(y, axis=1), np.cumsum(squares, axis=1)


def _cumulated(mean: float, y: np.ndarray, squares: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    level = mean + y
    return np.cumsum(n * level, axis=1), np.cumsum(squares + n * level**2, axis=1)


def _z(
    one: tuple[np.ndarray, np.ndarray], zero: tuple[np.ndarray, np.ndarray], n1: int, n0: int
) -> tuple[np.ndarray, np.ndarray]:
    """Z and the variance max(Welch, pooled) per run and look."""
    looks = np.arange(1, one[0].shape[1] + 1)
    m1, m0 = n1 * looks, n0 * looks
    mean1, mean0 = one[0] / m1, zero[0] / m0
    own1, own0 = one[1] / m1 - mean1**2, zero[1] / m0 - mean0**2
    both = (one[1] + zero[1]) / (m1 + m0) - ((one[0] + zero[0]) / (m1 + m0)) ** 2
    spread = np.maximum(own1 / m1 + own0 / m0, both * (1 / m1 + 1 / m0))
    spread = np.maximum(spread, 1e-12)
    return (mean1 - mean0) / np.sqrt(spread), spread
