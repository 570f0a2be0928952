"""How likely is a version that is as good as the champion promoted in time?

Many rollouts of such a version are played, with the bounds, the harm tests and the rules of the looks: every metric must be
within its margin at one look of the last step, none may cast doubt at that moment, and nothing may have been rolled back
before. Planning each metric for the power that is asked for would not do: with m independent metrics at 80 %, all of
them hold in .8^m of the rollouts. Metrics are played as independent. How they depend on each other is not known beforehand, so
two bounds are given that hold however they do: all hold at least as often as 1 less the sum of their failures (Bonferroni, on beta),
and no oftener than the least of them.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.core.statistics.healthy import Awaited, Exposed, fractions, looked_at
from pipelines.core.statistics.inputs import Array, Flags, ParameterError, require_positive
from pipelines.core.statistics.look_spec import ErrorBudget

RUNS = 2500
"""Rollouts played: a probability of 80 % has a Monte-Carlo error of 0.8 points."""

_SEED = 20261128

_BEFORE, _LAST, _BEYOND = 6, 80, 40
"""Looks at each step before the last, at the last one, and after the maximum duration. A rollout has thousands; twice as many
here would find one in a hundred more."""


class Stage(NamedTuple):
    """A step of the ramp before the promotion."""

    share: float
    """The challenger's share of the units, 0 to 1; 0 for a step that answers nobody."""
    least_days: float
    """It lasts at least so long, whatever the metrics say."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A rollout as it is planned."""

    stages: tuple[Stage, ...]
    metrics: tuple[Awaited, ...]
    budget: ErrorBudget
    """Of the tests for harm."""
    units_per_day: float
    """New units of both versions together."""
    max_days: float
    alpha: float = 0.05
    srm_alpha: float = 0.01
    """The sample ratio is tested once before the promotion, and wrong so often."""
    advance_below: float = 3.0
    bucket_days: float = 0.0
    """Units count with the bucket that they are in."""

    @property
    def least_days(self) -> float:
        """What the steps' floors take together."""
        return sum(stage.least_days for stage in self.stages)

    def weight(self, days: float, metric: int) -> float:
        """What the difference is known by after so many days: n1 n0/(n1 + n0) over the stages, in units."""
        lag = self.metrics[metric].window_days + self.bucket_days
        units, shares, _ = _exposed(self, np.array([days]), lag, 0)
        return float((units * shares * (1 - shares)).sum())


@dataclass(frozen=True, eq=False)
class Played:
    """What became of the rollouts."""

    days: Array
    """Of the looks at which a promotion is possible; shape (looks,)."""
    promoted: Array
    """The share promoted by then; shape (looks,)."""
    alone: Array
    """The same, if the metric were the only one; shape (metrics, looks)."""
    failing: Array
    """The share in which the metric is not within its margin at this very look, or in doubt; shape (metrics, looks)."""
    alpha: float
    srm_alpha: float

    def chance(self, days: float) -> float:
        """P(promoted | healthy, within so many days), the metrics being independent."""
        return _by(self.days, self.promoted, days)

    def chance_alone(self, metric: int, days: float) -> float:
        """The same, if this metric were the only one."""
        return _by(self.days, self.alone[metric], days)

    def bounds(self, days: float) -> tuple[float, float]:
        """Between which the chance lies, however the metrics depend on each other."""
        seen = int(np.searchsorted(self.days, days * (1 + 1e-9), side="right"))
        if not seen:
            return 0.0, 0.0
        # The test for harm errs in `alpha` of the rollouts at most, whatever the metrics share.
        least = (1 - self.failing.sum(axis=0) - self.alpha - self.srm_alpha)[:seen].max()
        return max(0.0, float(least)), float(self.alone[:, :seen].max(axis=1).min(initial=1.0))

    def days_until(self, chance: float) -> float:
        """When so many are promoted; infinite where that is not among the looks."""
        return _reached(self.days, self.promoted, chance)

    def days_alone(self, metric: int, chance: float) -> float:
        """The same, if this metric were the only one."""
        return _reached(self.days, self.alone[metric], chance)


def play(course: Course, *, beyond: float = 1.0, runs: int = RUNS, seed: int = _SEED) -> Played:
    """Play so many rollouts of a version that is exactly as good as the champion. Seeded: the same course, the same answer.

    Args:
        course: floors and metrics.
        beyond: multiples of the maximum duration up to which it is played, to see how long it would take.
        runs: how many.
        seed: of the random numbers.

    Raises:
        ParameterError: no step that compares anything, or a number outside its range.
    """
    require_positive("max_days", course.max_days)
    require_positive("units_per_day", course.units_per_day)
    if not any(0 < stage.share < 1 for stage in course.stages):
        raise ParameterError("steps: none between 0 and 100 %, nothing would be compared")
    times = _looks(course, beyond)
    first = int(np.searchsorted(times, course.least_days * (1 - 1e-12)))
    rng = np.random.default_rng(seed)
    good, sums, rows = np.ones((runs, len(times)), np.bool_), dict[str, Array](), list[Flags]()
    for awaited in course.metrics:
        exposed = _exposed(course, times, awaited.window_days + course.bucket_days, first)
        seen = looked_at(rng, awaited, exposed, runs=runs, alpha=course.alpha, is_final=beyond == 1.0)
        passes = seen.within
        if awaited.holds_back:
            passes = passes & (seen.log_e < math.log(course.advance_below))
            part = "live" if awaited.spec.part is None else awaited.spec.part
            sums[part] = np.logaddexp(sums.get(part, -math.inf), seen.log_e)
        rows.append(passes[:, first:])
        good &= passes
    for total in sums.values():
        good &= np.maximum.accumulate(total, axis=1) < course.budget.log_boundary
    sound = 1 - course.srm_alpha
    return Played(
        days=times[first:],
        promoted=sound * _ever(good[:, first:]),
        alone=np.array([sound * _ever(passes) for passes in rows]).reshape(len(rows), -1),
        failing=np.array([1 - passes.mean(axis=0) for passes in rows]).reshape(len(rows), -1),
        alpha=course.budget.alpha,
        srm_alpha=course.srm_alpha,
    )


def _ever(good: Flags) -> Array:
    """The share of runs in which it has been so by each look."""
    return np.logical_or.accumulate(good, axis=1).mean(axis=0)


def _by(days: Array, shares: Array, wanted: float) -> float:
    seen = int(np.searchsorted(days, wanted * (1 + 1e-9), side="right"))
    return float(shares[seen - 1]) if seen else 0.0


def _reached(days: Array, shares: Array, wanted: float) -> float:
    reached = np.flatnonzero(shares >= wanted)
    return float(days[reached[0]]) if reached.size else math.inf


def _looks(course: Course, beyond: float) -> Array:
    """Days since the first share: some at each step before the last, the others where the promotion is possible."""
    found, begin = list[float](), 0.0
    for stage in course.stages:
        found += np.linspace(begin, begin + stage.least_days, _BEFORE + 1)[1:].tolist()
        begin += stage.least_days
    if begin < course.max_days:
        found += np.linspace(begin, course.max_days, _LAST + 1).tolist()
    start, end = max(begin, course.max_days), beyond * course.max_days
    if start < end:
        found += np.geomspace(start, end, _BEYOND).tolist()
    for awaited in course.metrics:
        found += _planned_times(course, awaited, end=max(begin, end))
    return np.unique(np.round([each for each in found if each > 0], 12))


def _exposed(course: Course, times: Array, lag: float, first: int) -> Exposed:
    """What counts at each look: exposed at least `lag` before it."""
    lasts = np.array([stage.least_days for stage in course.stages])
    begins = np.cumsum(lasts) - lasts
    until = np.minimum(times[:, None] - lag, np.concatenate([begins[1:], [math.inf]]))
    units = np.clip(until - begins, 0, None) * course.units_per_day
    shares = np.array([stage.share for stage in course.stages])
    compared = (shares > 0) & (shares < 1)
    return Exposed(units[:, compared], shares[compared], first)


def _planned_times(course: Course, awaited: Awaited, end: float) -> list[float]:
    """When a group sequential metric reaches each of its planned fractions."""
    if not awaited.spec.method.is_planned or awaited.is_constant:
        return []
    times = np.linspace(0, end, 2000)[1:]
    exposed = _exposed(course, times, awaited.window_days + course.bucket_days, 0)
    reached = np.maximum.accumulate(fractions(awaited, exposed) * awaited.looks)
    wanted = np.searchsorted(reached, np.arange(1, awaited.looks + 1))
    return [float(times[look]) for look in wanted if look < len(times)]
