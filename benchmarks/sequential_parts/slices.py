"""Harm in a part of the traffic: how soon slices find it, whether they name the right one, and what they cost.

One guardrail of 20 is harmed, errors of 1 %, a canary of 10 %, one column with 50 values (and the two slices that every column has:
other values, and none). The benchmark's paths are what `look_at_slices` computes, many rollouts at once.
"""

import copy
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.effects import EffectKind, effects
from pipelines.core.statistics.sequences import are_enough, log_e_above, planned_scale
from pipelines.core.statistics.slices import FEWEST_UNITS, PART, SliceColumn, log_weights
from pipelines.core.statistics.starts import LATER, log_cash, log_started

ALPHA, GUARDRAILS, VALUES, BASE = 0.05, 20, 50, 0.01

BOUNDARY = GUARDRAILS / ALPHA

WEIGHT = float(np.exp(log_weights([SliceColumn("c", tuple(map(str, range(VALUES))))]))[0])

MOST = 1e200
"""Money from which no more is counted: the path is long over its boundary."""


class Planted(NamedTuple):
    """Harm in a share of the traffic."""

    share: float
    ratio: float
    requests: int
    """Of both versions between two looks."""
    looks: int


PLANTED = (
    Planted(0.01, 5.0, 10_000, 300),
    Planted(0.05, 5.0, 4_000, 250),
    Planted(0.2, 5.0, 1_000, 200),
    Planted(0.01, 2.0, 100_000, 300),
    Planted(0.05, 2.0, 20_000, 300),
    Planted(0.2, 2.0, 5_000, 300),
)


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    runs = max(paths // 50, 100)
    for planted in PLANTED:
        yield from _planted(rng, planted, runs)
    for ratio, requests in ((5.0, 200), (2.0, 1_000)):
        yield from _everywhere(rng, ratio, requests, runs)
    for canary, base in ((0.1, 0.01), (0.5, 0.01)):
        yield _false_counts(rng, canary, base, max(paths // 50, 60))
    for sign in (1, -1):
        yield _false_means(rng, sign, max(paths // 100, 20))


class Found(NamedTuple):
    """Of each rollout: requests until it is found with slices and without (infinite: not in time), and what was said then."""

    sliced: np.ndarray
    whole: np.ndarray
    right: np.ndarray
    """Whether the slice with the most evidence was the harmed one."""
    local: np.ndarray
    """Whether it had more than all units together."""


def play(
    rng: np.random.Generator, shares: np.ndarray, ratios: np.ndarray, given: Planted, runs: int
) -> Found:
    """Rollouts with the slices' shares of traffic and rate ratios; the first slice is the harmed one."""
    n = len(shares)
    each, whole = Paths(runs * n), Paths(runs)
    found = Found(*(np.full(runs, math.inf) for _ in range(2)), *(np.zeros(runs, bool) for _ in range(2)))
    for look in range(1, given.looks + 1):
        n1 = rng.poisson(0.1 * given.requests * shares, (runs, n))
        n0 = rng.poisson(0.9 * given.requests * shares, (runs, n))
        x1, x0 = rng.binomial(n1, BASE * ratios), rng.binomial(n0, BASE)
        both = (n1 > 0) & (n0 > 0)
        share = np.where(both, n1 / np.maximum(n1 + n0, 1), 0.5)
        e = each.take((x1 * both).ravel(), (x0 * both).ravel(), share.ravel()).reshape(runs, n)
        all_units = whole.take(x1.sum(1), x0.sum(1), n1.sum(1) / (n1 + n0).sum(1))
        for path in (each, whole):
            np.minimum(path.mass, MOST, out=path.mass)
        first, at = e.argmax(axis=1), look * given.requests
        crossed = (1 - PART) * all_units + PART * WEIGHT * (e.sum(axis=1) + 2) >= BOUNDARY
        new = crossed & np.isinf(found.sliced)
        found.right[new] = first[new] == 0
        found.local[new] = (PART * WEIGHT * e.max(axis=1) > (1 - PART) * all_units)[new]
        found.sliced[new] = at
        found.whole[(all_units >= BOUNDARY) & np.isinf(found.whole)] = at
        if np.isfinite(found.sliced).all() and np.isfinite(found.whole).all():
            break
    return found


def _planted(rng: np.random.Generator, given: Planted, runs: int) -> Iterator[dict[str, Any]]:
    shares = np.full(VALUES, (1 - given.share) / (VALUES - 1))
    shares[0] = given.share
    ratios = np.ones(VALUES)
    ratios[0] = given.ratio
    found = play(rng, shares, ratios, given, runs)
    most = given.requests * given.looks
    ours, theirs = (np.minimum(times, most) for times in (found.sliced, found.whole))
    missed, never = (float(np.isinf(times).mean()) for times in (found.sliced, found.whole))
    what = f"{given.ratio:g}x in {100 * given.share:g} % of the traffic"
    yield row(
        f"requests until {what} is found (+-{ours.std() / math.sqrt(runs):.2g}; {100 * missed:.0f} % not within {most:,})",
        ours.mean(),
        theirs.mean(),
        f"without slices (+-{theirs.std() / math.sqrt(runs):.2g}; {100 * never:.0f} % not within {most:,}, counted as that)",
        "requests",
        round(float(theirs.mean()), 0),
    )
    wrong = int((~found.right).sum())
    yield row(
        f"another slice is named than the one that is harmed, {what}: upper 95 % bound",
        upper_95(wrong, runs),
        wrong / runs,
        f"the simulated rate itself, {runs} rollouts; in {100 * found.local.mean():.0f} % it is told that the harm is there alone",
        "share of rollouts",
        ALPHA,
    )


def _everywhere(rng: np.random.Generator, ratio: float, requests: int, runs: int) -> Iterator[dict[str, Any]]:
    """The price of slices where harm is in no slice alone."""
    given = Planted(1.0, ratio, requests, 400)
    found = play(rng, np.full(VALUES, 1 / VALUES), np.full(VALUES, ratio), given, runs)
    yield row(
        f"requests until {ratio:g}x in all of the traffic is found, with slices"
        f" (+-{found.sliced.std() / math.sqrt(runs):.2g})",
        found.sliced.mean(),
        found.whole.mean(),
        "without slices, on the same requests",
        "requests",
        round(1.1 * float(found.whole.mean()), 0),
    )
    yield row(
        f"harm of {ratio:g}x everywhere that is told to be in one slice: upper 95 % bound",
        upper_95(int(found.local.sum()), runs),
        float(found.local.mean()),
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _false_counts(rng: np.random.Generator, canary: float, base: float, runs: int) -> dict[str, Any]:
    """20 guardrails, 50 slices each: at 200 looks every 2,000 requests."""
    hits, at_once = 0, 20
    for begin in range(0, runs, at_once):
        hits += _crossed_once(rng, canary, base, min(at_once, runs - begin))
    return row(
        f"false rollback, {GUARDRAILS} guardrails x {VALUES} slices, counts at {100 * canary:g} %, base rate"
        f" {100 * base:g} %: upper 95 % bound",
        upper_95(hits, runs),
        hits / runs,
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _crossed_once(rng: np.random.Generator, canary: float, base: float, runs: int) -> int:
    shape = (runs, GUARDRAILS, VALUES)
    each, whole = Paths(math.prod(shape)), Paths(runs * GUARDRAILS)
    crossed = np.zeros(runs, bool)
    for _ in range(200):
        # All guardrails of a rollout are about the same requests.
        n1 = np.broadcast_to(rng.poisson(canary * 40, (runs, 1, VALUES)), shape)
        n0 = np.broadcast_to(rng.poisson((1 - canary) * 40, (runs, 1, VALUES)), shape)
        x1, x0 = rng.binomial(n1, base), rng.binomial(n0, base)
        both = (n1 > 0) & (n0 > 0)
        share = np.where(both, n1 / np.maximum(n1 + n0, 1), 0.5)
        e = _taken(each, (x1 * both).ravel(), (x0 * both).ravel(), share.ravel()).reshape(shape)
        units = n1.sum(2) / (n1 + n0).sum(2)
        all_units = whole.take(x1.sum(2).ravel(), x0.sum(2).ravel(), units.ravel())
        for path in (each, whole):
            np.minimum(path.mass, MOST, out=path.mass)
        mixed = (1 - PART) * all_units.reshape(runs, GUARDRAILS) + PART * WEIGHT * (e.sum(axis=2) + 2)
        crossed |= mixed.sum(axis=1) >= BOUNDARY
    return int(crossed.sum())


def _taken(paths: Paths, canary: np.ndarray, champion: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`take`, where most paths have no event."""
    some = np.flatnonzero(canary + champion)
    part = copy.copy(paths)
    part.mass, part.events = paths.mass[some], paths.events[some]
    part.take(canary[some], champion[some], share[some])
    paths.mass[some], paths.events[some] = part.mass, part.events
    return paths.e


_LOOKS, _UNITS = 12, 30_000

_PLANNED = (_LOOKS * _UNITS * 0.1 * 0.9) / 40


def _false_means(rng: np.random.Generator, sign: int, runs: int) -> dict[str, Any]:
    """Revenue of which 2 % of the units have any, log-normal, at a canary of 10 %; a look every 30,000 units."""
    hits = sum(_mean_crosses(rng, sign) for _ in range(runs))
    return row(
        f"false rollback, {GUARDRAILS} guardrails x {VALUES} slices, skewed means at 10 %, harm is"
        f" {'more' if sign > 0 else 'less'}: upper 95 % bound",
        upper_95(hits, runs),
        hits / runs,
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _mean_crosses(rng: np.random.Generator, sign: int) -> bool:
    units = np.array([0.9, 0.1])[:, None, None] * _UNITS / VALUES
    n = np.broadcast_to(
        rng.poisson(units, (2, _LOOKS, VALUES))[:, :, None, :], (2, _LOOKS, GUARDRAILS, VALUES)
    )
    sums = _purchases(rng, n)
    tau2 = planned_scale(alpha=ALPHA, information=_PLANNED)
    for look in range(1, _LOOKS + 1):
        seen = np.cumsum(sums[:, :look][:, ::-1], axis=1)[:, ::-1]
        whole = seen.sum(axis=3)
        e = np.exp(np.minimum(_mixed(seen, sign, tau2 * (VALUES + 2), FEWEST_UNITS), 50))
        all_units = np.exp(np.minimum(_mixed(whole, sign, tau2, 0.0), 50))
        mixed = (1 - PART) * all_units + PART * WEIGHT * (e.sum(axis=-1) + 2)
        if mixed.sum() >= BOUNDARY:
            return True
    return False


def _purchases(rng: np.random.Generator, n: np.ndarray) -> np.ndarray:
    """Sums over the units of each place: shape (*n.shape, 10)."""
    buyers = rng.binomial(n, 0.02)
    place = np.repeat(np.arange(n.size), buyers.ravel())
    spent = rng.lognormal(3, 1, place.size)
    found = np.zeros((n.size, 10))
    found[:, 1] = np.bincount(place, spent, n.size)
    found[:, 2] = np.bincount(place, spent**2, n.size)
    found[:, 0] = found[:, 3] = found[:, 4] = n.ravel()
    found[:, 5] = found[:, 1]
    return found.reshape(*n.shape, 10)


def _mixed(since: np.ndarray, sign: int, tau2: float, fewest: float) -> np.ndarray:
    """`log_e_above_since` of many paths at once; `since`: shape (2, buckets, *paths, 10)."""
    zero, one = (each.reshape(-1, 1, 10) for each in since)
    found = effects(zero, one, np.zeros(1), EffectKind.MEAN)
    enough = are_enough(found) & (np.minimum(found.champion_units, found.challenger_units) >= fewest)
    log_e = log_e_above(sign * found.value, np.where(enough, found.variance, 1.0), tau2)
    log_e = np.where(enough, log_e, 0.0).reshape(since.shape[1:-1])
    ticks = np.arange(len(log_e), dtype=float)
    started = log_started(ticks, ticks + 1, LATER)
    started[:1] = np.logaddexp(started[:1], math.log1p(-LATER))
    bets = np.logaddexp.reduce(started.reshape(-1, *[1] * (log_e.ndim - 1)) + log_e, axis=0)
    return np.logaddexp(bets, log_cash(float(len(log_e)), LATER))
