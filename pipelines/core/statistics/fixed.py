"""Classical tests for one look at a size fixed in advance: final reports and comparisons, never peeking."""

import math
from typing import NamedTuple

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.inputs import require_between, require_counts, require_no_more
from pipelines.core.statistics.sequences import Interval


class FixedTest(NamedTuple):
    statistic: float
    p: float
    """Two-sided."""
    interval: Interval
    """Of the difference second minus first."""


class Sample(NamedTuple):
    """A summary of one arm: units, mean, sample standard deviation (n - 1)."""

    n: float
    mean: float
    sd: float


def two_proportions(
    first_events: float, first: float, second_events: float, second: float, *, alpha: float = 0.05
) -> FixedTest:
    """Two-proportion z test with the pooled standard error; the interval uses the unpooled one.

    Raises:
        NotMeasured: an arm without trials, or impossible counts.
    """
    from scipy.special import ndtr, ndtri

    require_between("alpha", alpha, 0, 1)
    require_counts("two proportions", first_events=first_events, second_events=second_events)
    require_no_more("two proportions, first", events=first_events, trials=first)
    require_no_more("two proportions, second", events=second_events, trials=second)
    if not (first > 0 and second > 0):
        raise NotMeasured(f"two proportions: {first:g} and {second:g} trials, both must be above 0")
    one, two = first_events / first, second_events / second
    rate = (first_events + second_events) / (first + second)
    pooled = math.sqrt(rate * (1 - rate) * (1 / first + 1 / second))
    if pooled == 0:
        return FixedTest(0.0, 1.0, Interval(0.0, 0.0))
    z = (two - one) / pooled
    half = -float(ndtri(alpha / 2)) * math.sqrt(one * (1 - one) / first + two * (1 - two) / second)
    return FixedTest(z, float(2 * ndtr(-abs(z))), Interval(two - one - half, two - one + half))


def welch(first: Sample, second: Sample, *, alpha: float = 0.05) -> FixedTest:
    """Welch's t test of two means with Satterthwaite's degrees of freedom.

    Raises:
        NotMeasured: fewer than two units in an arm, or no spread in either.
    """
    from scipy.special import stdtr, stdtrit

    require_between("alpha", alpha, 0, 1)
    if min(first.n, second.n) < 2 or not first.sd + second.sd > 0:
        raise NotMeasured(f"Welch: {first} and {second}, must have two units each and some spread")
    parts = first.sd**2 / first.n, second.sd**2 / second.n
    error = math.sqrt(sum(parts))
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1))
    difference = second.mean - first.mean
    half = -float(stdtrit(degrees, alpha / 2)) * error
    p = float(2 * stdtr(degrees, -abs(difference) / error))
    return FixedTest(difference / error, p, Interval(difference - half, difference + half))
