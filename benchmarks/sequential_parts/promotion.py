"""The plan of the whole decision against rollouts of a healthy version that are played out unit by unit."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row
from pipelines.core.statistics import srm
from pipelines.core.statistics.effects import EffectKind, Sums, effects
from pipelines.core.statistics.healthy import Awaited
from pipelines.core.statistics.look_spec import ErrorBudget, MetricSpec
from pipelines.core.statistics.planning import Baseline
from pipelines.core.statistics.power import Design
from pipelines.core.statistics.promotion import RUNS, Course, Played, Stage, play
from pipelines.core.statistics.proportions import ENOUGH_EVENTS, EXACT_PART, PLENTY, Buckets, log_e_below_at
from pipelines.core.statistics.sequences import are_enough, log_e_above, planned_scale
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.statistics.starts import LATER

ALPHA, POWER, ADVANCE_BELOW = 0.05, 0.8, 3.0

GUARDRAILS = (1, 2, 5, 10, 20)

PER_DAY, _LONGEST = 20_000.0, 8.0
"""Units, and the days within which 80 % are promoted by plan."""

_BUYERS, _AMOUNT, _SPREAD = 0.1, 40.0, 20.0
"""A unit in ten buys, for a normal amount: a skewed mean whose sums can be drawn exactly."""


class _Kind(NamedTuple):
    """A metric: its rate, or the revenue that is skewed where there is none."""

    rate: float | None
    margin: float


_REVENUE = _Kind(None, 0.4)

_KINDS = (_Kind(0.06, 0.012), _Kind(0.001, 0.004), _Kind(0.01, 0.003))
"""Of guardrails, in turn: judged by the asymptotic bound, by the exact one, by both."""

_BOUGHT = _BUYERS * (_AMOUNT**2 + _SPREAD**2)


def rows(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    naive = [POWER ** (1 + count) for count in GUARDRAILS]
    for count, product in zip(GUARDRAILS, naive, strict=True):
        course, played = planned(count)
        chance = played.chance(course.max_days)
        realised = promoted(rng, course, runs)
        error = math.sqrt(realised * (1 - realised) / runs)
        yield row(
            f"healthy version promoted in time, {count} guardrails: realised {100 * realised:.1f} % (+-{100 * error:.1f})"
            f" minus planned {100 * chance:.1f} %; by {100 * POWER:g} % for each metric it would be"
            f" {100 * product:.1f} %",
            abs(realised - chance),
            error,
            "one Monte-Carlo standard error of the realised share",
            "probability",
            0.03,
        )
    for correlation in (0.5, 0.95):
        yield _correlated(rng, correlation, runs)


def planned(guardrails: int, runs: int = RUNS) -> tuple[Course, Played]:
    """A revenue and so many guardrails; the maximum duration is about when 80 % are promoted by plan."""
    kinds = [_REVENUE, *(_KINDS[i % len(_KINDS)] for i in range(guardrails))]
    course = Course(
        stages=(Stage(0.1, 0.5), Stage(0.5, 0.25)),
        metrics=tuple(_awaited(i, kind) for i, kind in enumerate(kinds)),
        budget=ErrorBudget(ALPHA, len(kinds)),
        units_per_day=PER_DAY,
        max_days=14.0,
        alpha=ALPHA,
        advance_below=ADVANCE_BELOW,
    )
    course = replace(course, max_days=play(replace(course, max_days=_LONGEST), runs=500).days_until(POWER))
    return course, play(course, runs=runs)


def _awaited(index: int, kind: _Kind) -> Awaited:
    mean = kind.rate if kind.rate is not None else _BUYERS * _AMOUNT
    variance = None if kind.rate is not None else _BOUGHT - mean**2
    of = EffectKind.MEAN if kind.rate is None else EffectKind.PROPORTION
    information = Design(alpha=ALPHA, looks=20, one_sided=index > 0).information(kind.margin, POWER)
    spec = MetricSpec(
        name=f"m{index}", kind=of, margin=kind.margin, baseline=mean, planned_information=information
    )
    baseline = Baseline(
        name=spec.name, kind=of, value=mean, variance=variance, kurtosis=_kurtosis(), units_per_day=PER_DAY
    )
    return Awaited(spec=spec, baseline=baseline)


def _kurtosis() -> float:
    mean = _BUYERS * _AMOUNT
    raw = [
        1.0,
        _AMOUNT,
        _AMOUNT**2 + _SPREAD**2,
        _AMOUNT**3 + 3 * _AMOUNT * _SPREAD**2,
        _AMOUNT**4 + 6 * _AMOUNT**2 * _SPREAD**2 + 3 * _SPREAD**4,
    ]
    central = sum(math.comb(4, k) * (-mean) ** (4 - k) * (_BUYERS * raw[k] if k else 1.0) for k in range(5))
    return central / (_BOUGHT - mean**2) ** 2


def promoted(rng: np.random.Generator, course: Course, runs: int, looks: int = 160) -> float:
    """The share of rollouts that are promoted in time, each unit assigned by chance, variances estimated."""
    times = _times(course, looks)
    units = _arrivals(rng, course, times, runs)
    good, total = np.ones((runs, len(times)), bool), np.full((runs, len(times)), -np.inf)
    for awaited in course.metrics:
        within, log_e = (_revenue if awaited.baseline.value > 1 else _events)(rng, awaited, units, course)
        good &= within & (log_e < math.log(course.advance_below))
        total = np.logaddexp(total, log_e)
    good &= np.maximum.accumulate(total, axis=1) < course.budget.log_boundary
    good[:, times < course.least_days - 1e-9] = False
    at = good.argmax(axis=1)
    return float(np.mean([good[run, look] and _sound(units[run, look]) for run, look in enumerate(at)]))


def _times(course: Course, looks: int) -> np.ndarray:
    before = np.linspace(0, course.least_days, 21)[1:-1]
    return np.concatenate([before, np.linspace(course.least_days, course.max_days, looks)])


_SHARES = np.array([0.1, 0.5])


def _arrivals(rng: np.random.Generator, course: Course, times: np.ndarray, runs: int) -> np.ndarray:
    """Units so far, shape (runs, looks, stages, (champion, challenger))."""
    first = course.stages[0].least_days
    so_far = np.stack([np.minimum(times, first), np.maximum(times - first, 0)], axis=1) * course.units_per_day
    new = np.diff(np.round(so_far), axis=0, prepend=0.0).astype(int)
    canary = rng.binomial(np.broadcast_to(new, (runs, *new.shape)), _SHARES)
    return np.cumsum(np.stack([new - canary, canary], axis=-1), axis=1)


def _sound(units: np.ndarray) -> bool:
    steps = [StepUnits(j, *map(float, units[j]), float(_SHARES[j])) for j in range(len(units))]
    return srm.chi_square(steps).p >= 0.01


def _new(units: np.ndarray) -> np.ndarray:
    return np.diff(units, axis=1, prepend=np.zeros_like(units[:, :1]))


def _sums(n: np.ndarray, sy: np.ndarray, syy: np.ndarray) -> np.ndarray:
    sums = np.zeros((*n.shape, len(Sums._fields)))
    sums[..., 0], sums[..., 1], sums[..., 2] = n, sy, syy
    return sums


def _revenue(
    rng: np.random.Generator, awaited: Awaited, units: np.ndarray, course: Course
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of amounts and of their squares, given how many bought."""
    k = rng.binomial(_new(units), _BUYERS)
    z = rng.normal(size=k.shape) * np.sqrt(k)
    zz = np.where(k > 0, z**2 / np.maximum(k, 1), 0) + 2 * rng.standard_gamma(np.maximum(k - 1, 0) / 2)
    sy = np.cumsum(_AMOUNT * k + _SPREAD * z, axis=1)
    syy = np.cumsum(_AMOUNT**2 * k + 2 * _AMOUNT * _SPREAD * z + _SPREAD**2 * zz, axis=1)
    return _by_look(awaited, units, sy, syy, course, EffectKind.MEAN)


def _by_look(
    awaited: Awaited,
    units: np.ndarray,
    sy: np.ndarray,
    syy: np.ndarray,
    course: Course,
    kind: EffectKind,
    alpha: float = ALPHA,
) -> tuple[np.ndarray, np.ndarray]:
    tau2 = planned_scale(alpha=course.alpha, information=awaited.spec.planned_information or 1.0)
    within, log_e = np.zeros(units.shape[:2], bool), np.zeros(units.shape[:2])
    for look in range(units.shape[1]):
        sums = _sums(units[:, look], sy[:, look], syy[:, look])
        found = effects(sums[:, :, 0], sums[:, :, 1], np.zeros(2), kind)
        least = ENOUGH_EVENTS if kind is EffectKind.PROPORTION else 0.0
        enough = are_enough(found) & (found.fewest_expected >= least)
        variance = np.where(enough, found.variance, 1.0)
        spared = log_e_above(awaited.margin - found.value, variance, tau2)
        within[:, look] = enough & (spared >= -math.log(alpha))
        harm = np.logaddexp(math.log1p(-LATER) + log_e_above(found.value, variance, tau2), math.log(LATER))
        log_e[:, look] = np.where(enough, harm, 0.0)
        if kind is EffectKind.PROPORTION:
            exact = ~within[:, look] & (found.fewest_expected < PLENTY)
            if exact.any():
                within[exact, look] = _exact(awaited, units[exact, look], sy[exact, look])
    return within, log_e


def _exact(awaited: Awaited, units: np.ndarray, events: np.ndarray) -> np.ndarray:
    """Each stage a bucket with its realised share; where a side has no units it says nothing."""
    both = (units > 0).all(axis=2)
    n0, n1, x0, x1 = (np.where(both, side[..., i], 0.0) for side in (units, events) for i in (0, 1))
    share = np.where(both, n1 / np.maximum(n1 + n0, 1), 0.5)
    evidence = log_e_below_at(share, Buckets(n1, x1, n0, x0), awaited.margin, awaited.baseline.value)
    return evidence >= -math.log(EXACT_PART * ALPHA)


def _events(
    rng: np.random.Generator, awaited: Awaited, units: np.ndarray, course: Course
) -> tuple[np.ndarray, np.ndarray]:
    new = _new(units)
    fresh = rng.binomial(new, awaited.baseline.value)
    events = np.cumsum(fresh, axis=1)
    within, _ = _by_look(
        awaited, units, events, events, course, EffectKind.PROPORTION, alpha=(1 - EXACT_PART) * ALPHA
    )
    paths, log_e = Paths(len(units)), np.zeros(units.shape[:2])
    for look in range(units.shape[1]):
        for stage in range(len(_SHARES)):
            trials = new[:, look, stage].sum(axis=1)
            share = new[:, look, stage, 1] / np.maximum(trials, 1)
            e = paths.take(fresh[:, look, stage, 1], fresh[:, look, stage, 0], share)
            # Who has been rolled back stays so; his money must not overflow.
            paths.mass = np.minimum(paths.mass, 1e100)
            log_e[:, look] = np.log(e)
    return within, log_e


def _correlated(rng: np.random.Generator, correlation: float, runs: int) -> dict[str, Any]:
    """Ten normal metrics that share so much of what moves them."""
    count, variance, margin = 10, 25.0, 0.2
    information = Design(alpha=ALPHA, looks=20, one_sided=True).information(margin, POWER)
    metrics = tuple(_normal(i, variance, margin, information) for i in range(count))
    course = Course(
        stages=(Stage(0.1, 0.5), Stage(0.5, 0.25)),
        metrics=metrics,
        budget=ErrorBudget(ALPHA, count),
        units_per_day=PER_DAY,
        max_days=14.0,
    )
    course = replace(course, max_days=play(replace(course, max_days=_LONGEST), runs=1000).days_until(POWER))
    played, times = play(course), _times(course, 160)
    realised = _normal_rollouts(rng, course, times, correlation, runs, information, variance, margin)
    least, most = played.bounds(course.max_days)
    return row(
        f"ten metrics that are correlated by {correlation:g}: realised {100 * realised:.1f} % lies outside of the bounds"
        f" {100 * least:.1f} and {100 * most:.1f} % by; planned as independent {100 * played.chance(course.max_days):.1f} %",
        max(0.0, least - realised, realised - most),
        math.sqrt(realised * (1 - realised) / runs),
        "one Monte-Carlo standard error",
        "probability",
        0.01,
    )


def _normal(index: int, variance: float, margin: float, information: float) -> Awaited:
    spec = MetricSpec(
        name=f"m{index}", kind=EffectKind.MEAN, margin=margin, baseline=5.0, planned_information=information
    )
    baseline = Baseline(
        name=spec.name, kind=EffectKind.MEAN, value=5.0, variance=variance, units_per_day=PER_DAY
    )
    return Awaited(spec=spec, baseline=baseline)


def _normal_rollouts(
    rng: np.random.Generator,
    course: Course,
    times: np.ndarray,
    correlation: float,
    runs: int,
    information: float,
    variance: float,
    margin: float,
) -> float:
    first = course.stages[0].least_days
    weight = course.units_per_day * (0.09 * np.minimum(times, first) + 0.25 * np.maximum(times - first, 0))
    steps, tau2 = (
        np.sqrt(variance * np.diff(weight, prepend=0.0)),
        planned_scale(alpha=ALPHA, information=information),
    )
    common = rng.standard_normal((runs, len(times)))
    good, total = np.ones(common.shape, bool), np.full(common.shape, -np.inf)
    for _ in course.metrics:
        own = rng.standard_normal(common.shape)
        path = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own
        value, spread = np.cumsum(path * steps, axis=1) / weight, variance / weight
        log_e = np.logaddexp(math.log1p(-LATER) + log_e_above(value, spread, tau2), math.log(LATER))
        good &= (log_e_above(margin - value, spread, tau2) >= -math.log(ALPHA)) & (log_e < math.log(3))
        total = np.logaddexp(total, log_e)
    good &= np.maximum.accumulate(total, axis=1) < course.budget.log_boundary
    good[:, times < course.least_days - 1e-9] = False
    return 0.99 * float(good.any(axis=1).mean())
