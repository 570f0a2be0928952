"""The ledger: an append-only table of rollout events, in SQLite or Postgres."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import NamedTuple, assert_never

from sqlalchemy import Connection, insert, select, update

from pipelines.rollout.alerts import Alert
from pipelines.rollout.decision import End
from pipelines.rollout.events import (
    ChampionHealth,
    Command,
    Decided,
    Done,
    Ended,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Refused,
    Started,
    dump,
    load,
)
from resources.ledger.counters import CounterStore
from resources.ledger.database import Database
from resources.ledger.locks import exclusive
from resources.ledger.outbox import Outbox
from resources.ledger.tables import EVENTS, ROLLOUTS


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
        case EvidenceRecorded() | Intent() | Done() | Failed() | Decided() | Command() | ChampionHealth():
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
