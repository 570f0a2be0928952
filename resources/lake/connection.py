"""The lake: DuckDB in memory, with the DuckLake catalogue attached as `lake`."""

import random
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from pipelines.errors import LakeError
from resources.lake.instance import instance
from resources.lake.location import Location
from resources.settings import Settings

T = TypeVar("T")

_ATTEMPTS = 12
_CONFLICTS = ("conflict", "database is locked", "could not serialize", "duplicate key", "deadlock")


@dataclass(frozen=True)
class Lake:
    """A lake by its configuration; holds no connection and no state, so it is cheap and safe to share."""

    catalog: str
    """`sqlite:<path>` or `postgres:<dsn>`."""
    data_path: str
    """A directory, or `s3://bucket/prefix`."""
    home: Path
    """Where DuckDB may put what it spills and installs: `<home>/duckdb`."""
    memory_limit: str = "1GB"
    threads: int = 2

    @classmethod
    def from_settings(cls, settings: Settings) -> "Lake":
        return cls(settings.lake_catalog, settings.lake_data, settings.home)

    @property
    def location(self) -> Location:
        return Location(self.catalog, self.data_path)

    @property
    def scratch(self) -> Path:
        """Where DuckDB spills, and where other files may lie for as long as they are read; there once connected."""
        return self.home / "duckdb"

    @contextmanager
    def connect(self) -> Generator[DuckDBPyConnection]:
        """A connection of its own (temporary tables included), closed at the end.

        Every statement outside `transaction` sees the lake as of its own start. DuckDB's errors come out as
        `LakeError` with the reason. The DuckDB instance behind it is shared by the process: opening one takes
        a quarter of a CPU second, a connection to it a millisecond.
        """
        with self._errors():
            connection = instance(
                self.location, self.scratch, memory_limit=self.memory_limit, threads=self.threads
            ).cursor()
            try:
                yield connection
            finally:
                connection.close()

    def transaction(
        self, work: Callable[[DuckDBPyConnection], T], connection: DuckDBPyConnection | None = None
    ) -> T:
        """Run `work` in one transaction and commit it; on a commit conflict, roll back and run it again.

        `work` must have no effects outside its transaction. Raises `LakeError` when it keeps losing;
        whatever `work` raises rolls back and comes out as it is.
        """
        if connection is None:
            with self.connect() as own:
                return self.transaction(work, own)
        with self._errors():
            for attempt in range(_ATTEMPTS):
                try:
                    return self._once(work, connection)
                except duckdb.Error as error:
                    if not _is_conflict(error):
                        raise
                    time.sleep(random.uniform(0, min(2.0, 0.02 * 2**attempt)))
            raise LakeError(f"the lake's catalogue refused the commit {_ATTEMPTS} times: too many writers")

    def _once(self, work: Callable[[DuckDBPyConnection], T], connection: DuckDBPyConnection) -> T:
        with self.location.writing():
            connection.begin()
            try:
                result = work(connection)
                connection.commit()
            except BaseException:
                # A commit that failed has already ended the transaction.
                with suppress(duckdb.TransactionException):
                    connection.rollback()
                raise
            return result

    @contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise LakeError(f"lake: {self.location.redact(_told(error))}") from error


_OF_VALUES = (duckdb.DataError, duckdb.IntegrityError, duckdb.InvalidInputException)
"""Errors whose text quotes the values that they are about, such as one that cannot be converted."""


def _told(error: duckdb.Error) -> str:
    kind = type(error).__name__
    return f"{kind}: a value does not fit; the log has it" if isinstance(error, _OF_VALUES) else str(error)


def _is_conflict(error: duckdb.Error) -> bool:
    message = str(error).lower()
    return any(sign in message for sign in _CONFLICTS)
