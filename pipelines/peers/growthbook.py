"""GrowthBook's safe rollouts with the numbers of its documentation and of its statistics engine.

GrowthBook docs, "Safe Rollouts": each guardrail is tested one-sided and sequentially; the rollout fails as soon as
the bound of the absolute difference passes zero, whatever the size of the harm; guardrails are not corrected for
their number. The bound is the one-sided asymptotic confidence sequence of Waudby-Smith et al. (arXiv 2103.06476,
equation 134) at 0.05 with the engine's tuning parameter of 5,000; the counts of all ramp steps are pooled. Results are
updated every 6 hours unless the organisation says otherwise ("Environment variables": EXPERIMENT_REFRESH_FREQUENCY).
"""

import math
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from pipelines.peers.counters import Action, Series

PEER = "GrowthBook"
RULE = "every 6 hours, each guardrail on its own: back when the one-sided sequential bound at 5 % passes zero"
SOURCE = "GrowthBook docs: Safe Rollouts; its statistics engine's sequential tests"


class _Failing(NamedTuple):
    at: datetime
    reason: str


def growthbook(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    every: timedelta = timedelta(hours=6),
    alpha: float = 0.05,
    tuning: float = 5000.0,
) -> Action:
    """When GrowthBook would have rolled back: the first update at which any guardrail's bound passes zero."""
    updates = math.floor((ended - begun) / every)
    if updates < 1:
        return _action(None, f"its first update comes after {_hours(every)} h, these counters end before")
    moments = [begun + every * k for k in range(1, updates + 1)]
    failing = [f for s in series if (f := _first_failing(s, moments, alpha, tuning)) is not None]
    if not failing:
        return _action(None, f"no guardrail failed in {updates} updates")
    first = min(failing)
    return _action(first.at, first.reason)


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


def _hours(every: timedelta) -> str:
    return f"{every / timedelta(hours=1):g}"


def _action(at: datetime | None, reason: str) -> Action:
    return Action(peer=PEER, rule=RULE, source=SOURCE, at=at, reason=reason)
