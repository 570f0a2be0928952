"""Alerts that wait to be delivered. They are written in the transaction of the event that causes them."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, and_, select, update

from pipelines.rollout.alerts import Alert
from resources.ledger.database import Database
from resources.ledger.tables import ALERTS, DELIVERIES

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
