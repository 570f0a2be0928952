"""The rows of a time window, and up to when the lake holds everything that was answered.

Counting what is half loaded makes a healthy split look broken, because writers do not close their segments at the
same moment, least of all on a machine that is short of time.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from duckdb import DuckDBPyConnection

from resources.files import write_whole
from resources.lake import segments
from resources.lake.connection import Lake, identifier, table
from resources.lake.ingest import SOURCE
from resources.lake.schema import ANSWERED, ATTEMPT, earlier_attempts, exists, fields

_MARK = ".ingested"

_LATENCY_WINDOW = timedelta(minutes=2)

_LONGEST_LATENCY = timedelta(days=1)
"""What is said to have taken longer, or an infinite time, was measured with two clocks, or by none."""

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


def mark_ingested(directory: Path, started: datetime) -> None:
    """Keep when the ingestion that has just ended began: what was closed before is in the lake."""
    if not directory.is_dir():
        return
    write_whole(directory / _MARK, started.isoformat())


def complete_until(
    lake: Lake, model: str, *, predictions: Path, outcomes: Path | None = None, now: datetime
) -> datetime:
    """No segment that is still to be loaded begins before this. An event may be older than its segment by its latency.

    Args:
        predictions, outcomes: the directories that are ingested; None where outcomes do not matter.
        now: the answer where nothing is waiting.
    """
    ingested = (ingested_until(each) for each in (predictions, outcomes) if each is not None)
    marks = [mark for mark in ingested if mark is not None]
    return min([now, *marks, *_beginnings(_waiting(lake, model, predictions))])


def longest_latency(lake: Lake, model: str, until: datetime) -> timedelta:
    """Of the live predictions of the last minutes: how much older than its record a request may be."""
    with lake.connect() as connection:
        if not exists(connection, model):
            return timedelta(0)
        row = connection.execute(
            f"""SELECT coalesce(max(latency_ms), 0) FROM {table(model, "predictions")}
                WHERE requested_at >= $since AND requested_at < $until AND latency_ms BETWEEN 0 AND $longest""",
            {
                "since": until - _LATENCY_WINDOW,
                "until": until,
                "longest": _LONGEST_LATENCY / timedelta(milliseconds=1),
            },
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
    """The time of its first event; of a file that says none that the lake would take, its last change. Nothing, if it is
    empty.
    """
    with path.open("rb") as file:
        line = file.readline()
    if not line:
        return
    try:
        said = datetime.fromisoformat(json.loads(line)["time"])
        said = said if said.tzinfo else said.replace(tzinfo=UTC)
        if said < _EARLIEST:
            raise ValueError(said)
        yield said
    except (ValueError, KeyError, TypeError, RecursionError):
        yield datetime.fromtimestamp(path.stat().st_mtime, UTC)


# Windows of the prediction log as data frames, for the checks that watch the data.


def window(
    lake: Lake,
    model: str,
    start: datetime,
    end: datetime,
    *,
    version: str | None = None,
    assignment: str | None = "weighted",
    answered: bool = False,
    sample: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """The predictions requested in [start, end).

    Columns: request_id, row, unit_id, version, requested_at, latency_ms, status, then `features.<name>` and
    `outputs.<name>`. `version` and `assignment` None mean any; `answered` leaves out calls that got an error. Of a call that a version was asked twice the last attempt counts. `sample` keeps that many of these rows,
    chosen at random by `seed`; the same rows come back whenever the window and the seed are the same.
    Raises `LakeError` where the model has no tables.
    """
    where, parameters = _where(start, end, version=version, assignment=assignment)
    with lake.connect() as connection:
        features, outputs = fields(connection, model)
        columns = [
            *(f"features.{identifier(name)} AS {identifier('features.' + name)}" for name in features),
            *(f"outputs.{identifier(name)} AS {identifier('outputs.' + name)}" for name in outputs),
        ]
        predictions = f"{table(model, 'predictions')} WHERE {where} AND {_last_attempts(model, where)}"
        if answered:
            predictions += f" AND {ANSWERED}"
        if sample is not None:
            predictions += _sampled(connection, predictions, parameters, sample, seed)
        return connection.execute(
            f"""SELECT request_id, "row", unit_id, version, requested_at, latency_ms, status, {", ".join(columns)}
                FROM {predictions}""",
            parameters,
        ).df()


def answered(
    lake: Lake, model: str, start: datetime, end: datetime, *, version: str | None = None, sample: int
) -> pd.DataFrame:
    """The window's live predictions that got an answer, `sample` of them where there are more; empty, without
    columns, before the first ingestion.
    """
    with lake.connect() as connection:
        if not exists(connection, model):
            return pd.DataFrame()
    return window(lake, model, start, end, version=version, answered=True, sample=sample)


def _last_attempts(model: str, where: str) -> str:
    """SQL that leaves a call's earlier attempts out, of those that `where` finds: a call counts once.

    A call that both versions were asked is one of each where `where`
    tells them apart: the champion's answer hides nothing of the canary's.
    """
    earlier = earlier_attempts(table(model, "predictions"), of="request_id, assignment", where=where)
    return f"{ATTEMPT} NOT IN ({earlier})"


def _where(start: datetime, end: datetime, **equal: str | None) -> tuple[str, dict[str, object]]:
    conditions = ["requested_at >= $start", "requested_at < $end"]
    parameters: dict[str, object] = {"start": start, "end": end}
    for name, value in equal.items():
        if value is not None:
            conditions.append(f"{name} = ${name}")
            parameters[name] = value
    return " AND ".join(conditions), parameters


def _sampled(
    connection: DuckDBPyConnection, predictions: str, parameters: dict[str, object], sample: int, seed: int
) -> str:
    """The end of a query on `predictions` that keeps the `sample` rows with the smallest hashes.

    A reservoir is repeatable on one thread only; hashes do not depend on threads, files or order. The cut-off
    spares sorting the whole window.
    """
    if sample < 1:
        raise ValueError(f"sample == {sample}, must be >= 1")
    row = connection.execute(f"SELECT count(*) FROM {predictions}", parameters).fetchone()
    rows = row[0] if row else 0
    if rows <= sample:
        return ""
    key = f'hash(request_id, revision, "row", {int(seed)})'
    share = (sample + 6 * sample**0.5 + 6) / rows
    return f" AND {key} <= {min(2**64 - 1, int(share * 2**64))}::UBIGINT ORDER BY {key} LIMIT {int(sample)}"
