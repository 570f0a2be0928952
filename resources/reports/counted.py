"""A rollout's counters as the report needs them: few enough to draw, exact enough to judge by."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import String, func, select, type_coerce

from pipelines.statistics.binomial import ConditionalBinomial, Counts
from resources.ledger import Ledger
from resources.ledger.tables import COUNTER_BUCKETS
from resources.reports.svg import Point

MOST_ROWS = 20_000
"""A rollout with more buckets is read by the minute."""
_MINUTE_LENGTH = 16
"""Characters of `2026-01-01T00:00`, the minute of the ledger's times."""


class Counted(NamedTuple):
    """Counts of both sides in the interval that ends at `at`, at one step."""

    at: datetime
    step: int
    counts: Counts


def counted(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    """The buckets of every metric in the order of time; merged by the minute where there are very many."""
    rows = COUNTER_BUCKETS.c
    mine = rows.rollout_id == rollout_id
    with ledger.database.reading() as connection:
        total = connection.execute(select(func.count()).select_from(COUNTER_BUCKETS).where(mine)).scalar_one()
    return _by_minute(ledger, rollout_id) if total > MOST_ROWS else _all(ledger, rollout_id)


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
    rows = COUNTER_BUCKETS.c
    minute = func.substr(type_coerce(rows.at, String), 1, _MINUTE_LENGTH)
    sums = (rows.canary_trials, rows.canary_events, rows.champion_trials, rows.champion_events)
    query = (
        select(rows.metric, minute, rows.step, *(func.sum(column) for column in sums))
        .where(rows.rollout_id == rollout_id)
        .group_by(rows.metric, minute, rows.step)
        .order_by(rows.metric, minute, rows.step)
    )
    with ledger.database.reading() as connection:
        lines: list[tuple[Any, ...]] = [tuple(row) for row in connection.execute(query)]
    return {
        metric: tuple(Counted(_end_of(line[1]), line[2], Counts(*line[3:])) for line in group)
        for metric, group in groupby(lines, key=lambda line: line[0])
    }


def _end_of(minute: str) -> datetime:
    return datetime.strptime(minute, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC) + timedelta(minutes=1)


def _frozen(found: Mapping[str, list[Counted]]) -> dict[str, tuple[Counted, ...]]:
    return {metric: tuple(buckets) for metric, buckets in sorted(found.items())}
