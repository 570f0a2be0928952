"""Counts per interval that guardrails are computed from, and how far the counters were read.

A watcher reads cumulative counters, writes the difference as a bucket and what it has seen in one transaction;
one that is started again resumes from there, and of two at once one gets a LedgerConflict.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, String, func, insert, select, type_coerce, update

from pipelines.core.errors import LedgerConflict
from resources.ledger.database import COUNTER_BUCKETS, LOOKS, SEEN, Database

_MINUTE_LENGTH = 16
"""Characters of `2026-01-01T00:00`, the minute of the ledger's times."""


@dataclass(frozen=True, kw_only=True)
class CounterBucket:
    """One metric's trials and events of both sides in the interval that ends at `at`."""

    rollout_id: str
    epoch: str
    at: datetime
    step: int
    metric: str
    canary_trials: float
    canary_events: float
    champion_trials: float
    champion_events: float


class SeenCounters(NamedTuple):
    """The last cumulative counters read; `revision` is what the next write must name."""

    revision: int
    value: str


class StoredLook(NamedTuple):
    """One planned look at an experiment, with its inputs and results as JSON."""

    number: int
    at: datetime
    body: str


class MinuteOfCounts(NamedTuple):
    """The buckets of one metric at one step that end within one minute, added up."""

    metric: str
    minute: datetime
    """Its end."""
    step: int
    canary_trials: float
    canary_events: float
    champion_trials: float
    champion_events: float


class CounterStore:
    """Buckets, watermarks and looks of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(
        self, buckets: Iterable[CounterBucket], *, key: str, value: str, after: SeenCounters | None
    ) -> SeenCounters:
        """Add buckets and move the watermark `key` from `after` to `value`. Raises LedgerConflict."""
        with self._database.writing(f"counters {key}") as connection:
            moved = _move(connection, key, value, after)
            rows = [asdict(bucket) for bucket in buckets]
            if rows:
                connection.execute(insert(COUNTER_BUCKETS), rows)
        return moved

    def seen(self, key: str) -> SeenCounters | None:
        """The watermark; None before the first."""
        query = select(SEEN.c.revision, SEEN.c.value).where(SEEN.c.key == key)
        with self._database.reading() as connection:
            row = connection.execute(query).first()
        return None if row is None else SeenCounters(*row)

    def buckets(self, rollout_id: str) -> tuple[CounterBucket, ...]:
        """All buckets of a rollout in the order of time."""
        query = select(COUNTER_BUCKETS).where(COUNTER_BUCKETS.c.rollout_id == rollout_id)
        query = query.order_by(COUNTER_BUCKETS.c.at, COUNTER_BUCKETS.c.step, COUNTER_BUCKETS.c.metric)
        with self._database.reading() as connection:
            return tuple(CounterBucket(**row) for row in connection.execute(query).mappings())

    def count_buckets(self, rollout_id: str) -> int:
        """How many buckets a rollout has."""
        mine = COUNTER_BUCKETS.c.rollout_id == rollout_id
        with self._database.reading() as connection:
            return connection.execute(
                select(func.count()).select_from(COUNTER_BUCKETS).where(mine)
            ).scalar_one()

    def minutes(self, rollout_id: str) -> tuple[MinuteOfCounts, ...]:
        """The buckets of a rollout added up by the minute, each metric's in the order of time."""
        rows = COUNTER_BUCKETS.c
        minute = func.substr(type_coerce(rows.at, String), 1, _MINUTE_LENGTH)
        sums = (rows.canary_trials, rows.canary_events, rows.champion_trials, rows.champion_events)
        query = (
            select(rows.metric, minute, rows.step, *(func.sum(column) for column in sums))
            .where(rows.rollout_id == rollout_id)
            .group_by(rows.metric, minute, rows.step)
            .order_by(rows.metric, minute, rows.step)
        )
        with self._database.reading() as connection:
            lines: list[Any] = [tuple(row) for row in connection.execute(query)]
        return tuple(MinuteOfCounts(line[0], _end_of(line[1]), *line[2:]) for line in lines)

    def look_numbers(self, rollout_id: str, name: str) -> list[int]:
        """The numbers of the looks so far, in order."""
        query = select(LOOKS.c.number).where(LOOKS.c.rollout_id == rollout_id, LOOKS.c.name == name)
        with self._database.reading() as connection:
            return sorted(connection.execute(query).scalars())

    def add_look(self, rollout_id: str, name: str, look: StoredLook) -> None:
        """Keep a look for good. Raises LedgerConflict where that number is taken."""
        row = {"rollout_id": rollout_id, "name": name, **look._asdict()}
        with self._database.writing(f"look {look.number} at {name}") as connection:
            connection.execute(insert(LOOKS).values(**row))

    def looks(
        self, rollout_id: str, name: str, numbers: Collection[int] | None = None
    ) -> tuple[StoredLook, ...]:
        """Looks so far, in order; with `numbers` those alone."""
        query = (
            select(LOOKS.c.number, LOOKS.c.at, LOOKS.c.body)
            .where(LOOKS.c.rollout_id == rollout_id, LOOKS.c.name == name)
            .order_by(LOOKS.c.number)
        )
        if numbers is not None:
            query = query.where(LOOKS.c.number.in_(numbers))
        with self._database.reading() as connection:
            return tuple(StoredLook(*row) for row in connection.execute(query))


def _move(connection: Connection, key: str, value: str, after: SeenCounters | None) -> SeenCounters:
    if after is None:
        connection.execute(insert(SEEN).values(key=key, revision=1, value=value))
        return SeenCounters(1, value)
    change = update(SEEN).where(SEEN.c.key == key, SEEN.c.revision == after.revision)
    result = connection.execute(change.values(revision=after.revision + 1, value=value))
    if result.rowcount != 1:
        raise LedgerConflict(f"counters {key}: another watcher has moved on from revision {after.revision}")
    return SeenCounters(after.revision + 1, value)


def _end_of(minute: str) -> datetime:
    return datetime.strptime(minute, "%Y-%m-%dT%H:%M").replace(tzinfo=UTC) + timedelta(minutes=1)
