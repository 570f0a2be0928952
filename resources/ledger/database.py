"""The ledger's tables, on SQLite or Postgres."""

import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Dialect,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.types import TypeDecorator

from pipelines.core.errors import LedgerConflict, LedgerError
from resources.settings import shown

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

# One database, SQLite or Postgres: connections, transactions, schema.


SCHEMA_VERSION = 1

BUSY_TIMEOUT_MS = 10_000

_SCHEMA_LOCK = 7_261_746_301
"""Postgres advisory lock held while the schema is created."""


@dataclass
class _Hurry:
    patience: timedelta
    pause: timedelta
    again_at: dict[str, float] = field(default_factory=dict[str, float])
    """For `read` and `write`: not before."""


_HURRY: ContextVar[_Hurry | None] = ContextVar("hurry", default=None)


@contextmanager
def in_a_hurry(*, patience: timedelta, pause: timedelta) -> Generator[None]:
    """Of whoever has more to do than to wait for a database: holds for what this thread does in the block.

    A write waits for other writers no longer than `patience`, be they frozen with the lock in their hands. After a read
    that could not be done no read is tried for `pause`, after a write no write: LedgerError is raised at once.
    """
    token = _HURRY.set(_Hurry(patience, pause))
    try:
        yield
    finally:
        _HURRY.reset(token)


def _lock_ms() -> int:
    """How long a write waits for other writers."""
    hurry = _HURRY.get()
    return BUSY_TIMEOUT_MS if hurry is None else round(hurry.patience / timedelta(milliseconds=1))


class Database:
    """Opens on first use, so that a program can start, and roll back, while the database is away."""

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
        except (ArgumentError, ValueError):
            # Without its cause, whose text may quote what was to be a password, and runs keep that.
            raise LedgerError(
                "ledger URL cannot be read, must be like sqlite:////path or postgresql://user:password@host:5432/name"
            ) from None
        if self.url.get_backend_name() not in ("sqlite", "postgresql"):
            raise LedgerError(
                f"ledger URL is for {self.url.get_backend_name()!r}, expected sqlite or postgresql"
            )
        if self.url.drivername == "postgresql":
            self.url = self.url.set(drivername="postgresql+psycopg")
        self._engine: Engine | None = None

    @property
    def file(self) -> Path | None:
        """The SQLite file; None for Postgres and for a database in memory."""
        database = self.url.database
        if self.url.get_backend_name() != "sqlite" or not database or ":memory:" in database:
            return None
        return Path(database)

    @property
    def place(self) -> str:
        """The URL without its secrets, for messages."""
        return shown(self.url.render_as_string(hide_password=True))

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """A connection for reads. Raises LedgerError."""
        with self._errors("read", "read"), self._open().connect() as connection:
            yield connection

    @contextmanager
    def writing(self, what: str) -> Generator[Connection]:
        """One transaction, all or nothing. Raises LedgerError; LedgerConflict where a key is taken."""
        with self._errors("write", f"write {what}"), self._open().connect() as connection:
            connection = connection.execution_options(rampgate_write=True)
            with connection.begin():
                if _HURRY.get() is not None and self.url.get_backend_name() == "postgresql":
                    connection.execute(text(f"SET LOCAL lock_timeout = {_lock_ms()}"))
                yield connection

    def insert_new(self, connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
        """Insert the rows whose primary key is not there yet."""
        dialect = postgresql if self.url.get_backend_name() == "postgresql" else sqlite
        for row in rows:
            connection.execute(dialect.insert(table).values(**row).on_conflict_do_nothing())

    def close(self) -> None:
        """Give back every connection."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def _errors(self, kind: str, doing: str) -> Generator[None]:
        hurry = _HURRY.get()
        left = 0.0 if hurry is None else hurry.again_at.get(kind, 0.0) - time.monotonic()
        if left > 0:
            raise LedgerError(f"cannot {doing} at {self.place}: not tried again for {left:.1f} s")
        try:
            yield
        except IntegrityError as error:
            raise LedgerConflict(f"{doing}: somebody else was first ({error.orig})") from error
        except (SQLAlchemyError, sqlite3.Error, NoSuchModuleError, ImportError, OSError) as error:
            if hurry is not None:
                hurry.again_at[kind] = time.monotonic() + hurry.pause.total_seconds()
            cause = getattr(error, "orig", None) or error
            raise LedgerError(f"cannot {doing} at {self.place}: {cause}") from error

    def _open(self) -> Engine:
        if self._engine is None:
            engine = _engine(self)
            with ExitStack() as unless_it_works:
                unless_it_works.callback(engine.dispose)
                _create_schema(engine)
                unless_it_works.pop_all()
            self._engine = engine
        return self._engine


def _engine(database: Database) -> Engine:
    if database.url.get_backend_name() == "postgresql":
        return create_engine(database.url, pool_pre_ping=True, connect_args={"connect_timeout": 3})
    if database.file is None:
        engine = create_engine(database.url, poolclass=StaticPool, connect_args={"check_same_thread": False})
    else:
        database.file.parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(database.url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, record: Any) -> None:
    """Take transactions out of the driver's hands; see SQLAlchemy's notes on SQLite transactions."""
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    """Writers queue at BEGIN: a read that turns into a write would fail at once when another got in between."""
    writes = connection.get_execution_options().get("rampgate_write", False)
    if writes:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={_lock_ms()}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _create_schema(engine: Engine) -> None:
    """Create what is missing; several processes may do so at once."""
    with engine.connect() as plain:
        connection = plain.execution_options(rampgate_write=True)
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
            connection.execute(CreateTable(SCHEMA, if_not_exists=True))
            version = connection.execute(select(SCHEMA.c.version)).scalar()
            if version is None:
                _create_tables(connection)
                connection.execute(insert(SCHEMA).values(version=SCHEMA_VERSION))
            elif version > SCHEMA_VERSION:
                raise LedgerError(
                    f"the ledger has schema {version}, this program knows up to {SCHEMA_VERSION}: update it"
                )


def _create_tables(connection: Connection) -> None:
    for table in METADATA.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connection.execute(CreateIndex(index, if_not_exists=True))
