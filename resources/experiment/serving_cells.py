"""The serving side's counters as cells: the same analysis for what the gateway counts and what the lake holds."""

from collections.abc import Iterable

from pipelines.statistics.sums import Cell, Sums
from resources.ledger import CounterBucket


def serving_cells(buckets: Iterable[CounterBucket], metrics: Iterable[str]) -> list[Cell]:
    """One cell per counter bucket of the named metrics; a trial is a unit, an event is 1."""
    wanted = set(metrics)
    return [
        Cell(
            metric=bucket.metric,
            step=bucket.step,
            bucket=bucket.at.timestamp(),
            champion=_sums(bucket.champion_trials, bucket.champion_events),
            challenger=_sums(bucket.canary_trials, bucket.canary_events),
        )
        for bucket in buckets
        if bucket.metric in wanted and bucket.step >= 0
    ]


def _sums(trials: float, events: float) -> Sums:
    return Sums(n=trials, sy=events, syy=events, sd=trials, sdd=trials, syd=events)
