"""How often a harmless version is rolled back: family-wise per rollout, peeking from the start.

A path is one guardrail over one rollout. The e-values of m paths, which make one rollout, are added up at each look and
compared with m / alpha; so one simulation serves every number of guardrails.
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.columns import columns
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.proportions import (
    ENOUGH_EVENTS,
    EXACT_PART,
    Buckets,
    _base_rates,
    _log_factors,
)
from pipelines.core.statistics.sequences import (
    AsymptoticSequence,
    critical_z_one_sided,
    planned_scale,
)

ALPHA = 0.05

GUARDRAILS = (1, 5, 20)

LOOKS = 200

SPLITS = {"50/50": 0.5, "10/90": 0.1, "1/99": 0.01}

RATES = (0.001, 0.005, 0.02, 0.05)


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for split, share in SPLITS.items():
        for rate in RATES:
            found = _counts(rng, paths, np.full(LOOKS, share), np.full(LOOKS, rate), units=100)
            yield from _family_wise(f"counts {split}, base rate {100 * rate:g} %", found)
    share = np.repeat([0.01, 0.1, 0.5], LOOKS // 3)
    rate = np.linspace(0.05, 0.005, share.size)
    found = _counts(rng, paths, share, rate, units=100)
    yield from _family_wise("counts on a ramp 1-10-50 %, base rate moving 5 to 0.5 %", found)
    for split, share_one in SPLITS.items():
        found = _revenue(rng, max(paths // 10, 100), share_one)
        yield from _family_wise(f"skewed mean {split}", found)
    yield _false_non_inferiority(rng, max(paths // 5, 100))


def _family_wise(name: str, e: np.ndarray) -> Iterator[dict[str, Any]]:
    """`e`: e-values, shape (looks, paths)."""
    for m in GUARDRAILS:
        rollouts = e[:, : e.shape[1] // m * m].reshape(len(e), -1, m).sum(axis=2).max(axis=0)
        hits = int((rollouts >= m / ALPHA).sum())
        upper = upper_95(hits, len(rollouts))
        yield row(
            f"false rollback, {name}, {m} guardrails: upper 95 % bound",
            upper,
            hits / len(rollouts),
            f"the simulated rate itself, {len(rollouts)} rollouts",
            "share of rollouts",
            ALPHA,
        )


def _counts(
    rng: np.random.Generator, paths: int, share: np.ndarray, rate: np.ndarray, *, units: int
) -> np.ndarray:
    """The e-value of each path after each look, shape (looks, paths)."""
    made, found = Paths(paths), np.ones((share.size, paths))
    for look, (share_now, rate_now) in enumerate(zip(share, rate, strict=True)):
        n1 = rng.binomial(units, share_now, paths)
        x1, x0 = rng.binomial(n1, rate_now), rng.binomial(units - n1, rate_now)
        compared = (n1 > 0) & (n1 < units)
        found[look] = made.take(x1 * compared, x0 * compared, n1 / units)
    return found


def _revenue(rng: np.random.Generator, paths: int, share: float) -> np.ndarray:
    """2 % buy for a log-normal amount; looks every 1,000 units; the one-sided AsympCS e-value."""
    looks, units = 60, 1000
    sequence = AsymptoticSequence(
        planned_scale(alpha=ALPHA, information=30 * units * share * (1 - share) / 40)
    )
    found = np.ones((looks, paths))
    for path in range(paths):
        n1 = rng.binomial(units, share, looks)
        one, zero = (_purchases(rng, n) for n in (n1, units - n1))
        cells = [Cell("m", 0, look, *both) for look, both in enumerate(zip(zero, one, strict=True))]
        table = columns(cells, "m", EffectKind.MEAN)
        for look in range(looks):
            seen = table._replace(
                **{
                    name: getattr(table, name)[: look + 1]
                    for name in ("steps", "champion", "challenger", "references")
                }
            )
            log_e = sequence.log_e_above_since(seen.effects_since(EffectKind.MEAN), 1)
            found[look, path] = math.exp(min(log_e, 50))
    return found


def _purchases(rng: np.random.Generator, units: np.ndarray) -> list[Sums]:
    buyers = rng.binomial(units, 0.02)
    amounts = [rng.lognormal(3, 1, count) for count in buyers]
    return [Sums(n=float(n), sy=a.sum(), syy=(a**2).sum()) for n, a in zip(units, amounts, strict=True)]


def _false_non_inferiority(rng: np.random.Generator, paths: int) -> dict[str, Any]:
    """A version worse by exactly its margin that is called harmless, by either bound, at any of 300 looks."""
    margin, base, looks, units = 0.005, 0.01, 300, 500
    tau2 = planned_scale(alpha=ALPHA, information=(3.63 / margin) ** 2)
    hits = 0
    for _ in range(paths):
        n1 = rng.binomial(units, 0.1, looks)
        x1, x0 = rng.binomial(n1, base + margin), rng.binomial(units - n1, base)
        data = Buckets(*(column.astype(float) for column in (n1, x1, units - n1, x0)))
        exact = _below_path(data, margin).max() >= -math.log(EXACT_PART * ALPHA)
        hits += bool(exact) or _is_below(data, margin, tau2)
    return row(
        f"false non-inferiority at the margin, {paths} rollouts: upper 95 % bound",
        upper_95(hits, paths),
        hits / paths,
        "the simulated rate itself",
        "share of rollouts",
        ALPHA,
    )


def _is_below(data: Buckets, margin: float, tau2: float) -> bool:
    n1, x1, n0, x0 = (np.cumsum(column) for column in data)
    p1, p0, p = x1 / np.maximum(n1, 1), x0 / n0, (x1 + x0) / (n1 + n0)
    variance = np.maximum(
        p1 * (1 - p1) / np.maximum(n1, 1) + p0 * (1 - p0) / n0, p * (1 - p) * (1 / np.maximum(n1, 1) + 1 / n0)
    )
    ready = (np.minimum(n1, n0) * p >= ENOUGH_EVENTS) & (n1 >= 30)
    critical = np.interp(np.log(tau2 / np.maximum(variance, 1e-15)), *_critical())
    return bool(((p1 - p0 + critical * np.sqrt(variance) < margin) & ready).any())


@cache
def _critical() -> tuple[np.ndarray, np.ndarray]:
    """Critical z over ln(tau2 / variance): one table in the place of a root per look."""
    v = np.linspace(math.log(1e-4), math.log(1e4), 600)
    return v, np.array([critical_z_one_sided(math.exp(-at), 1.0, (1 - EXACT_PART) * ALPHA) for at in v])


def _below_path(buckets: Buckets, margin: float) -> np.ndarray:
    """`log_e_below` of the first bucket, the first two, and so on: shape (informative buckets,)."""
    n1, x1, n0, x0 = buckets.checked().informative()
    base, weights = _base_rates(margin, None)
    counts = (x1, n1 - x1, x0, n0 - x0)
    logs = _log_factors(n1 / (n1 + n0), base, margin)
    terms = sum((count[:, None] * log for count, log in zip(counts, logs, strict=True)), np.zeros(1))
    return np.logaddexp.reduce(np.cumsum(terms, axis=0) + weights, axis=1)
