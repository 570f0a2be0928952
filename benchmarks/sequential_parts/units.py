"""Units that return: harmless versions whose errors come in clusters, and how long real harm takes to be found.

A rollout of eight hours on a ramp of 5, 10, 25 and 50 %. Each unit answers so many times, either all within a minute or spread
over the whole rollout; how often it fails is its own (beta-distributed, so that answers of one unit are correlated by ICC). Rules:

- before: every answer that is a unit's first in five minutes is one of another unit, and a share counts all anew;
- after: the sections of `pipelines.core.statistics.sections`, as the watch of the live counters takes them together.

Either rule also asks for three units that failed, as the watch does.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.statistics.sections import LOG_DISTINCT, log_block

ALPHA = 0.05

LOG_BOUNDARY = math.log(1 / ALPHA)
"""One guardrail."""

MINUTES, WINDOW, BLOCK = 480, 5.0, 4
"""Of the rollout, of what a gateway remembers, and of a block; a poll a minute."""

RAMP = (0.05, 0.10, 0.25, 0.50)

ANSWERS, RATE = 40_000, 0.02

TOGETHER = 50
"""So many rollouts are played at once."""


class Play(NamedTuple):
    """A kind of rollout."""

    size: int
    """Answers of each unit."""
    icc: float
    burst: bool = False
    answers: int = ANSWERS
    rate: float = RATE
    ratio: float = 1.0
    """By how much the canary's rate is higher."""
    ramp: tuple[float, ...] = RAMP
    gateways: int = 1
    """Each answer goes through one of them by chance, and each knows units by itself."""


class Counted(NamedTuple):
    """Per rollout and minute: trials and events of the canary, then of the champion; shape (rollouts, minutes) each."""

    n1: np.ndarray
    x1: np.ndarray
    n0: np.ndarray
    x0: np.ndarray


class Answered(NamedTuple):
    """What a gateway counts of a rollout's answers."""

    first: Counted
    """Each unit's first in five minutes under one share."""
    distinct: Counted
    """Each unit's first in the rollout, at each gateway."""


def rows(paths: int, seed: int) -> Iterator[dict[str, object]]:
    rng = np.random.default_rng(seed)
    runs = max(paths // 20, TOGETHER)
    for size in (2, 10, 30, 100):
        for icc in (0.1, 0.3, 0.5):
            for burst in (True, False):
                yield _false(rng, Play(size, icc, burst), runs)
    for gateways in (2, 3):
        yield _false(rng, Play(10, 0.5, gateways=gateways), runs)
    for ratio in (2.0, 5.0):
        yield _delay(rng, ratio, max(paths // 10, 200))
    for ratio in (2.0, 5.0):
        play = Play(10, 0.1, answers=200_000, rate=0.01, ratio=ratio, ramp=(0.1,))
        yield from _found(rng, play, max(paths // 400, 20))


def _false(rng: np.random.Generator, play: Play, runs: int) -> dict[str, object]:
    found = [crossed(rng, play, min(TOGETHER, runs - done)) for done in range(0, runs, TOGETHER)]
    before, after = (np.concatenate(each) < MINUTES for each in zip(*found, strict=True))
    hits, error = int(after.sum()), math.sqrt(after.mean() * (1 - after.mean()) / runs)
    how = "within a minute" if play.burst else "spread over eight hours"
    how += f" and {play.gateways} gateways" if play.gateways > 1 else ""
    return row(
        f"false rollback, {play.size} answers a unit {how}, ICC {play.icc:g}: upper 95 % bound"
        f" ({hits / runs:.3g} +-{error:.2g} of {runs} rollouts)",
        upper_95(hits, runs),
        before.mean(),
        "each answer that is a unit's first in five minutes as another unit's: the simulated rate",
        "share of rollouts",
        ALPHA if play.gateways == 1 else None,
    )


def _delay(rng: np.random.Generator, ratio: float, paths: int) -> dict[str, object]:
    """One answer a unit: the same e-process, whose boundary is 1 / .92 times as far."""
    made, times = Paths(paths), np.zeros((2, paths))
    boundaries = (LOG_BOUNDARY, LOG_BOUNDARY - LOG_DISTINCT)
    while (times[1] == 0).any():
        log_e = np.log(made.step(rng, 0.1, ratio))
        for found, boundary in zip(times, boundaries, strict=True):
            found[(found == 0) & (log_e >= boundary)] = made.events[0]
        made.mass = np.minimum(made.mass, 1e200)  # what has crossed goes on with the rest
    error = (times[1] - times[0]).std() / math.sqrt(paths) / times[0].mean()
    return row(
        f"events until {ratio:g}x of 1 % is found at a canary of 10 %, one answer a unit: ratio (+-{error:.2g})",
        times[1].mean() / times[0].mean(),
        1.0,
        f"before, {times[0].mean():.3g} events",
        "ratio",
        1.03,
    )


def _found(rng: np.random.Generator, play: Play, runs: int) -> Iterator[dict[str, object]]:
    before, after = crossed(rng, play, runs)
    name = f"{play.ratio:g}x of 1 % is found at a canary of 10 %, ten answers a unit, ICC {play.icc:g}"
    for unit, scale in (("minutes", 1.0), ("answers", play.answers / MINUTES)):
        yield row(
            f"{unit} until {name} (of 8 h; in time in {(after < MINUTES).mean():.3g} of {runs} rollouts)",
            (np.minimum(after + 1, MINUTES) * scale).mean(),
            (np.minimum(before + 1, MINUTES) * scale).mean(),
            "before: fast by counting one unit many times",
            unit,
            None,
        )


def crossed(rng: np.random.Generator, play: Play, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """The minute in which each rollout is rolled back by the rule before, and after; `MINUTES` where it is not."""
    answered = _answers(rng, play, runs)
    failed = np.cumsum(answered.first.x1, axis=1)
    lately = failed - np.pad(failed, ((0, 0), (BLOCK, 0)))[:, :-BLOCK]
    firsts = _log_e(answered.first, play, MINUTES)
    distinct = _log_e(answered.distinct, play, MINUTES) + LOG_DISTINCT
    shares = np.arange(MINUTES) * len(play.ramp) // MINUTES
    weights = [log_block(minute // BLOCK + share + 1) for minute, share in enumerate(shares.tolist())]
    blocks = _log_e(answered.first, play, BLOCK) + np.array(weights)
    many = np.cumsum(answered.distinct.x1, axis=1) >= 3
    before = (firsts >= LOG_BOUNDARY) & (lately >= 3)
    after = ((distinct >= LOG_BOUNDARY) & (many | (lately >= 3))) | ((blocks >= LOG_BOUNDARY) & (lately >= 3))
    return _when(before), _when(after)


def _when(crosses: np.ndarray) -> np.ndarray:
    return np.where(crosses.any(axis=1), crosses.argmax(axis=1), MINUTES)


def _answers(rng: np.random.Generator, play: Play, runs: int) -> Answered:
    units = play.answers // play.size
    begun = rng.uniform(0, MINUTES - 1, (runs * units, 1)) if play.burst else 0.0
    length = 1.0 if play.burst else float(MINUTES)
    times = np.sort(begun + rng.uniform(0, length, (runs * units, play.size)), axis=1)
    spread = (1 - play.icc) / play.icc
    rates = rng.beta(play.rate * spread, (1 - play.rate) * spread, (runs * units, 1))
    step = (times * len(play.ramp) / MINUTES).astype(int)
    canary = rng.uniform(size=(runs * units, 1)) < np.array(play.ramp)[step]
    failed = rng.uniform(size=times.shape) < np.where(canary, np.minimum(play.ratio * rates, 1), rates)
    minute = times.astype(int) + np.repeat(np.arange(runs), units)[:, None] * MINUTES
    by = rng.integers(0, play.gateways, times.shape)
    first, new = np.zeros(times.shape, bool), np.zeros(times.shape, bool)
    for gateway in range(play.gateways):
        here = by == gateway
        first |= _first_in_window(times, step, here)
        new |= here & (np.cumsum(here, axis=1) == 1)

    def counted(which: np.ndarray) -> Counted:
        def count(chosen: np.ndarray) -> np.ndarray:
            total = np.bincount(minute[chosen], minlength=runs * MINUTES)
            return total.reshape(runs, MINUTES).astype(float)

        return Counted(
            count(which & canary),
            count(which & canary & failed),
            count(which & ~canary),
            count(which & ~canary & failed),
        )

    return Answered(counted(first), counted(new))


def _first_in_window(times: np.ndarray, step: np.ndarray, here: np.ndarray) -> np.ndarray:
    """As a bucket of one token has it: five minutes after the last answer that counted, and anew under another share.

    Of those `here` alone.
    """
    first = np.zeros(times.shape, bool)
    last, under = np.full(len(times), -math.inf), np.full(len(times), -1)
    for column in range(times.shape[1]):
        counts = here[:, column] & ((times[:, column] - last >= WINDOW) | (step[:, column] != under))
        first[:, column] = counts
        last = np.where(counts, times[:, column], last)
        under = np.where(counts, step[:, column], under)
    return first


def _log_e(counted: Counted, play: Play, every: int) -> np.ndarray:
    """ln of the e-value after each minute of a test that begins anew `every` so many minutes, and closes its bucket with a share."""
    runs, found = len(counted.n1), np.zeros(counted.n1.shape)
    made, pending = Paths(runs), np.zeros((4, runs))
    over = np.zeros(runs, bool)
    for minute in range(MINUTES):
        if minute % every == 0:
            made, pending, over = Paths(runs), np.zeros((4, runs)), np.zeros(runs, bool)
        pending += np.array([each[:, minute] for each in counted])
        n1, x1, n0, x0 = pending
        sealed = (minute + 1) * len(play.ramp) % MINUTES < len(play.ramp)
        taken = (n1 > 0) & (n0 > 0) & ((n1 + n0 >= 10) | sealed) & ~over
        share = np.where(taken, n1 / np.maximum(n1 + n0, 1), 0.0)
        e = made.take(np.where(taken, x1, 0.0), np.where(taken, x0, 0.0), share)
        found[:, minute] = np.log(e)
        over |= found[:, minute] > 100  # it is over, and would overflow
        pending[:, taken | sealed] = 0.0
    return found
