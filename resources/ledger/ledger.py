"""The ledger: what happened in every rollout, whose turn it is to act on one, and whom to tell."""

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple, assert_never

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, and_, insert, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from pipelines.core.errors import LedgerError
from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.events import (
    ClockSet,
    Command,
    Decided,
    Done,
    End,
    Ended,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Lapsed,
    Refused,
    Started,
    dump,
    load,
)
from resources.files import lock
from resources.ledger.counters import CounterStore
from resources.ledger.database import ALERTS, DELIVERIES, EVENTS, ROLLOUTS, Database, in_a_hurry

log = logging.getLogger(__name__)

_POLL = 0.02

_IN_MEMORY: dict[str, threading.Lock] = defaultdict(threading.Lock)


@contextmanager
def exclusive(database: Database, name: str, *, wait: timedelta) -> Generator[bool]:
    """Hold the lock `name` for the block; yields False when it could not be had within `wait`.

    Raises LedgerError where there can be no lock (a full disk, a database that is away).

    Beside a SQLite file the locks are files (one machine); on Postgres they are advisory locks.
    """
    if database.url.get_backend_name() == "postgresql":
        with _advisory(database, name, wait) as held:
            yield held
    elif database.file is not None:
        with _in_file(database.file.with_name(database.file.name + ".locks"), name, wait) as held:
            yield held
    else:
        held = _IN_MEMORY[name].acquire(timeout=max(0.0, wait.total_seconds()))
        try:
            yield held
        finally:
            if held:
                _IN_MEMORY[name].release()


@contextmanager
def _in_file(folder: Path, name: str, wait: timedelta) -> Generator[bool]:
    path = folder / hashlib.sha256(name.encode()).hexdigest()[:16]
    with ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(lock(path, wait=wait, mode=0o600))
        except OSError as error:
            raise LedgerError(f"the lock {name!r} cannot be taken at {path}: {error.strerror}") from error
        yield held


@contextmanager
def _advisory(database: Database, name: str, wait: timedelta) -> Generator[bool]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    with database.reading() as plain:
        # Not inside a transaction: servers end those that idle, and the lock with them.
        connection = plain.execution_options(isolation_level="AUTOCOMMIT")
        held = _until(wait, lambda: _ask(connection, "pg_try_advisory_lock", key))
        try:
            yield held
        finally:
            if held:
                _release(connection, key)


def _release(connection: Connection, key: int) -> None:
    """A session that cannot unlock is ended, and its locks with it: what was done under the lock is done."""
    try:
        _ask(connection, "pg_advisory_unlock", key)
    except SQLAlchemyError as error:
        log.warning("a lock of the ledger ends with its session: %s", error)
        connection.invalidate()


def _ask(connection: Connection, function: str, key: int) -> bool:
    return bool(connection.execute(text(f"SELECT {function}(:key)"), {"key": key}).scalar())


def _until(wait: timedelta, attempt: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + wait.total_seconds()
    while not attempt():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


# Alerts that wait to be delivered. They are written in the transaction of the event that causes them.


_ALERT = TypeAdapter(Alert)


class Delivery(NamedTuple):
    """How far one alert got on one channel."""

    channel: str
    attempts: int
    next_at: datetime
    sent_at: datetime | None
    error: str | None


class Outbox:
    """The alerts of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, *alerts: Alert) -> None:
        """Queue alerts that no event causes; one with a known key is the same alert and is dropped."""
        with self._database.writing("alerts") as connection:
            self.add_within(connection, alerts)

    def add_within(self, connection: Connection, alerts: Iterable[Alert]) -> None:
        """Queue alerts in a transaction that is already open."""
        rows = ({"key": a.key, "at": a.at, "body": _ALERT.dump_json(a).decode()} for a in alerts)
        self._database.insert_new(connection, ALERTS, rows)

    def waiting(self, limit: int = 5000) -> tuple[Alert, ...]:
        """Alerts that some channel has not got yet, oldest first."""
        query = (
            select(ALERTS.c.key, ALERTS.c.at, ALERTS.c.body)
            .where(ALERTS.c.delivered_at.is_(None))
            .order_by(ALERTS.c.at, ALERTS.c.key)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return tuple(_alert(*row) for row in connection.execute(query))

    def all(self, limit: int = 1000) -> tuple[Alert, ...]:
        """The latest alerts, newest first."""
        columns = (ALERTS.c.key, ALERTS.c.at, ALERTS.c.body)
        query = select(*columns).order_by(ALERTS.c.at.desc(), ALERTS.c.key).limit(limit)
        with self._database.reading() as connection:
            return tuple(_alert(*row) for row in connection.execute(query))

    def deliveries(self, key: str) -> dict[str, Delivery]:
        """Attempts so far, by channel."""
        columns = (c for c in DELIVERIES.c if c.name != "key")
        query = select(*columns).where(DELIVERIES.c.key == key)
        with self._database.reading() as connection:
            return {row.channel: Delivery(*row) for row in connection.execute(query)}

    def sent(self, key: str, channel: str, at: datetime) -> None:
        """The channel took the alert."""
        self._attempt(key, channel, at, sent_at=at, error=None, wait=timedelta(0))

    def failed(self, key: str, channel: str, at: datetime, *, error: str, wait: timedelta) -> None:
        """The channel did not take it; it is tried again after `wait`."""
        self._attempt(key, channel, at, sent_at=None, error=error, wait=wait)

    def finished(self, key: str, at: datetime) -> None:
        """Every channel has the alert."""
        with self._database.writing("delivery") as connection:
            connection.execute(update(ALERTS).where(ALERTS.c.key == key).values(delivered_at=at))

    def _attempt(
        self,
        key: str,
        channel: str,
        at: datetime,
        *,
        sent_at: datetime | None,
        error: str | None,
        wait: timedelta,
    ) -> None:
        row = {"key": key, "channel": channel, "attempts": 0, "next_at": at}
        change = update(DELIVERIES).where(and_(DELIVERIES.c.key == key, DELIVERIES.c.channel == channel))
        with self._database.writing("delivery") as connection:
            self._database.insert_new(connection, DELIVERIES, [row])
            connection.execute(
                change.values(
                    attempts=DELIVERIES.c.attempts + 1, next_at=at + wait, sent_at=sent_at, error=error
                )
            )


def _alert(key: str, at: datetime, body: str) -> Alert:
    """One that cannot be read is told as what it is, and keeps no other from being told."""
    try:
        return _ALERT.validate_json(body)
    except ValidationError:
        return Alert(
            key=key,
            severity="critical",
            model="",
            version="",
            rollout_id="",
            title="an alert cannot be read: it is damaged, or was written by a newer version",
            body=body[:2000],
            at=at,
        )


# The ledger: an append-only table of rollout events, in SQLite or Postgres.


class RolloutRow(NamedTuple):
    """One line of the list of rollouts."""

    rollout_id: str
    model: str
    version: str
    started_at: datetime
    ended_at: datetime | None
    end: End | None


class Ledger:
    """Events, alerts and counters. `url` is `sqlite:///<file>` or `postgresql://...`.

    Everything raises LedgerError when the database cannot be reached; nothing is cached.
    """

    def __init__(self, url: str) -> None:
        self.database = Database(url)
        self.outbox = Outbox(self.database)
        self.counters = CounterStore(self.database)

    @staticmethod
    def in_a_hurry(*, patience: timedelta, pause: timedelta) -> AbstractContextManager[None]:
        """Of whoever has more to do than to wait for a ledger; see `resources.ledger.database.in_a_hurry`."""
        return in_a_hurry(patience=patience, pause=pause)

    def append(self, *events: Event, alerts: Iterable[Alert] = ()) -> None:
        """Write events and the alerts they cause, all or nothing.

        Raises LedgerConflict when a (rollout_id, seq) is taken, or when the model has an open rollout already.
        """
        what = ", ".join(f"{event.rollout_id} seq {event.seq}" for event in events)
        with self.database.writing(what) as connection:
            for event in events:
                connection.execute(insert(EVENTS).values(**_row(event)))
                _index(connection, event)
            self.outbox.add_within(connection, alerts)

    def events(self, rollout_id: str, *, since: int = 1) -> tuple[Event, ...]:
        """The rollout's events from seq `since` on; empty if there are none. Raises CorruptLedger."""
        query = (
            select(EVENTS.c.seq, EVENTS.c.body)
            .where(EVENTS.c.rollout_id == rollout_id, EVENTS.c.seq >= since)
            .order_by(EVENTS.c.seq)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return tuple(load(body, rollout_id=rollout_id, seq=seq) for seq, body in rows)

    def rollouts(self, model: str | None = None, *, open_only: bool = False) -> tuple[RolloutRow, ...]:
        """Rollouts, oldest first; works even where a rollout's events are damaged."""
        query = select(*(c for c in ROLLOUTS.c if c.name != "open_model"))
        if model is not None:
            query = query.where(ROLLOUTS.c.model == model)
        if open_only:
            query = query.where(ROLLOUTS.c.open_model.is_not(None))
        query = query.order_by(ROLLOUTS.c.started_at, ROLLOUTS.c.rollout_id)
        with self.database.reading() as connection:
            rows = [RolloutRow(*row) for row in connection.execute(query)]
        return tuple(row._replace(end=End(row.end) if row.end else None) for row in rows)

    def latest(self, model: str) -> RolloutRow | None:
        """The model's most recent rollout: the open one if there is one."""
        rows = self.rollouts(model)
        still_open = [row for row in rows if row.ended_at is None]
        return (still_open or list(rows) or [None])[-1]

    def exclusive(self, name: str, *, wait: timedelta) -> AbstractContextManager[bool]:
        """A short section that one process at a time is in; gives False when `wait` was not enough."""
        return exclusive(self.database, name, wait=wait)

    def close(self) -> None:
        """Give back every connection."""
        self.database.close()


def _row(event: Event) -> dict[str, object]:
    return {
        "rollout_id": event.rollout_id,
        "seq": event.seq,
        "kind": event.kind,
        "at": event.at,
        "by_whom": event.by,
        "body": dump(event),
    }


def _index(connection: Connection, event: Event) -> None:
    match event:
        case Started():
            row = _opened(event) | {"open_model": event.model}
            connection.execute(insert(ROLLOUTS).values(**row))
        case Refused():
            row = _opened(event) | {"ended_at": event.at, "end_kind": End.REFUSED}
            connection.execute(insert(ROLLOUTS).values(**row))
        case Ended():
            ended = {"ended_at": event.at, "end_kind": event.end, "open_model": None}
            change = update(ROLLOUTS).where(ROLLOUTS.c.rollout_id == event.rollout_id)
            connection.execute(change.values(**ended))
        case (
            EvidenceRecorded() | Intent() | Done() | Failed() | Decided() | Command() | Lapsed() | ClockSet()
        ):
            pass  # the index has nothing of these
        case _:
            assert_never(event)


def _opened(event: Started | Refused) -> dict[str, object]:
    return {
        "rollout_id": event.rollout_id,
        "model": event.model,
        "version": event.version,
        "started_at": event.at,
    }
