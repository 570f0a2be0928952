"""Short exclusive sections between processes, released by the system when their holder dies."""

import hashlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from pipelines.errors import LedgerError
from resources.files import lock
from resources.ledger.database import Database

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
