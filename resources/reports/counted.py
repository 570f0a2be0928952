"""A rollout's counters as the report needs them: few enough to draw, exact enough to judge by."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pipelines.statistics.binomial import ConditionalBinomial, Counts
from resources.ledger import Ledger
from resources.reports.svg import Point

MOST_ROWS = 20_000
"""A rollout with more buckets is read by the minute."""


class Counted(NamedTuple):
    """Counts of both sides in the interval that ends at `at`, at one step."""

    at: datetime
    step: int
    counts: Counts


def counted(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    """The buckets of every metric in the order of time; merged by the minute where there are very many."""
    many = ledger.counters.count_buckets(rollout_id) > MOST_ROWS
    return _by_minute(ledger, rollout_id) if many else _all(ledger, rollout_id)


def evidence_path(buckets: Iterable[Counted]) -> list[Point]:
    """ln e-value of "the canary is no worse" after each bucket, small ones merged as the live watch does it."""
    process, path = ConditionalBinomial(), list[Point]()
    step: int | None = None
    for bucket in buckets:
        if step is not None and bucket.step != step:
            process = process.sealed()
        step, process = bucket.step, process.observe(bucket.counts)
        path.append(Point(bucket.at, process.log_e))
    return path


def total(buckets: Iterable[Counted]) -> Counts:
    """The counts of all buckets."""
    whole = Counts()
    for bucket in buckets:
        whole = whole.plus(bucket.counts)
    return whole


def _all(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    found: dict[str, list[Counted]] = {}
    for b in ledger.counters.buckets(rollout_id):
        counts = Counts(b.canary_trials, b.canary_events, b.champion_trials, b.champion_events)
        found.setdefault(b.metric, []).append(Counted(b.at, b.step, counts))
    return _frozen(found)


def _by_minute(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    found: dict[str, list[Counted]] = {}
    for m in ledger.counters.minutes(rollout_id):
        counts = Counts(m.canary_trials, m.canary_events, m.champion_trials, m.champion_events)
        found.setdefault(m.metric, []).append(Counted(m.minute, m.step, counts))
    return _frozen(found)


def _frozen(found: Mapping[str, list[Counted]]) -> dict[str, tuple[Counted, ...]]:
    return {metric: tuple(buckets) for metric, buckets in sorted(found.items())}
