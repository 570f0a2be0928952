"""Exact anytime-valid test and bound for the difference of two proportions, usable with zero events.

The null hypothesis of non-inferiority is p1 - p0 >= delta in every bucket, whatever the base rate does.
Take a point (p + delta, p) of its edge. With rho the canary's share of the bucket's trials and t > 0, let

    canary:   event 1 - t (1 - rho) (1 - p - delta),   no event 1 + t (1 - rho) (p + delta)
    champion: event 1 + t rho (1 - p),                 no event 1 - t rho p

multiply over the trials. The mean of a canary factor is 1 - t (1 - rho) (q1 - p - delta), that of a
champion factor 1 + t rho (q0 - p); the log of the bucket's mean product is concave in (q1, q0), is 0 at
the edge point, and its gradient there, t N rho (1 - rho) (-1, 1), points out of the null. So the mean is
at most 1 everywhere in the null: an e-value, also when rates vary within the bucket (Jensen). These are
the e-values of Turner, Ly & Gruenwald (2021, arXiv 2106.02693), with t chosen such that the alternative
is p1 = p0. Base rates p are mixed over a grid.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.core.statistics.effects import Effect
from pipelines.core.statistics.inputs import (
    Array,
    require_between,
    require_counts,
    require_no_more,
    require_positive,
)
from pipelines.core.statistics.sequences import AsymptoticSequence, Interval, crossing, is_enough

_PLACE = "difference of proportions"


class Buckets(NamedTuple):
    """Trials and events of both variants per bucket; shape (buckets,) each."""

    canary_trials: Array
    canary_events: Array
    champion_trials: Array
    champion_events: Array

    def checked(self) -> "Buckets":
        """Itself, as float arrays.

        Raises:
            NotMeasured: negative or non-finite counts, or more events than trials.
        """
        arrays = Buckets(*(np.atleast_1d(np.asarray(column, float)) for column in self))
        require_counts(_PLACE, **arrays._asdict())
        require_no_more(f"{_PLACE}, canary", events=arrays.canary_events, trials=arrays.canary_trials)
        require_no_more(f"{_PLACE}, champion", events=arrays.champion_events, trials=arrays.champion_trials)
        return arrays

    def swapped(self) -> "Buckets":
        """The variants' roles exchanged: the difference changes its sign."""
        return Buckets(*self[2:], *self[:2])

    def informative(self) -> "Buckets":
        """Without the buckets in which a variant had no trials."""
        kept = (self.canary_trials > 0) & (self.champion_trials > 0)
        return Buckets(*(column[kept] for column in self))

    def complement(self) -> "Buckets":
        """Non-events in the place of events."""
        n1, x1, n0, x0 = self
        return Buckets(n1, n1 - x1, n0, n0 - x0)


def log_e_below(data: Buckets, margin: float, typical: float | None) -> float:
    """ln e-value against "the canary's rate is higher by `margin` or more".

    Args:
        data: checked, and informative buckets alone; each compares its own trials.
        margin: the difference in rates that must be ruled out, above 0 and below 1.
        typical: the base rate one expects; tunes the power, never the validity. None: the margin.
    """
    share = data.canary_trials / (data.canary_trials + data.champion_trials)
    return float(log_e_below_at(share, data, margin, typical))


def log_e_below_at(share: Array, data: Buckets, margin: float, typical: float | None) -> Array:
    """The same of many paths at once.

    Args:
        share: the canary's realised one, shape (buckets,) where all paths have the same, else (..., buckets).
        data: shape (..., buckets) each.
        margin, typical: see `log_e_below`.

    Returns:
        Shape (...).
    """
    n1, x1, n0, x0 = data
    base, weights = _base_rates(margin, typical)
    logs = _log_factors(share, base, margin)
    counts = (x1, n1 - x1, x0, n0 - x0)
    over_buckets = [
        np.einsum("...b,...bg->...g", count, log) for count, log in zip(counts, logs, strict=True)
    ]
    total = weights + sum(over_buckets)
    # Of many paths a third of the time that numpy's own takes.
    peak = total.max(axis=-1, keepdims=True)
    return np.asarray(peak[..., 0] + np.log(np.exp(total - peak).sum(axis=-1)))


def _log_factors(share: Array, base: Array, margin: float) -> tuple[Array, Array, Array, Array]:
    """ln of the factor of a canary event, a canary non-event, a champion event, a champion non-event.

    Shape (buckets, base rates) each, or (..., buckets, base rates).
    """
    share = share[..., None]
    high = base + margin
    bet = margin / ((1 - share) * high * (1 - high) + share * base * (1 - base))
    one, zero = bet * (1 - share), bet * share
    return (
        np.log1p(-one * (1 - high)),
        np.log1p(one * high),
        np.log1p(zero * (1 - base)),
        np.log1p(-zero * base),
    )


def upper_bound(buckets: Buckets, alpha: float, *, typical: float | None = None) -> float:
    """Upper bound on p1 - p0 that holds at every look with probability 1 - alpha; 1 without data.

    Never below 0: it is made to rule out margins, not to prove an improvement.

    Raises:
        NotMeasured: negative or non-finite counts, or more events than trials.
    """
    require_between("alpha", alpha, 0, 1)
    data = buckets.checked().informative()
    if not data.canary_trials.size:
        return 1.0

    def excess(log_margin: float) -> float:
        return log_e_below(data, math.exp(log_margin), typical) + math.log(alpha)

    highest = math.log(0.999)
    found = crossing(excess, math.log(1e-6), highest, tolerance=1e-5)
    return 1.0 if found == highest else math.exp(found)


def _base_rates(margin: float, typical: float | None) -> tuple[Array, Array]:
    """Base rates with log weights: half spread over all scales, half around the typical rate."""
    centre = min(max(typical or margin, 1e-6), 0.99)
    high = math.log(0.999 * (1 - margin))
    low = min(math.log(min(centre, margin) / 64), high - 1)
    rates = np.exp(np.linspace(low, high, 48))
    near = 1 / (1 + (np.log(rates / centre) / math.log(2)) ** 2)
    weights = 0.5 / rates.size + 0.5 * near / near.sum()
    return rates, np.log(weights)


# Exact anytime-valid confidence sequence for one proportion; it works from the first trial on.
#
# Robbins' mixture: the e-value against the rate theta is the beta-binomial probability of the data over
# its binomial probability at theta; the sequence holds every theta with an e-value below 1/alpha.
# (Robbins 1970.)


@dataclass(frozen=True)
class ProportionSequence:
    """A confidence sequence for a rate, tightest near `typical`, valid whatever the rate is."""

    typical: float = 0.5
    """The rate one expects: the weight of rates is Beta(1/2, (1 - typical) / (2 typical))."""

    def __post_init__(self) -> None:
        require_between("typical", self.typical, 0, 1)

    def log_e(self, rate: float, *, events: float, trials: float) -> float:
        """ln e-value against this rate; infinite where the data rule it out."""
        from scipy.special import betaln, xlog1py, xlogy

        a, b = 0.5, 0.5 * (1 - self.typical) / self.typical
        mixture = float(betaln(a + events, b + trials - events) - betaln(a, b))
        return mixture - float(xlogy(events, rate) + xlog1py(trials - events, -rate))

    def interval(self, *, events: float, trials: float, alpha: float) -> Interval:
        """Holds the true rate at every look with probability 1 - alpha; (0, 1) before the first trial.

        Raises:
            NotMeasured: negative or non-finite counts, or more events than trials.
        """
        require_between("alpha", alpha, 0, 1)
        require_counts("proportion", events=events, trials=trials)
        require_no_more("proportion", events=events, trials=trials)
        if trials == 0:
            return Interval(0.0, 1.0)
        rate = events / trials
        return Interval(
            self._end(rate, 0.0, events, trials, alpha), self._end(rate, 1.0, events, trials, alpha)
        )

    def _end(self, rate: float, side: float, events: float, trials: float, alpha: float) -> float:
        def excess(place: float) -> float:
            theta = rate + place * (side - rate)
            return self.log_e(theta, events=events, trials=trials) + math.log(alpha)

        if rate == side:
            return side
        # As fine as floats are: beside 0 and 1 the e-value changes much over the last digits.
        return rate + crossing(excess, 0.0, 1.0, tolerance=0.0) * (side - rate)


def rare_event_trials(margin: float, alpha: float) -> float:
    """Trials without a single event after which the rate is known to be below `margin`.

    The sequence is tuned to the margin, as `difference` does it.
    """
    require_positive("margin", margin)
    sequence = ProportionSequence(typical=margin)

    def excess(log_trials: float) -> float:
        return sequence.log_e(margin, events=0.0, trials=math.exp(log_trials)) + math.log(alpha)

    return math.exp(crossing(excess, 0.0, math.log(1e4 / margin)))


_MAY_DIFFER = 0.01
"""Where every unit had one value: the share of units with another one that must be ruled out before they are called equal."""


def same_units(alpha: float) -> float:
    """Units of each version from which one value everywhere means that they are equal.

    Without variance nothing is known of what has not been seen: that no unit of so many had another value rules out, at
    every look, that one in a hundred has.
    """
    return math.ceil(rare_event_trials(_MAY_DIFFER, alpha))


# One-sided bounds on the difference of two proportions, exact and asymptotic side by side.
#
# Which of the two is tighter depends on the number of events. Choosing by the data costs error, so the
# error is split beforehand: a quarter to the exact bound, three quarters to the asymptotic one; the tighter
# of the two then holds at every look with probability 1 - alpha (union bound).


EXACT_PART = 0.25
"""Share of the error that the exact bound gets."""

ENOUGH_EVENTS = 30.0
"""Expected events (and non-events) per arm from which the asymptotic bound is used.

More than a test against "no difference" needs: at the edge of a margin the rates differ, and a canary that
has few events by chance has a small estimated variance as well. Simulated with a version worse by exactly its
margin, the asymptotic bound alone was wrong in 6.6 % of rollouts from 5 events on, and in 3.6 % at most from
30 on (20 scenarios, 400 looks); its part of the error is 3.75 %.
"""

PLENTY = 200.0
"""Expected events per arm from which the exact bound is not worth its computing time."""


def proportion_upper(
    buckets: Buckets,
    effect: Effect,
    sequence: AsymptoticSequence,
    alpha: float,
    *,
    typical: float | None = None,
) -> float:
    """Upper bound on p1 - p0 at every look, with probability 1 - alpha.

    Args:
        buckets: the counts, in time order.
        effect: the same data, stratified.
        sequence: tuned beforehand.
        alpha: one-sided error over all looks.
        typical: the base rate one expects, for the exact bound.
    """
    bound = 1.0
    if is_enough(effect) and effect.fewest_expected >= ENOUGH_EVENTS:
        bound = min(bound, sequence.upper(effect, (1 - EXACT_PART) * alpha))
    if effect.fewest_expected < PLENTY:
        bound = min(bound, _exact_upper(buckets, alpha * EXACT_PART, typical))
    return bound


def is_below_margin(
    buckets: Buckets,
    effect: Effect,
    sequence: AsymptoticSequence,
    alpha: float,
    margin: float,
    *,
    typical: float | None = None,
) -> bool:
    """Whether `proportion_upper` is below `margin` (above 0 and below 1), without looking for where it is."""
    normal = is_enough(effect) and effect.fewest_expected >= ENOUGH_EVENTS
    if normal and sequence.upper(effect, (1 - EXACT_PART) * alpha) < margin:
        return True
    if effect.fewest_expected >= PLENTY or not margin < 1:
        return False
    data, typical = _of_the_rare(buckets, typical)
    data = data.checked().informative()
    return bool(
        data.canary_trials.size and log_e_below(data, margin, typical) >= -math.log(alpha * EXACT_PART)
    )


def proportion_lower(
    buckets: Buckets,
    effect: Effect,
    sequence: AsymptoticSequence,
    alpha: float,
    *,
    typical: float | None = None,
) -> float:
    """Lower bound on p1 - p0; the upper bound with the variants' roles exchanged."""
    return -proportion_upper(buckets.swapped(), effect.mirrored(), sequence, alpha, typical=typical)


def _exact_upper(buckets: Buckets, alpha: float, typical: float | None) -> float:
    data, typical = _of_the_rare(buckets, typical)
    return upper_bound(data, alpha, typical=typical)


def _of_the_rare(buckets: Buckets, typical: float | None) -> tuple[Buckets, float | None]:
    """For rates above a half the non-events are the rare ones: p1 - p0 is their difference turned round."""
    trials = math.fsum(buckets.canary_trials) + math.fsum(buckets.champion_trials)
    events = math.fsum(buckets.canary_events) + math.fsum(buckets.champion_events)
    common = (typical if typical is not None else events / trials if trials else 0.0) > 0.5
    if not common:
        return buckets, typical
    return buckets.complement().swapped(), None if typical is None else 1 - typical
