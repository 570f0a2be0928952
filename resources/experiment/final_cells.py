"""Which buckets may enter a look: those that nothing can change any more, each at one look only.

A bucket is final once its end and the metric's outcome window have passed by the watermark. What enters a
look is stored with it; the next look adds what became final since. So no look is ever recomputed on revised
data, and late data can only reach buckets that no look has seen.
"""

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pipelines.rollout.state import RolloutState
from pipelines.statistics.sums import Cell, Sums
from resources.lake.experiment import ExperimentQuery
from resources.ledger import CounterBucket

_BUCKETS = 1000
"""About so many in the longest rollout: what a look costs at the end."""


class Span(NamedTuple):
    """What became final between two looks."""

    after: datetime | None
    """The watermark of the previous look; None: everything that is final is new."""
    watermark: datetime


def bucket_width(state: RolloutState) -> timedelta:
    """Whole seconds, from one to an hour; the same at every look of the rollout."""
    wanted = math.ceil(state.policy.max_duration / timedelta(seconds=1) / _BUCKETS)
    return timedelta(seconds=min(max(wanted, 1), 3600))


def open_since(query: ExperimentQuery, spans: dict[str, Span]) -> datetime | None:
    """Buckets that start before this are not new in any metric; None where any bucket may be."""
    found: list[datetime] = []
    for metric in query.metrics:
        after = spans[metric.name].after
        if after is None:
            return None
        found.append(after - query.window_of(metric) - query.bucket)
    return min(found, default=None)


def newly_final(cells: Iterable[Cell], query: ExperimentQuery, spans: dict[str, Span]) -> list[Cell]:
    """The lake's cells that became final in their metric's span."""
    windows = {metric.name: query.window_of(metric) for metric in query.metrics}
    ends = {step.step: step.end for step in query.steps}
    open_step = max(ends)
    found: list[Cell] = []
    for cell in cells:
        end = datetime.fromtimestamp(cell.bucket, UTC) + query.bucket
        if cell.step != open_step:
            end = min(end, ends[cell.step])
        if _is_new(end + windows[cell.metric], spans[cell.metric]):
            found.append(cell)
    return found


def served_cells(buckets: Sequence[CounterBucket], width: timedelta, spans: dict[str, Span]) -> list[Cell]:
    """The live counters in buckets of `width`; a trial is a unit, an event is 1."""
    sums: dict[tuple[str, int, float], tuple[Sums, Sums]] = {}
    seconds = width.total_seconds()
    for bucket in buckets:
        if bucket.metric not in spans:
            continue
        start = math.floor(bucket.at.timestamp() / seconds) * seconds
        if not _is_new(datetime.fromtimestamp(start, UTC) + width, spans[bucket.metric]):
            continue
        place = (bucket.metric, bucket.step, start)
        champion, challenger = sums.get(place, (Sums(), Sums()))
        sums[place] = (
            champion.plus(_sums(bucket.champion_trials, bucket.champion_events)),
            challenger.plus(_sums(bucket.canary_trials, bucket.canary_events)),
        )
    return [Cell(*place, champion, challenger) for place, (champion, challenger) in sorted(sums.items())]


def _is_new(final_at: datetime, span: Span) -> bool:
    return final_at <= span.watermark and (span.after is None or final_at > span.after)


def _sums(trials: float, events: float) -> Sums:
    return Sums(n=trials, sy=events, syy=events, sd=trials, sdd=trials, syd=events)
