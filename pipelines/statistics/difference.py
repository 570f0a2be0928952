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
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipelines.statistics.inputs import Array, require_between, require_counts, require_no_more
from pipelines.statistics.roots import crossing

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


def log_e_below(buckets: Buckets, margin: float, *, typical: float | None = None) -> float:
    """ln e-value against "the canary's rate is higher by `margin` or more"; see `log_e_below_path`."""
    require_between("margin", margin, 0, 1)
    return _log_e(buckets.checked().informative(), margin, typical)


def _log_e(data: Buckets, margin: float, typical: float | None) -> float:
    n1, x1, n0, x0 = data
    base, weights = _base_rates(margin, typical)
    logs = _log_factors(n1 / (n1 + n0), base, margin)
    total = weights + x1 @ logs[0] + (n1 - x1) @ logs[1] + x0 @ logs[2] + (n0 - x0) @ logs[3]
    return float(np.logaddexp.reduce(total))


def _log_factors(share: Array, base: Array, margin: float) -> tuple[Array, Array, Array, Array]:
    """ln of the factor of a canary event, a canary non-event, a champion event, a champion non-event.

    Shape (buckets, base rates) each.
    """
    share = share[:, None]
    high = base + margin
    bet = margin / ((1 - share) * high * (1 - high) + share * base * (1 - base))
    one, zero = bet * (1 - share), bet * share
    return (
        np.log1p(-one * (1 - high)),
        np.log1p(one * high),
        np.log1p(zero * (1 - base)),
        np.log1p(-zero * base),
    )


def log_e_below_path(buckets: Buckets, margin: float, *, typical: float | None = None) -> Array:
    """ln e-value after each bucket in which both variants had trials.

    Args:
        buckets: in time order; each compares its own trials alone.
        margin: the difference in rates that must be ruled out, above 0 and below 1.
        typical: the base rate one expects; tunes the power, never the validity. Default: the margin.

    Returns:
        Shape (informative buckets,).

    Raises:
        NotMeasured: negative or non-finite counts, or more events than trials.
        ParameterError: a margin outside (0, 1).
    """
    require_between("margin", margin, 0, 1)
    n1, x1, n0, x0 = buckets.checked().informative()
    base, weights = _base_rates(margin, typical)
    logs = _log_factors(n1 / (n1 + n0), base, margin)
    counts = (x1, n1 - x1, x0, n0 - x0)
    terms = sum((count[:, None] * log for count, log in zip(counts, logs, strict=True)), np.zeros(1))
    paths = np.cumsum(terms, axis=0) + weights
    top = paths.max(axis=1, initial=-np.inf)
    return top + np.log(np.exp(paths - top[:, None]).sum(axis=1))


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
        return _log_e(data, math.exp(log_margin), typical) + math.log(alpha)

    return math.exp(_highest_kept(excess, math.log(1e-6), math.log(0.999)))


def lower_bound(buckets: Buckets, alpha: float, *, typical: float | None = None) -> float:
    """Lower bound on p1 - p0; never above 0."""
    return -upper_bound(buckets.swapped(), alpha, typical=typical)


def _highest_kept(excess: Callable[[float], float], low: float, high: float) -> float:
    """The largest margin that is not ruled out; 1 (log 0) if none is."""
    if excess(high) < 0:
        return 0.0
    return low if excess(low) >= 0 else crossing(excess, low, high, steps=16)


def _base_rates(margin: float, typical: float | None) -> tuple[Array, Array]:
    """Base rates with log weights: half spread over all scales, half around the typical rate."""
    centre = min(max(typical or margin, 1e-6), 0.99)
    high = math.log(0.999 * (1 - margin))
    low = min(math.log(min(centre, margin) / 64), high - 1)
    rates = np.exp(np.linspace(low, high, 48))
    near = 1 / (1 + (np.log(rates / centre) / math.log(2)) ** 2)
    weights = 0.5 / rates.size + 0.5 * near / near.sum()
    return rates, np.log(weights)
