"""Up to when the lake holds everything that was answered: what an analysis may take as complete.

Counting what is half loaded makes a healthy split look broken, because writers do not close their segments at the
same moment, least of all on a machine that is short of time.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from resources.files import write_whole
from resources.lake import segments
from resources.lake.connection import Lake
from resources.lake.ingest import SOURCE
from resources.lake.names import table
from resources.lake.schema import exists

_MARK = ".ingested"
_LATENCY_WINDOW = timedelta(minutes=2)


def mark_ingested(directory: Path, started: datetime) -> None:
    """Keep when the ingestion that has just ended began: what was closed before is in the lake."""
    if not directory.is_dir():
        return
    write_whole(directory / _MARK, started.isoformat())


def complete_until(lake: Lake, model: str, *, predictions: Path, outcomes: Path, now: datetime) -> datetime:
    """No segment that is still to be loaded begins before this. An event may be older than its segment by its latency.

    Args:
        predictions, outcomes: the directories that are ingested.
        now: the answer where nothing is waiting.
    """
    marks = [mark for mark in map(ingested_until, (predictions, outcomes)) if mark is not None]
    return min([now, *marks, *_beginnings(_waiting(lake, model, predictions))])


def longest_latency(lake: Lake, model: str, until: datetime) -> timedelta:
    """Of the live predictions of the last minutes: how much older than its record a request may be."""
    with lake.connect() as connection:
        if not exists(connection, model):
            return timedelta(0)
        row = connection.execute(
            f"""SELECT coalesce(max(latency_ms), 0) FROM {table(model, "predictions")}
                WHERE requested_at >= $since AND requested_at < $until""",
            {"since": until - _LATENCY_WINDOW, "until": until},
        ).fetchone()
    return timedelta(milliseconds=row[0] if row else 0)


def ingested_until(directory: Path) -> datetime | None:
    """When the last ingestion that ended well began; None where none has."""
    with suppress(FileNotFoundError):
        return datetime.fromisoformat((directory / _MARK).read_text())
    return None


def _waiting(lake: Lake, model: str, directory: Path) -> Iterable[Path]:
    """Of every writer, the first segment that is not in the lake. Open ones are listed first: they may close meanwhile."""
    if not directory.is_dir():
        return ()
    unfinished = list(directory.glob("*.open"))
    with lake.connect() as connection:
        if not exists(connection, model):
            return ()
        closed = segments.not_loaded(connection, model, SOURCE, directory)
    first: dict[str, Path] = {}
    for path in sorted((*unfinished, *closed), key=lambda path: path.stem):
        first.setdefault(path.stem.rpartition(".")[0] or path.stem, path)
    return first.values()


def _beginnings(paths: Iterable[Path]) -> Iterator[datetime]:
    for path in paths:
        for name in (path, path.with_suffix(".jsonl")):
            with suppress(FileNotFoundError):
                yield from _first_time(name)
                break


def _first_time(path: Path) -> Iterator[datetime]:
    """The time of its first event; of a file that says none, its last change. Nothing, if it is empty."""
    with path.open("rb") as file:
        line = file.readline()
    if not line:
        return
    try:
        yield datetime.fromisoformat(json.loads(line)["time"])
    except (ValueError, KeyError, TypeError):
        yield datetime.fromtimestamp(path.stat().st_mtime, UTC)
