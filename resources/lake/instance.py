"""DuckDB in memory with a DuckLake attached as `lake`: one instance per lake and process."""

import importlib
import os
from functools import lru_cache
from pathlib import Path

import duckdb
from duckdb import DuckDBPyConnection

from resources.lake.location import Location, s3_secret_statement

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
