"""Harm that begins late, harmless versions that run for long, and what it saves to wait while harm is likely."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.columns import Columns
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.sequences import AsymptoticSequence, log_e_above, planned_scale
from pipelines.core.statistics.starts import LATER

ALPHA = 0.05

BOUNDARY = 100.0
"""Evidence at which the change is found, as with five guardrails."""

FOUND_WITHIN = {1.25: 7_000.0, 2.0: 650.0, 5.0: 110.0}
"""Events after 100,000 healthy ones."""


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    some = max(paths // 20, 200)
    for ratio, most in FOUND_WITHIN.items():
        for healthy in (0, 1_000, 10_000, 100_000):
            yield _found(rng, ratio, healthy, some, most if healthy == 100_000 else None)
    for healthy in (0, 100, 1_000):
        yield _mean_found(rng, healthy)
    for share in (0.01, 0.1, 0.5):
        yield _false(rng, share, max(paths // 5, 1_000))
    for harmed in (2, 5):
        yield _summed(rng, some, harmed)
    for ratio in (2.0, 1.25):
        yield from _waiting(rng, ratio, max(paths // 10, 1_000))
    yield _held(rng, max(paths // 10, 1_000))


def _found(
    rng: np.random.Generator, ratio: float, healthy: int, paths: int, limit: float | None
) -> dict[str, Any]:
    ours = delays(rng, share=0.1, ratio=ratio, boundary=BOUNDARY, paths=paths, after=healthy)
    once = delays(rng, share=0.1, ratio=ratio, boundary=BOUNDARY, paths=100, after=healthy, later=0.0)
    error = ours.std() / math.sqrt(ours.size)
    return row(
        f"events from the change to evidence of {BOUNDARY:g}, {ratio:g}x at 10 % after {healthy:,} healthy events"
        f" (+-{error:.2g})",
        ours.mean(),
        once.mean(),
        f"without money for a later start (+-{once.std() / math.sqrt(once.size):.2g})",
        "events from the change",
        limit,
    )


def _mean_found(rng: np.random.Generator, healthy: int) -> dict[str, Any]:
    """Normal values, 90 units of the champion and 10 of the canary in a bucket; a look after each."""
    runs, most = 20, 400
    times = np.zeros((2, runs))
    sequence = AsymptoticSequence(planned_scale(alpha=ALPHA, information=_INFORMATION))
    for run in range(runs):
        zero, one = (_normal(rng, n, healthy + most) for n in (90, 10))
        one[healthy:, 2] += 2 * 0.3 * one[healthy:, 1] + 0.09 * one[healthy:, 0]
        one[healthy:, 1] += 0.3 * one[healthy:, 0]
        for look in range(1, most):
            sums = np.zeros(healthy + look)
            seen = Columns("m", sums, zero[: healthy + look], one[: healthy + look], sums)
            found = seen.effects_since(EffectKind.MEAN)
            e = (
                sequence.log_e_above_since(found, 1),
                log_e_above(found.value[0], found.variance[0], sequence.tau2),
            )
            for rule, reached in enumerate(e):
                if times[rule, run] == 0 and reached >= math.log(BOUNDARY):
                    times[rule, run] = look
            if times[:, run].all():
                break
    error = times[0].std() / math.sqrt(runs)
    return row(
        f"buckets from the change to evidence of {BOUNDARY:g}, mean +0.3 sd at 10 % after {healthy:,} healthy buckets"
        f" (+-{error:.2g})",
        times[0].mean(),
        times[1].mean(),
        "without money for a later start",
        "buckets from the change",
        60.0,
    )


_INFORMATION = (3.63 / 0.3) ** 2


def _normal(rng: np.random.Generator, n: int, buckets: int) -> np.ndarray:
    y = rng.normal(size=(buckets, n))
    sums = np.zeros((buckets, 10))
    sums[:, 0], sums[:, 1], sums[:, 2] = n, y.sum(axis=1), (y * y).sum(axis=1)
    return sums


def delays(
    rng: np.random.Generator,
    *,
    share: float,
    ratio: float,
    boundary: float,
    paths: int,
    after: int = 0,
    later: float = LATER,
) -> np.ndarray:
    """Events from the change to the boundary, per path; paths that cross it before the change are left out."""
    made, seen = Paths(paths, later=later), 0
    while seen < after:
        block = min(10, after - seen)
        made.keep(made.step(rng, share, 1.0, block) < boundary)
        seen += block
    found, waited = list[int](), 0
    while len(made.mass):
        alive = made.step(rng, share, ratio) < boundary
        waited += 1
        found += [waited] * int((~alive).sum())
        made.keep(alive)
    return np.array(found, float)


def _false(rng: np.random.Generator, share: float, paths: int) -> dict[str, Any]:
    """Looked at after each of the first 2,000 events, then every ten."""
    made, seen = Paths(paths), 0
    while seen < 200_000:
        block = 1 if seen < 2_000 else 10
        made.keep(made.step(rng, share, 1.0, block) < 1 / ALPHA)
        seen += block
    hits = paths - len(made.mass)
    return row(
        f"false rollback over 200,000 events, counts at {100 * share:g} %, 1 guardrail: upper 95 % bound",
        upper_95(hits, paths),
        hits / paths,
        f"the simulated rate itself, {paths} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _summed(rng: np.random.Generator, paths: int, harmed: int) -> dict[str, Any]:
    """So many of five guardrails, each 1.5 times as bad; the sum is never later."""
    tests = [Paths(paths) for _ in range(harmed)]
    times = {"sum": np.zeros(paths), "largest": np.zeros(paths)}
    while (times["largest"] == 0).any():
        e = np.array([each.step(rng, 0.1, 1.5) for each in tests])
        for rule, reached in (("sum", e.sum(axis=0)), ("largest", e.max(axis=0))):
            times[rule][(times[rule] == 0) & (reached >= BOUNDARY)] = tests[0].events[0]
    return row(
        f"events of each to detection by the sum of e-values, 1.5x in {harmed} of 5 guardrails",
        times["sum"].mean(),
        times["largest"].mean(),
        "by the largest e-value, on the same events",
        "events",
        1.0,
    )


class _Ramp(NamedTuple):
    """Of each rollout: harmed units in excess, whether it got to 50 % and to all traffic, and whether it ever waited."""

    excess: np.ndarray
    halved: np.ndarray
    promoted: np.ndarray
    waited: np.ndarray


_SHARES = np.array([0.05, 0.25, 0.5])

_FLOOR, _POLL, _BASE, _REQUESTS = 5_000, 100, 0.01, 60_000


def _ramp(rng: np.random.Generator, ratio: float, paths: int, *, below: float) -> _Ramp:
    """60,000 requests, steps of 5, 25, 50 and 100 % of at least 5,000, 1 % errors; rolled back at 20 to 1, advanced
    while below `below`. What is promoted has all that is left."""
    made, step, since = Paths(paths), np.zeros(paths, int), np.zeros(paths)
    found = _Ramp(np.zeros(paths), *(np.zeros(paths, bool) for _ in range(3)))
    open_ = np.arange(paths)
    for left in range(_REQUESTS - _POLL, -1, -_POLL):
        units = (_POLL * _SHARES[step]).astype(int)
        canary = rng.binomial(units, ratio * _BASE)
        e = made.take(canary, rng.binomial(_POLL - units, _BASE), units / _POLL)
        found.excess[open_] += units * (ratio - 1) * _BASE
        since += _POLL
        due = (since >= _FLOOR) & (e < 1 / ALPHA)
        found.waited[open_[due & (e >= below)]] = True
        advanced = due & (e < below)
        step, since = step + advanced, np.where(advanced, 0, since)
        found.halved[open_[step == _SHARES.size - 1]] = True
        over = open_[step == _SHARES.size]
        found.promoted[over] = True
        found.excess[over] += left * (ratio - 1) * _BASE
        kept = (e < 1 / ALPHA) & (step < _SHARES.size)
        made.keep(kept)
        open_, step, since = open_[kept], step[kept], since[kept]
    return found


def _waiting(rng: np.random.Generator, ratio: float, paths: int) -> Iterator[dict[str, Any]]:
    waits, goes_on = (_ramp(rng, ratio, paths, below=below) for below in (3.0, math.inf))
    error = waits.excess.std() / math.sqrt(paths)
    what = f"{ratio:g}x among 60,000 requests on a ramp 5-25-50-100 %, advance_below 3"
    for name, ours, theirs, unit in (
        (f"excess harmed units, {what} (+-{error:.2g})", waits.excess, goes_on.excess, "units"),
        (
            f"harmful versions that get half of the traffic, {what}",
            waits.halved,
            goes_on.halved,
            "share of rollouts",
        ),
        (
            f"harmful versions that get all of it, {what}",
            waits.promoted,
            goes_on.promoted,
            "share of rollouts",
        ),
    ):
        limit = round(float(theirs.mean()), 4)
        yield row(name, ours.mean(), theirs.mean(), "without advance_below", unit, limit)


def _held(rng: np.random.Generator, paths: int) -> dict[str, Any]:
    found = _ramp(rng, 1.0, paths, below=3.0)
    return row(
        "harmless versions that wait at all for advance_below 3, ramp 5-25-50 %",
        found.waited.mean(),
        1 - found.promoted.mean(),
        "of them not promoted within 60,000 requests",
        "share of rollouts",
        0.07,
    )
