"""What other tools' documented rules do with counters: Flagger, Argo Rollouts, GrowthBook."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import numpy as np


class Bucket(NamedTuple):
    """Answers of both sides in the interval that ends at `at`, and how many of them were bad."""

    at: datetime
    canary_trials: float
    canary_events: float
    champion_trials: float
    champion_events: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One guardrail's buckets, in the order of time."""

    name: str
    kind: Literal["errors", "slow", "other"]
    """`slow`: an event is an answer slower than the objective."""
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, kw_only=True)
class PeerAction:
    """What one tool's rule would have done; `at` None: nothing while these counters last."""

    peer: str
    rule: str
    """The rule in words, with its numbers."""
    source: str
    """Where the rule is written down."""
    at: datetime | None
    reason: str


class Peer(NamedTuple):
    """A tool and its rule."""

    peer: str
    rule: str
    source: str

    def acts(self, at: datetime | None, reason: str) -> PeerAction:
        """What it would have done."""
        return PeerAction(**self._asdict(), at=at, reason=reason)


class Window(NamedTuple):
    """The canary's counts between two checks."""

    end: datetime
    trials: float
    events: float

    @property
    def bad_share(self) -> float | None:
        """Share of bad answers, 0 to 1; None without answers."""
        return self.events / self.trials if self.trials else None


def windows(
    buckets: Iterable[Bucket], *, begun: datetime, ended: datetime, every: timedelta
) -> Iterator[Window]:
    """The canary's counts in every whole interval from `begun` to `ended`; an interval without buckets is empty."""
    waiting = sorted(buckets)
    place, end = 0, begun + every
    while end <= ended:
        trials = events = 0.0
        while place < len(waiting) and waiting[place].at <= end:
            trials += waiting[place].canary_trials
            events += waiting[place].canary_events
            place += 1
        yield Window(end, trials, events)
        end += every


# Flagger's checks with the numbers of its documentation.
#
# Flagger docs, "How it works" and "Metrics Analysis": `interval: 1m`; `request-success-rate` of at least 99 % and
# `request-duration` (P99) of at most the objective, each over 1 m. A check without values halts like a failed one. Each
# failed check counts, successes in between do not take it back, and once `threshold` of them are reached the next tick
# of the schedule rolls back. The threshold of 5 is that of the tutorials' Canary resources.


FLAGGER = Peer(
    peer="Flagger",
    rule="at least 99 % good answers (and P99 within the objective) each minute; after 5 failed checks, back",
    source="Flagger docs: How it works, Metrics Analysis",
)

_KINDS = {"errors": "success rate", "slow": "answers within the objective"}


def flagger(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    interval: timedelta = timedelta(minutes=1),
    max_bad_share: float = 0.01,
    threshold: int = 5,
) -> PeerAction:
    """When Flagger would have rolled back. `max_bad_share` 0.01 is a success rate of 99 %, and a P99."""
    checked = [s for s in series if s.kind in _KINDS]
    per_metric = [
        [(s, window) for window in windows(s.buckets, begun=begun, ended=ended, every=interval)]
        for s in checked
    ]
    failed, last = 0, ""
    for checks in zip(*per_metric, strict=True):
        if failed >= threshold:
            return FLAGGER.acts(checks[0][1].end, f"{failed} failed checks, the last: {last}")
        problem = next((p for s, w in checks if (p := _problem(s, w, max_bad_share)) is not None), None)
        if problem is not None:
            failed, last = failed + 1, problem
    if not checked:
        return FLAGGER.acts(None, "it has no check for these guardrails")
    return FLAGGER.acts(
        None, f"{failed} failed checks of {threshold} allowed" + (f", the last: {last}" if last else "")
    )


def _problem(series: Series, window: Window, max_bad_share: float) -> str | None:
    what = _KINDS[series.kind]
    if window.bad_share is None:
        return f"no values for the {what}"
    if window.bad_share > max_bad_share:
        return f"{what} {100 * (1 - window.bad_share):.1f} % of {window.trials:.0f} answers"
    return None


# Argo Rollouts' background analysis with the numbers of its documentation.
#
# Argo Rollouts docs, "Analysis & Progressive Delivery", background analysis: success rate, `interval: 5m`,
# `successCondition: result >= 0.95`, `failureLimit: 3`. The AnalysisTemplate's fields: more failed measurements than
# `failureLimit` fail the analysis, and more than `consecutiveErrorLimit` (4) measurements in succession that could not
# be made are an error; both abort the rollout. Failures need not follow one another.


ARGO = Peer(
    peer="Argo Rollouts",
    rule="at least 95 % good answers every 5 minutes; abort when more than 3 measurements fail, or 5 in a row have no data",
    source="Argo Rollouts docs: Analysis & Progressive Delivery",
)


def argo_rollouts(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    interval: timedelta = timedelta(minutes=5),
    min_good_share: float = 0.95,
    failure_limit: int = 3,
    consecutive_error_limit: int = 4,
) -> PeerAction:
    """When Argo Rollouts would have aborted: the earliest of its success-rate metrics."""
    errors = [s for s in series if s.kind == "errors"]
    if not errors:
        return ARGO.acts(None, "its example has no measurement for these guardrails")
    found = [
        _one(
            s,
            begun=begun,
            ended=ended,
            interval=interval,
            min_good_share=min_good_share,
            failure_limit=failure_limit,
            consecutive_error_limit=consecutive_error_limit,
        )
        for s in errors
    ]
    return min(found, key=lambda action: action.at or datetime.max.replace(tzinfo=ended.tzinfo))


def _one(
    series: Series,
    *,
    begun: datetime,
    ended: datetime,
    interval: timedelta,
    min_good_share: float,
    failure_limit: int,
    consecutive_error_limit: int,
) -> PeerAction:
    failed = blind = measured = 0
    for window in windows(series.buckets, begun=begun, ended=ended, every=interval):
        measured += 1
        if window.bad_share is None:
            blind += 1
            if blind > consecutive_error_limit:
                return ARGO.acts(window.end, f"{blind} measurements in a row without data")
            continue
        blind = 0
        good = 1 - window.bad_share
        failed += good < min_good_share
        if failed > failure_limit:
            return ARGO.acts(
                window.end, f"{failed} failed measurements, the last {100 * good:.1f} % good answers"
            )
    return ARGO.acts(None, f"{failed} of {measured} measurements failed, {failure_limit} allowed")


# GrowthBook's safe rollouts (the rules of 2026) with the numbers of its documentation and of its statistics engine.
#
# GrowthBook docs, "Safe Rollouts": each guardrail is tested one-sided and sequentially; the rollout fails as soon as
# the bound of the absolute difference passes zero, whatever the size of the harm; guardrails are not corrected for
# their number. The bound is the one-sided asymptotic confidence sequence of Waudby-Smith et al. (arXiv 2103.06476,
# equation 134) at 0.05 with the engine's tuning parameter of 5,000; the counts of all ramp steps are pooled. A monitored
# step is held until its interval has passed and looked at with the first results that are updated after that: every 6 hours
# unless the organisation says otherwise ("Environment variables": EXPERIMENT_REFRESH_FREQUENCY).


GROWTHBOOK = Peer(
    peer="GrowthBook",
    rule="at the first update after a step's end, each guardrail on its own: back when the one-sided sequential bound at 5 % passes zero",
    source="GrowthBook docs: Safe Rollouts; its statistics engine's sequential tests",
)


class _Failing(NamedTuple):
    at: datetime
    reason: str


def growthbook(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    step: timedelta = timedelta(hours=1),
    every: timedelta = timedelta(hours=6),
    alpha: float = 0.05,
    tuning: float = 5000.0,
) -> PeerAction:
    """When GrowthBook would have rolled back: the first look at which any guardrail's bound passes zero.

    `step`: how long a monitored step takes at least; `every`: between two updates of the results.
    """
    moments = list(looks(begun=begun, ended=ended, step=step, every=every))
    if not moments:
        return GROWTHBOOK.acts(None, "its first look comes after these counters end")
    failing = [f for s in series if (f := _first_failing(s, moments, alpha, tuning)) is not None]
    if not failing:
        return GROWTHBOOK.acts(None, f"no guardrail failed in {len(moments)} looks")
    first = min(failing)
    return GROWTHBOOK.acts(first.at, first.reason)


def looks(*, begun: datetime, ended: datetime, step: timedelta, every: timedelta) -> Iterator[datetime]:
    """When it looks: at the first update after the end of each step, which the next step follows. Updates go by the clock."""
    over = begun + step
    while (look := begun + every * math.ceil((over - begun) / every)) <= ended:
        yield look
        over = look + step


def lower_bound(
    canary: tuple[float, float], champion: tuple[float, float], *, alpha: float, tuning: float
) -> float:
    """The one-sided bound of the difference of two shares, each given as (events, trials); -inf without variance."""
    (x1, n1), (x0, n0) = canary, champion
    if min(n1, n0) < 2:
        return -math.inf
    p1, p0, n = x1 / n1, x0 / n0, n1 + n0
    variance = p1 * (1 - p1) / (n1 - 1) + p0 * (1 - p0) / (n0 - 1)
    if variance <= 0:
        return -math.inf
    rho2 = (-2 * math.log(2 * alpha) + math.log(-2 * math.log(2 * alpha) + 1)) / tuning
    grown = n * rho2 + 1
    half = math.sqrt(variance * n * 2 * grown / (n**2 * rho2) * math.log1p(math.sqrt(grown) / (2 * alpha)))
    return p1 - p0 - half


def _first_failing(series: Series, moments: list[datetime], alpha: float, tuning: float) -> _Failing | None:
    buckets = sorted(series.buckets)
    sums = np.cumsum([bucket[1:] for bucket in buckets], axis=0) if buckets else np.zeros((0, 4))
    ends = [bucket.at for bucket in buckets]
    place = 0
    for moment in moments:
        while place < len(ends) and ends[place] <= moment:
            place += 1
        if place == 0:
            continue
        n1, x1, n0, x0 = (float(value) for value in sums[place - 1])
        bound = lower_bound((x1, n1), (x0, n0), alpha=alpha, tuning=tuning)
        if bound > 0:
            return _Failing(moment, f"{series.name}: at least {100 * bound:.2g} percentage points worse")
    return None
