"""The ledger's tables. Times are fixed-width ISO text in UTC, so that they sort and read the same everywhere."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, Column, Dialect, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

METADATA = MetaData()


class UtcText(TypeDecorator[datetime]):
    """A timezone-aware datetime as `2026-01-01T00:00:00.000000Z`."""

    impl = String(27)
    cache_ok = True
    _FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else value.astimezone(UTC).strftime(self._FORMAT)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.strptime(value, self._FORMAT).replace(tzinfo=UTC)


EVENTS = Table(
    "events",
    METADATA,
    Column("rollout_id", String(200), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(40), nullable=False),
    Column("at", UtcText, nullable=False),
    Column("by_whom", String(200), nullable=False),
    Column("body", Text, nullable=False),
)

# An index over `events` that can be asked even where a rollout's events do not fold.
ROLLOUTS = Table(
    "rollouts",
    METADATA,
    Column("rollout_id", String(200), primary_key=True),
    Column("model", String(100), nullable=False),
    Column("version", String(60), nullable=False),
    Column("started_at", UtcText, nullable=False),
    Column("ended_at", UtcText),
    Column("end_kind", String(20)),
    # The model while the rollout is open, then NULL: one open rollout per model.
    Column("open_model", String(100), unique=True),
    Index("rollouts_by_model", "model", "started_at"),
)

ALERTS = Table(
    "alerts",
    METADATA,
    Column("key", String(300), primary_key=True),
    Column("at", UtcText, nullable=False),
    Column("body", Text, nullable=False),
    Column("delivered_at", UtcText),
    Index("alerts_waiting", "delivered_at", "at"),
)

DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("key", String(300), primary_key=True),
    Column("channel", String(200), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcText, nullable=False),
    Column("sent_at", UtcText),
    Column("error", Text),
)

COUNTER_BUCKETS = Table(
    "counter_buckets",
    METADATA,
    Column("rollout_id", String(200), primary_key=True),
    Column("metric", String(100), primary_key=True),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String(200), primary_key=True),
    Column("at", UtcText, primary_key=True),
    Column("canary_trials", Float, nullable=False),
    Column("canary_events", Float, nullable=False),
    Column("champion_trials", Float, nullable=False),
    Column("champion_events", Float, nullable=False),
)

SEEN = Table(
    "seen",
    METADATA,
    Column("key", String(300), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("value", Text, nullable=False),
)

LOOKS = Table(
    "looks",
    METADATA,
    Column("rollout_id", String(200), primary_key=True),
    Column("name", String(100), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcText, nullable=False),
    Column("body", Text, nullable=False),
)

SCHEMA = Table("ledger_schema", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))
