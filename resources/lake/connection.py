"""Where the lake is, and how to read and write it: DuckDB with DuckLake, one writer at a time."""

import importlib
import os
import random
import re
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import duckdb
from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError
from resources.lake.writer_lock import postgres_writer_lock, writer_lock
from resources.registry.signature import LONGEST_NAME
from resources.settings import Settings, shown


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier. Raises `LakeError` for one that is empty, too long or unprintable."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise LakeError(f"name {name!r}: must be 1 to {LONGEST_NAME} printable characters")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as a quoted SQL string, for statements that take no parameters (ATTACH, CREATE SECRET)."""
    if "\0" in text:
        raise LakeError("a text for the lake contains a NUL byte")
    return "'" + text.replace("'", "''") + "'"


def table(model: str, name: str) -> str:
    """The fully qualified name of one of a model's tables."""
    return f"lake.{identifier(model)}.{identifier(name)}"


def mentioned(statement: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `parameters` that `statement` uses: DuckDB refuses any other."""
    names = set(re.findall(r"\$([a-z_]\w*)", statement))
    return {name: value for name, value in parameters.items() if name in names}


# Where a lake is: its catalogue and its data, as DuckDB wants to hear it.


_SQLITE = "sqlite:"

_POSTGRES = "postgres:"

_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True)
class Location:
    """A catalogue (`sqlite:<path>` or `postgres:<dsn>`) and the place of the Parquet files (path or `s3://`)."""

    catalog: str
    data_path: str

    def __post_init__(self) -> None:
        if not self.catalog.startswith((_SQLITE, _POSTGRES)):
            kind = self.catalog.partition(":")[0]
            raise LakeError(f"lake catalogue of kind {kind!r}, must be sqlite:<path> or postgres:<dsn>")

    @property
    def sqlite_file(self) -> Path | None:
        """The catalogue's file, if it is one."""
        return Path(self.catalog.removeprefix(_SQLITE)) if self.catalog.startswith(_SQLITE) else None

    def writing(self) -> AbstractContextManager[None]:
        """Waits until no other writer is at work, and keeps others waiting."""
        if self.sqlite_file is None:
            return postgres_writer_lock(self.catalog.removeprefix(_POSTGRES), timeout=_PATIENCE_SECONDS)
        return writer_lock(Path(f"{self.sqlite_file}.writer"), timeout=_PATIENCE_SECONDS)

    @property
    def on_s3(self) -> bool:
        return self.data_path.startswith("s3://")

    @property
    def extensions(self) -> tuple[str, ...]:
        """The DuckDB extensions that this lake needs, in load order."""
        catalog = "sqlite_scanner" if self.sqlite_file else "postgres_scanner"
        return ("ducklake", catalog, "httpfs") if self.on_s3 else ("ducklake", catalog)

    def prepare(self) -> None:
        """Create the local directories, and an empty catalogue (which is a valid SQLite database)."""
        if self.sqlite_file is not None:
            self.sqlite_file.parent.mkdir(parents=True, exist_ok=True)
            self.sqlite_file.touch()
        if not self.on_s3:
            Path(self.data_path).mkdir(parents=True, exist_ok=True)

    def attach_statement(self) -> str:
        """ATTACH ... AS lake.

        Data inlining stays off: with a SQLite catalogue it is slower than small Parquet files, and text inside
        structs loses its apostrophes (DuckLake 1.5.5).
        """
        options = [f"DATA_PATH {literal(self.data_path)}", "DATA_INLINING_ROW_LIMIT 0"]
        if self.sqlite_file is not None:
            options += ["META_JOURNAL_MODE 'WAL'", "META_BUSY_TIMEOUT 30000"]
        return f"ATTACH {literal('ducklake:' + self.catalog)} AS lake ({', '.join(options)})"

    def redact(self, message: str) -> str:
        """`message` without the catalogue's DSN, which may hold a password, in whichever way it is quoted."""
        if self.sqlite_file is not None:
            return message
        dsn = self.catalog.removeprefix(_POSTGRES)
        return shown(message.replace(dsn, "<dsn>") if dsn else message)


def s3_secret_statement(env: Mapping[str, str] | None = None) -> str:
    """CREATE SECRET from the usual `AWS_*` variables (AWS_ENDPOINT_URL for anything but Amazon)."""
    env = os.environ if env is None else env
    settings = {
        "KEY_ID": env.get("AWS_ACCESS_KEY_ID"),
        "SECRET": env.get("AWS_SECRET_ACCESS_KEY"),
        "SESSION_TOKEN": env.get("AWS_SESSION_TOKEN"),
        "REGION": env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION"),
    }
    parts = ["TYPE s3", *(f"{key} {literal(value)}" for key, value in settings.items() if value)]
    endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
    if endpoint:
        url = urlsplit(endpoint)
        use_ssl = "true" if url.scheme == "https" else "false"
        parts += [f"ENDPOINT {literal(url.netloc)}", "URL_STYLE 'path'", f"USE_SSL {use_ssl}"]
    return f"CREATE OR REPLACE SECRET lake_data ({', '.join(parts)})"


# DuckDB in memory with a DuckLake attached as `lake`: one instance per lake and process.


_LAKES = 2
"""A process works on one lake; tests and migrations may look at a second."""

_PINS: dict[int, int] = {}
"""Number of a catalogue's file -> descriptor that keeps it."""


def instance(location: Location, scratch: Path, *, memory_limit: str, threads: int) -> DuckDBPyConnection:
    """The instance of this process; call `.cursor()` on it, never anything else.

    DuckDB installs nothing and spills into `scratch`. A catalogue file that was replaced, and a process that was
    forked, get an instance of their own.
    """
    location.prepare()
    scratch.mkdir(parents=True, exist_ok=True)
    identity = 0 if location.sqlite_file is None else _pinned(location.sqlite_file)
    return _cached(location, scratch, memory_limit, threads, os.getpid(), identity)


def _pinned(catalogue: Path) -> int:
    """The file's number, which no other file gets while it is pinned: a file system gives free numbers again at once.

    `O_PATH` opens no contents, and closing it releases none of SQLite's locks; without it (macOS) numbers are not
    given again.
    """
    number = catalogue.stat().st_ino
    if number not in _PINS and hasattr(os, "O_PATH"):
        while len(_PINS) >= _LAKES:
            os.close(_PINS.pop(next(iter(_PINS))))
        _PINS[number] = os.open(catalogue, os.O_PATH)
    return number


def _open(
    location: Location, scratch: Path, memory_limit: str, threads: int, _process: int, _identity: int
) -> DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "extension_directory": str(scratch / "extensions"),
            "temp_directory": str(scratch / "spill"),
            "autoinstall_known_extensions": False,
            "memory_limit": memory_limit,
            "threads": threads,
        },
    )
    try:
        for name in location.extensions:
            connection.load_extension(str(_extension_file(name)))
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        if location.on_s3:
            connection.execute(s3_secret_statement())
        with location.writing():  # the first to attach creates the catalogue's tables
            connection.execute(location.attach_statement())
    except BaseException:
        connection.close()
        raise
    return connection


_cached = lru_cache(maxsize=_LAKES)(_open)


def _extension_file(name: str) -> Path:
    """The extension inside its wheel; loading it from there needs no network and no installation."""
    module = importlib.import_module(f"duckdb_extension_{name}")
    return Path(module.__path__[0]) / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"


# The lake: DuckDB in memory, with the DuckLake catalogue attached as `lake`.


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
