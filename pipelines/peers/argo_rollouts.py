"""Argo Rollouts' background analysis with the numbers of its documentation.

Argo Rollouts docs, "Analysis & Progressive Delivery", background analysis: success rate, `interval: 5m`,
`successCondition: result >= 0.95`, `failureLimit: 3`. The AnalysisTemplate's fields: more failed measurements than
`failureLimit` fail the analysis, and more than `consecutiveErrorLimit` (4) measurements in succession that could not
be made are an error; both abort the rollout. Failures need not follow one another.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from pipelines.peers.counters import Action, Series, windows

PEER = "Argo Rollouts"
RULE = "at least 95 % good answers every 5 minutes; abort when more than 3 measurements fail, or 5 in a row have no data"
SOURCE = "Argo Rollouts docs: Analysis & Progressive Delivery"


def argo_rollouts(
    series: Iterable[Series],
    *,
    begun: datetime,
    ended: datetime,
    interval: timedelta = timedelta(minutes=5),
    min_good_share: float = 0.95,
    failure_limit: int = 3,
    consecutive_error_limit: int = 4,
) -> Action:
    """When Argo Rollouts would have aborted: the earliest of its success-rate metrics."""
    errors = [s for s in series if s.kind == "errors"]
    if not errors:
        return _action(None, "its example has no measurement for these guardrails")
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
) -> Action:
    failed = blind = measured = 0
    for window in windows(series.buckets, begun=begun, ended=ended, every=interval):
        measured += 1
        if window.bad_share is None:
            blind += 1
            if blind > consecutive_error_limit:
                return _action(window.end, f"{blind} measurements in a row without data")
            continue
        blind = 0
        good = 1 - window.bad_share
        failed += good < min_good_share
        if failed > failure_limit:
            return _action(
                window.end, f"{failed} failed measurements, the last {100 * good:.1f} % good answers"
            )
    return _action(None, f"{failed} of {measured} measurements failed, {failure_limit} allowed")


def _action(at: datetime | None, reason: str) -> Action:
    return Action(peer=PEER, rule=RULE, source=SOURCE, at=at, reason=reason)
