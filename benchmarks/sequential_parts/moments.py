"""Slow answers that come together: what a limit on the evidence of a moment saves, and what it costs.

Buckets are moments. In a burst four of ten answers of one version are late for as long as a moment, as was seen on a machine whose
cores were all busy; bursts befall either version alike, so that neither is worse.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.binomial import slow_answers

BOUNDARY = 100.0

PER_SECOND = 60.0
"""Answers of both versions."""

BASE, LATE_IN_A_BURST = 0.005, 0.4

HOUR, BURST_EVERY = 3600.0, 600.0
"""In seconds; of either version."""

_TEST = slow_answers()


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for share in (0.1, 0.5):
        yield _false(rng, share, paths)
    for ratio, limit in ((2.0, 1.2), (5.0, 1.5), (100.0, None)):
        yield _found(rng, ratio, paths // 5, limit)


def _false(rng: np.random.Generator, share: float, paths: int) -> dict[str, Any]:
    bounded, usual = (
        _lost(np.random.default_rng(rng.integers(2**32)), share, paths, most) for most in _LIMITS
    )
    return row(
        f"false rollback in an hour with six bursts of slow answers at either version, canary at {share:.0%}: upper 95 % bound",
        upper_95(bounded, paths),
        usual / paths,
        f"every late answer counted by itself, {paths} rollouts",
        "probability",
        0.05,
    )


_LIMITS = (_TEST.moment_gains, math.inf)


def _lost(rng: np.random.Generator, share: float, paths: int, most: float) -> int:
    made = Paths(paths)
    for _ in range(round(HOUR / _TEST.moment_s)):
        made.keep(_moment(rng, made, share, 1.0, most, burst=_TEST.moment_s / BURST_EVERY) < BOUNDARY)
    return paths - len(made.mass)


def _found(rng: np.random.Generator, ratio: float, paths: int, limit: float | None) -> dict[str, Any]:
    bounded, usual = (
        _seconds(np.random.default_rng(rng.integers(2**32)), ratio, paths, most) for most in _LIMITS
    )
    what = "all answers late" if ratio * BASE * 2 >= 1 else f"{ratio:g}x of {BASE:.1%} slow answers"
    return row(
        f"seconds until {what} are found, canary at 10 %, {PER_SECOND:g} answers a second",
        bounded.mean(),
        usual.mean(),
        "every late answer counted by itself, in buckets as long",
        "seconds",
        None if limit is None else limit * usual.mean(),
    )


def _seconds(rng: np.random.Generator, ratio: float, paths: int, most: float) -> np.ndarray:
    made, found, moments = Paths(paths), list[float](), 0
    while len(made.mass):
        moments += 1
        alive = _moment(rng, made, 0.1, ratio, most) < BOUNDARY
        found += [moments * _TEST.moment_s] * int((~alive).sum())
        made.keep(alive)
    return np.array(found)


def _moment(
    rng: np.random.Generator, made: Paths, share: float, ratio: float, most: float, *, burst: float = 0.0
) -> np.ndarray:
    """The e-values after one more moment."""
    count = len(made.mass)
    parts = np.array([share, 1 - share])[:, None]
    answers = rng.poisson(PER_SECOND * _TEST.moment_s * parts, (2, count))
    rates = np.array([min(1.0, BASE * ratio * (2 if ratio >= 100 else 1)), BASE])[:, None]
    rates = np.where(rng.random((2, count)) < burst, LATE_IN_A_BURST, rates)
    canary, champion = rng.binomial(answers, rates)
    told = answers.sum(axis=0)
    part = np.divide(answers[0], told, out=np.zeros(count), where=told > 0)
    compared = (answers > 0).all(axis=0)
    return made.take(np.where(compared, canary, 0), np.where(compared, champion, 0), part, most=most)
