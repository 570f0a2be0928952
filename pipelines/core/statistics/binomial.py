"""Conditional-binomial mixture e-process: is the canary's event rate higher than the champion's?

Given an event, under a rate ratio e^d it is the canary's with probability rho e^d / (1 - rho + rho e^d),
where rho is the canary's realised share of the trials in that bucket. The e-value is a mixture of the
likelihood ratios against d = 0 (Lindon & Malek 2022, arXiv 2011.03567). Only the comparison inside a
bucket counts, so the base rate and the traffic share may drift from bucket to bucket.

Validity, also for common events: with equal rates, the canary's events in a bucket are hypergeometric
given the trials of both arms and all events. The likelihood ratio is convex in them, so its mean is at
most that under the binomial (Hoeffding 1963, theorem 4), which is 1. With a lower rate at the canary and
d > 0 it is smaller still. By Ville, P(e-value ever >= 1/alpha) <= alpha, however often one looks.

Events of one moment may have one cause. A process that stalls for two seconds answers all that waited late, at once: so many
events say little more than one. `slow_answers` lets a moment gain a limited factor; min(e-value, factor) has a mean of 1 at
most, too.

Harm may begin late. A process that began with the rollout must first win back what it lost while the version was
healthy, so a part of the money waits as cash, and starts the same bet anew at each later event
(`pipelines.core.statistics.starts`).
"""

import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import NamedTuple

import numpy as np

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.inputs import (
    Array,
    ParameterError,
    require_counts,
    require_no_more,
    require_positive,
)
from pipelines.core.statistics.starts import LATER, log_cash, log_started


@dataclass(frozen=True, eq=False)
class Mixture:
    """Log rate ratios d and the log of their weights, both of shape (points,); the weights sum to 1."""

    ratios: Array
    log_weights: Array

    def __post_init__(self) -> None:
        if self.ratios.shape != self.log_weights.shape or not self.ratios.size:
            raise ParameterError(f"mixture of {self.ratios.size} ratios and {self.log_weights.size} weights")
        total = float(np.exp(self.log_weights).sum())
        if not math.isclose(total, 1.0, rel_tol=1e-9):
            raise ParameterError(f"mixture weights sum to {total}, must be 1")


def _mixture(ratios: Array, weights: Array) -> Mixture:
    return Mixture(ratios, np.log(weights / weights.sum()))


def _scales(low: float, high: float, points: int) -> Array:
    """Log ratios spaced evenly in their own logarithm: equal care for every scale of harm."""
    return np.exp(np.linspace(math.log(math.log(low)), math.log(math.log(high)), points))


@cache
def harm_mixture() -> Mixture:
    """The default for harm: scales from 1.2x to 64x.

    Spread over the logarithm of d, because the number of effects that can be told apart before the boundary
    is constant per factor of d. Nearly all of the weight lies where regressions are hard to see (up to 10x);
    beyond, a handful of events decides anyway. Within, the weight rises a little with d, where each event is
    worth more; the smallest scale carries more than its neighbours, as it also answers for all below it. The
    numbers are the best of a search for the smallest worst delay from 1.25x to 5x (docs/statistics.md).
    """
    subtle, blatant = _scales(1.196, 9.7, 30), _scales(9.7, 64.0, 11)[1:]
    rising = np.exp(0.31 * np.linspace(0, 1, subtle.size))
    weights = np.concatenate([0.92 * rising / rising.sum(), np.full(blatant.size, 0.08 / blatant.size)])
    weights[0] += 0.125
    return _mixture(np.concatenate([subtle, blatant]), weights)


def normal_mixture(mde: float, *, one_sided: bool = False) -> Mixture:
    """The grid of Lindon & Malek: d on +-4 tau with weights phi(d / tau), tau = ln(1 + mde).

    One-sided keeps d > 0. `mde` is relative, e.g. 0.2 for +20 %.
    """
    tau = math.log1p(require_positive("mde", mde))
    grid = np.linspace(-4 * tau, 4 * tau, 41)
    grid = grid[grid > 0] if one_sided else grid
    return _mixture(grid, np.exp(-0.5 * (grid / tau) ** 2))


def blended_mixture(mde: float) -> Mixture:
    """Half the weight on the default scales of harm, half around a smaller effect that was planned for."""
    harm, planned = harm_mixture(), normal_mixture(mde, one_sided=True)
    weights = np.concatenate([np.exp(harm.log_weights), np.exp(planned.log_weights)])
    return _mixture(np.concatenate([harm.ratios, planned.ratios]), weights)


_PLACE = "conditional binomial"


class Counts(NamedTuple):
    """Trials and events of both variants in one stretch of time."""

    canary_trials: float = 0.0
    canary_events: float = 0.0
    champion_trials: float = 0.0
    champion_events: float = 0.0

    def plus(self, other: "Counts") -> "Counts":
        """The counts of both stretches."""
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def trials(self) -> float:
        return self.canary_trials + self.champion_trials

    def comparable(self, min_trials: float) -> bool:
        """Whether both arms took part and a bucket of this size loses little (a share of 1/trials)."""
        return self.canary_trials > 0 and self.champion_trials > 0 and self.trials >= min_trials


@dataclass(frozen=True, eq=False)
class ConditionalBinomial:
    """The e-process after some buckets; a value: `update` and `observe` return the next one.

    Args:
        mixture: the effects it bets on; the default looks for harm alone, from 1.2x to 64x.
        min_trials: `observe` merges small buckets until they hold this many trials.
        later: the share of the money for harm that begins later than the rollout; the rest bets from the start.
        moment_s: `observe` merges buckets until they span this long, in seconds.
        moment_gains: the most that ln of any bet may grow by in a moment.
    """

    mixture: Mixture = field(default_factory=harm_mixture)
    min_trials: float = 10.0
    later: float = LATER
    moment_s: float = 0.0
    moment_gains: float = math.inf
    pending: Counts = Counts()
    """Observed, not yet in the e-value: a bucket that is too small to compare the arms, or too short."""
    pending_s: float = 0.0
    """How long that took, in seconds."""
    events: float = 0.0
    """Of both arms, so far: the clock by which the bet is started anew. No history is kept beside it."""
    log_mass: Array | None = field(default=None, repr=False)
    """ln of the money on each grid point, over all starts, shape (points,); None before the first event."""

    @property
    def log_e(self) -> float:
        """ln of the e-value: evidence against "the canary's rate is not higher"; 0 at the start."""
        if self.log_mass is None:
            return 0.0
        # numpy's own: scipy's logsumexp takes thirty times as long, several times a second per guardrail.
        return float(np.logaddexp(np.logaddexp.reduce(self.log_mass), log_cash(self.events, self.later)))

    def update(
        self, canary_events: float, champion_events: float, canary_share: float, *, most: float = math.inf
    ) -> "ConditionalBinomial":
        """The e-process after one more bucket.

        Args:
            canary_events: events among the canary's trials in this bucket.
            champion_events: events among the champion's.
            canary_share: the canary's realised share of both arms' trials in this bucket, 0 to 1. At 0 or 1
                there is nothing to compare with and the bucket says nothing.
            most: by what ln of any bet may grow at most.

        Raises:
            NotMeasured: negative or non-finite numbers, or events of an arm that had no trials.
        """
        _require_bucket(canary_events, champion_events, canary_share)
        if canary_share in (0.0, 1.0) or canary_events + champion_events == 0:
            return self
        events, weights = self.events + canary_events + champion_events, self.mixture.log_weights
        mass = math.log1p(-self.later) + weights if self.log_mass is None else self.log_mass
        # The bucket's total may say how much is staked on it: given the total, the bet is still fair.
        mass = np.logaddexp(mass, log_started(self.events, events, self.later) + weights)
        step = _log_ratio(self.mixture.ratios, canary_events, champion_events, canary_share)
        return replace(self, log_mass=mass + np.minimum(step, most), events=events)

    def observe(self, counts: Counts, *, seconds: float = math.inf) -> "ConditionalBinomial":
        """The e-process after the counts since the last poll, which took `seconds`; small polls merged.

        A bucket is closed by its trials and its length alone, never by its events, so that merging keeps the guarantee. Polls
        without trials are a moment at most: silence does not make what follows it worth more.

        Raises:
            NotMeasured: negative or non-finite counts, or more events than trials.
        """
        _require_counts(*counts)
        took = seconds if counts.trials else min(seconds, max(0.0, self.moment_s - self.pending_s))
        waiting = replace(self, pending=self.pending.plus(counts), pending_s=self.pending_s + took)
        whole = waiting.pending_s >= self.moment_s and waiting.pending.comparable(self.min_trials)
        return waiting.sealed() if whole else waiting

    def sealed(self) -> "ConditionalBinomial":
        """With the pending bucket taken in: call it before the traffic share is changed."""
        bucket, emptied = self.pending, replace(self, pending=Counts(), pending_s=0.0)
        if not bucket.comparable(0):
            return emptied
        share = bucket.canary_trials / bucket.trials
        return emptied.update(bucket.canary_events, bucket.champion_events, share, most=self._most)

    @property
    def _most(self) -> float:
        moments = max(1.0, self.pending_s / self.moment_s) if self.moment_s else 1.0
        return self.moment_gains * moments


def slow_answers() -> ConditionalBinomial:
    """For answers over a time limit: two seconds win a factor of three at most, however many answers were late in them.

    One stall of a process is no harm, whatever waited in it, nor are two; slowness that lasts reaches the boundary of a few
    tests in ten seconds.
    """
    return ConditionalBinomial(moment_s=2.0, moment_gains=math.log(3.0))


def log_e_process(
    canary_trials: Array,
    canary_events: Array,
    champion_trials: Array,
    champion_events: Array,
    *,
    mixture: Mixture | None = None,
    later: float = LATER,
) -> Array:
    """ln e-value after each of many buckets in time order: what `ConditionalBinomial` has after them.

    Args:
        canary_trials, canary_events, champion_trials, champion_events: shape (buckets,) each. Buckets in
            which an arm had no trials say nothing.
        mixture: the effects to bet on; the default looks for harm.
        later: the share of the money for harm that begins later.

    Returns:
        Shape (buckets,).

    Raises:
        NotMeasured: negative or non-finite counts, or more events than trials.
    """
    mixture = mixture or harm_mixture()
    share, x1, x0 = _informative(canary_trials, canary_events, champion_trials, champion_events)
    paths = np.cumsum(_log_ratio(mixture.ratios, x1, x0, share), axis=0)
    before = np.vstack([np.zeros_like(mixture.ratios), paths[:-1]]) if len(paths) else paths
    clock = np.cumsum((x1 + x0)[:, 0])
    # A bet that starts at a bucket has what the path gains from there on.
    started = log_started(np.concatenate([[0.0], clock[:-1]])[: clock.size], clock, later)
    started[:1] = np.logaddexp(started[:1], math.log1p(-later))
    mass = paths + np.logaddexp.accumulate(started[:, None] - before, axis=0) + mixture.log_weights
    return np.logaddexp(np.logaddexp.reduce(mass, axis=1), log_cash(clock, later))


def last_log_e(
    canary_trials: Array,
    canary_events: Array,
    champion_trials: Array,
    champion_events: Array,
) -> float:
    """The last of `log_e_process`, where nobody asks for the others: 0 without buckets. Raises NotMeasured as that."""
    mixture = harm_mixture()
    share, x1, x0 = _informative(canary_trials, canary_events, champion_trials, champion_events)
    # Without an event nothing is bet, won or lost.
    some = (x1 + x0)[:, 0] > 0
    share, x1, x0 = share[some], x1[some], x0[some]
    clock = np.cumsum((x1 + x0)[:, 0])
    if not clock.size:
        return 0.0
    steps = _log_ratio(mixture.ratios, x1, x0, share)
    gained = np.cumsum(steps[::-1], axis=0)[::-1]
    started = log_started(np.concatenate([[0.0], clock[:-1]]), clock, LATER)
    started[0] = np.logaddexp(started[0], math.log1p(-LATER))
    mass = gained + started[:, None] + mixture.log_weights
    most = float(mass.max())
    return float(np.logaddexp(most + math.log(np.exp(mass - most).sum()), log_cash(float(clock[-1]), LATER)))


def _informative(
    canary_trials: Array, canary_events: Array, champion_trials: Array, champion_events: Array
) -> tuple[Array, Array, Array]:
    """The canary's realised share of the trials, and both versions' events, checked, shape (buckets, 1) each; nothing in
    buckets in which an arm had no trials."""
    columns = [np.asarray(a, float) for a in (canary_trials, canary_events, champion_trials, champion_events)]
    if len({column.shape for column in columns}) != 1 or columns[0].ndim != 1:
        raise ParameterError(f"buckets of shapes {[c.shape for c in columns]}, must be equal and flat")
    n1, x1, n0, x0 = columns
    _require_counts(n1, x1, n0, x0)
    informative = (n1 > 0) & (n0 > 0)
    share = np.where(informative, n1 / np.where(informative, n1 + n0, 1.0), 0.0)[:, None]
    return share, np.where(informative, x1, 0.0)[:, None], np.where(informative, x0, 0.0)[:, None]


def _log_ratio(ratios: Array, canary: Array | float, champion: Array | float, share: Array | float) -> Array:
    """ln of the likelihood ratio of d against 0: x1 d - (x1 + x0) ln(1 - rho + rho e^d)."""
    return canary * ratios - (canary + champion) * np.log1p(share * np.expm1(ratios))


def _require_bucket(canary_events: float, champion_events: float, share: float) -> None:
    # A plain comparison chain: this runs several times a second per guardrail. NaN fails it too.
    if not (0 <= canary_events < math.inf and 0 <= champion_events < math.inf and 0 <= share <= 1):
        raise NotMeasured(
            f"{_PLACE}: events {canary_events} and {champion_events} at a canary share of {share};"
            " events must be finite and not negative, the share within 0 and 1"
        )
    if (share == 0 and canary_events > 0) or (share == 1 and champion_events > 0):
        raise NotMeasured(
            f"{_PLACE}: events {canary_events} and {champion_events} at a canary share of {share:g}:"
            " events of a variant that had no trials"
        )


def _require_counts(
    canary_trials: Array | float,
    canary_events: Array | float,
    champion_trials: Array | float,
    champion_events: Array | float,
) -> None:
    require_counts(f"{_PLACE}, canary", trials=canary_trials, events=canary_events)
    require_counts(f"{_PLACE}, champion", trials=champion_trials, events=champion_events)
    require_no_more(f"{_PLACE}, canary", events=canary_events, trials=canary_trials)
    require_no_more(f"{_PLACE}, champion", events=champion_events, trials=champion_trials)
