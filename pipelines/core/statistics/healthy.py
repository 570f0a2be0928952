"""What the looks say of a metric on which a version is exactly as good as the champion, over many rollouts at once.

The bounds and the harm tests are those of the looks. Counts are drawn as they come; the difference of means is a Brownian
motion, whose variance is what max(Welch, pooled) sees on average.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import numpy as np

from pipelines.core.statistics.effects import EffectColumns, EffectKind, Sums, effects
from pipelines.core.statistics.group_sequential import boundaries
from pipelines.core.statistics.inputs import Array, Flags, require_positive
from pipelines.core.statistics.look_spec import MetricSpec
from pipelines.core.statistics.metric_analysis import USUAL_SHIFT, harm_bets, is_counted
from pipelines.core.statistics.planning import Baseline
from pipelines.core.statistics.proportions import (
    ENOUGH_EVENTS,
    EXACT_PART,
    PLENTY,
    Buckets,
    log_e_below_at,
    same_units,
)
from pipelines.core.statistics.sequences import FEWEST_UNITS, are_enough, log_e_above, planned_scale
from pipelines.core.statistics.starts import LATER, log_cash, log_started

_LARGEST = 1e200
"""Evidence beyond it says nothing more."""


@dataclass(frozen=True, kw_only=True)
class Awaited:
    """A metric that the promotion waits for."""

    spec: MetricSpec
    """As it is registered; `part` None: with the other live counters."""
    baseline: Baseline
    """Of the champion. Without variance, and no proportion: every unit has the same value."""
    window_days: float = 0.0
    """How long after its exposure a unit counts."""
    looks: int = 5
    """Group sequential: how many are planned."""
    holds_back: bool = True
    """Whether its evidence of harm rolls back, and waits with an advance."""

    @property
    def margin(self) -> float:
        """Absolute. Raises ParameterError for a share of nothing."""
        spec = self.spec
        wanted = spec.margin if spec.margin is not None else (spec.mde or 0.0) * abs(self.baseline.value)
        return require_positive(f"{spec.name}: margin", wanted)

    @property
    def scale(self) -> float:
        """tau2 times `tightest`: the information that the looks are tuned to."""
        return self.spec.planned_information or (USUAL_SHIFT / self.margin) ** 2

    @property
    def is_constant(self) -> bool:
        """Every unit has the same value."""
        return not self.baseline.kind.is_count and not self.baseline.variance


class Exposed(NamedTuple):
    """Units of both versions that count at each look, by the stage of their exposure."""

    units: Array
    """Shape (looks, stages); growing."""
    shares: Array
    """The challenger's, above 0 and below 1; shape (stages,)."""
    first: int
    """The first look that can promote: only harm is looked for before it."""

    @property
    def smaller(self) -> Array:
        """Units of the smaller arm, shape (looks,)."""
        return (self.units * np.minimum(self.shares, 1 - self.shares)).sum(axis=1)


class HealthyLooks(NamedTuple):
    """Of each run and look; shape (runs, looks) each."""

    within: Flags
    """The worst that the difference may be is within the margin."""
    log_e: Array
    """ln of the e-value for harm."""


def looked_at(
    rng: np.random.Generator, awaited: Awaited, exposed: Exposed, *, runs: int, alpha: float, is_final: bool
) -> HealthyLooks:
    """So many rollouts of the metric.

    Args:
        rng: where chance comes from.
        awaited, exposed: the metric, and its units.
        runs: how many.
        alpha: one-sided, of the bound against the margin.
        is_final: the last look is the last one of the rollout.
    """
    shape = (runs, len(exposed.units))
    if awaited.is_constant:
        return HealthyLooks(np.broadcast_to(exposed.smaller >= same_units(alpha), shape), np.zeros(shape))
    if awaited.spec.method.is_planned:
        return _planned(_difference(rng, awaited, exposed, runs), awaited, alpha, is_final=is_final)
    match awaited.spec.kind:
        case EffectKind.PROPORTION:
            return _proportion(rng, awaited, exposed, shape, alpha)
        case EffectKind.MEAN | EffectKind.RATIO:
            return _mean(_difference(rng, awaited, exposed, runs), awaited, alpha)
        case _:
            assert_never(awaited.spec.kind)


class _Difference(NamedTuple):
    """A difference in the harmful direction that is 0 on average, shape (runs, looks), and its variance, (looks,)."""

    value: Array
    variance: Array
    enough: Flags


def _variance(awaited: Awaited, exposed: Exposed) -> Array:
    """Of the difference at each look; infinite where there are too few units."""
    units, shares = exposed.units, exposed.shares
    found = np.full(len(units), math.inf)
    for look in np.flatnonzero(exposed.smaller >= FEWEST_UNITS).tolist():
        both = float(units[look].sum())
        share = float(units[look] @ shares) / both
        per_unit = awaited.baseline.analysed_variance(share=share, effect=0.0, units=both)
        found[look] = per_unit / float(units[look] @ (shares * (1 - shares)))
    return found


def fractions(awaited: Awaited, exposed: Exposed) -> Array:
    """Information at each look as a share of what is planned."""
    return 1 / (_variance(awaited, exposed) * awaited.scale)


def _difference(rng: np.random.Generator, awaited: Awaited, exposed: Exposed, runs: int) -> _Difference:
    """Strata add up with weights n1 n0/(n1 + n0): the weighted sum is a Brownian motion in the sum of weights."""
    weight = exposed.units @ (exposed.shares * (1 - exposed.shares))
    steps = np.sqrt(awaited.baseline.per_unit_variance() * np.diff(weight, prepend=0.0))
    path = np.cumsum(rng.standard_normal((runs, len(weight))) * steps, axis=1)
    variance = _variance(awaited, exposed)
    enough = np.isfinite(variance)
    return _Difference(path / np.where(enough, weight, 1.0), np.where(enough, variance, 1.0), enough)


def _mean(found: _Difference, awaited: Awaited, alpha: float) -> HealthyLooks:
    tau2 = planned_scale(alpha=alpha, information=awaited.scale)
    spared = log_e_above(awaited.margin - found.value, found.variance, tau2)
    harm = _with_cash(log_e_above(found.value, found.variance, tau2))
    return HealthyLooks(found.enough & (spared >= -math.log(alpha)), np.where(found.enough, harm, 0.0))


def _with_cash(log_e: Array) -> Array:
    """A bet from the start; what is kept for later starts stays cash here."""
    return np.logaddexp(math.log1p(-LATER) + log_e, math.log(LATER))


def _planned(found: _Difference, awaited: Awaited, alpha: float, *, is_final: bool) -> HealthyLooks:
    """Tested at the planned fractions of the information alone; an answer stands. Its harm has a boundary of its own."""
    seen = np.where(found.enough, 1 / (found.variance * awaited.scale), 0.0)
    due, reached = list[int](), 0
    for look, fraction in enumerate(seen.tolist()):
        passed = math.floor(fraction * awaited.looks + 1e-9)
        last = is_final and look + 1 == len(seen) and fraction > 0
        if reached < awaited.looks and (passed > reached or last):
            due, reached = [*due, look], passed
    within = np.zeros(found.value.shape, np.bool_)
    if due:
        bounds = boundaries(seen[due].tolist(), 2 * alpha, last_is_final=is_final)
        worst = found.value[:, due] + np.array(bounds) * np.sqrt(found.variance[due])
        within[:, due] = worst < awaited.margin
    return HealthyLooks(np.logical_or.accumulate(within, axis=1), np.full(within.shape, -math.inf))


def _proportion(
    rng: np.random.Generator, awaited: Awaited, exposed: Exposed, shape: tuple[int, int], alpha: float
) -> HealthyLooks:
    value, shares = awaited.baseline.value, exposed.shares
    trials = np.round(np.stack([exposed.units * shares, exposed.units * (1 - shares)], axis=1))
    # The rarer of events and non-events is counted, and harm is more of it at the first arm.
    common = value > 0.5
    if (awaited.spec.harm_sign() < 0) != common:
        trials = trials[:, ::-1]
    rare = 1 - value if common else value
    tests = _Counts(awaited, None if awaited.spec.baseline is None else rare, alpha)
    events = np.zeros((2, shape[0], len(shares)))
    within, log_e = np.zeros(shape, np.bool_), np.zeros(shape)
    for look, new in enumerate(np.diff(trials, axis=0, prepend=np.zeros_like(trials[:1]))):
        fresh = rng.binomial(new[:, None, :].astype(np.int64), rare, events.shape).astype(float)
        events = events + fresh
        log_e[:, look] = tests.harm(trials[look], events, new, fresh)
        if look >= exposed.first:
            within[:, look] = tests.within(trials[look], events)
    return HealthyLooks(within, log_e)


class _Counts:
    """Both bounds and the harm test of a proportion. Trials have the shape (2, stages), events (2, runs, stages)."""

    def __init__(self, awaited: Awaited, typical: float | None, alpha: float) -> None:
        self._margin, self._typical, self._alpha = awaited.margin, typical, alpha
        self._tau2 = planned_scale(alpha=alpha, information=awaited.scale)
        bets = harm_bets(awaited.spec)
        self._ratios, self._weights = bets.ratios, np.exp(bets.log_weights)
        self._is_counted = is_counted(awaited.spec)
        self._money, self._clock = (1 - LATER) * self._weights, np.zeros(1)

    def within(self, trials: Array, events: Array) -> Flags:
        """Whether the tighter of both bounds is within the margin, shape (runs,)."""
        found = _effects(trials, events)
        normal = are_enough(found) & (found.fewest_expected >= ENOUGH_EVENTS)
        spared = log_e_above(self._margin - found.value, np.where(normal, found.variance, 1.0), self._tau2)
        within = normal & (spared >= -math.log((1 - EXACT_PART) * self._alpha))
        exact = ~within & (found.fewest_expected < PLENTY)
        if exact.any() and self._margin < 1:
            within[exact] = self._is_below(trials, events[:, exact])
        return np.asarray(within, dtype=np.bool_)

    def _is_below(self, trials: Array, events: Array) -> Flags:
        both = (trials > 0).all(axis=0)
        if not both.any():
            return np.zeros(events.shape[1], np.bool_)
        share = trials[0, both] / trials[:, both].sum(axis=0)
        data = Buckets(trials[0, both], events[0][:, both], trials[1, both], events[1][:, both])
        evidence = log_e_below_at(share, data, self._margin, self._typical)
        return np.asarray(evidence >= -math.log(EXACT_PART * self._alpha), dtype=np.bool_)

    def harm(self, trials: Array, events: Array, new: Array, fresh: Array) -> Array:
        """ln of the e-value after one more look, at which `new` trials and `fresh` events came; shape (runs,)."""
        if self._is_counted:
            return self._staked(new, fresh)
        found = _effects(trials, events)
        enough = are_enough(found)
        harm = _with_cash(log_e_above(found.value, np.where(enough, found.variance, 1.0), self._tau2))
        return np.where(enough, harm, 0.0)

    def _staked(self, new: Array, fresh: Array) -> Array:
        for stage in np.flatnonzero((new > 0).all(axis=0)).tolist():
            first, total = fresh[0, :, stage], fresh[:, :, stage].sum(axis=0)
            slope = np.log1p(new[0, stage] / new[:, stage].sum() * np.expm1(self._ratios))
            staked = np.exp(log_started(self._clock, self._clock + total, LATER))
            gain = np.minimum(np.outer(first, self._ratios) - np.outer(total, slope), 300.0)
            self._money = np.minimum((self._money + staked[:, None] * self._weights) * np.exp(gain), _LARGEST)
            self._clock = self._clock + total
        return np.log(self._money.sum(axis=-1) + np.exp(log_cash(self._clock, LATER)))


def _effects(trials: Array, events: Array) -> EffectColumns:
    """The first arm takes the challenger's place."""
    arms = np.zeros((2, *events.shape[1:], len(Sums._fields)))
    arms[..., 0], arms[..., 1], arms[..., 2] = trials[:, None, :], events, events
    return effects(arms[1], arms[0], np.zeros(trials.shape[-1]), EffectKind.PROPORTION)
