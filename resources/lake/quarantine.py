"""Lines that cannot be loaded: kept with file, line and reason, never dropped in silence."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.names import table

_RAW = 4096
"""Characters of the line that are kept."""

Problem = Callable[[dict[str, Any]], str | None]
"""Says what is wrong with an event, or None."""


class BadLine(NamedTuple):
    """One line of a segment, or one thing in it, that was not loaded."""

    segment: str
    line: int | None
    """From 1; None where the reason does not lie in one line."""
    reason: str
    raw: str


def bad_lines(path: Path, problem: Problem) -> Iterator[BadLine]:
    """The lines of `path` that are not an event without `problem`. Reads line by line: for damaged files only."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            reason = _reason(line, problem)
            if reason is not None:
                text = line[:_RAW].decode(errors="backslashreplace").rstrip("\n")
                yield BadLine(path.name, number, reason, text)


def explain(paths: Iterable[Path], found: Mapping[str, int], problem: Problem) -> list[BadLine]:
    """Where the fast reader counted unusable lines (`found`, by segment), the slow one says which and why."""
    bad: list[BadLine] = []
    for path in paths:
        lines = list(bad_lines(path, problem)) if path.name in found else []
        unexplained = found.get(path.name, 0) - len(lines)
        bad += lines + [BadLine(path.name, None, "not readable as an event", "")] * unexplained
    return bad


def put(connection: DuckDBPyConnection, model: str, source: str, lines: Iterable[BadLine]) -> None:
    """Insert into the quarantine table."""
    rows: Sequence[BadLine] = list(lines)
    if not rows:
        return
    segments, numbers, reasons, raws = (list(column) for column in zip(*rows, strict=True))
    connection.execute(
        f"""INSERT INTO {table(model, "quarantine")}
            SELECT $source, unnest($segments), unnest($numbers::BIGINT[]), unnest($reasons), unnest($raws), now()""",
        {"source": source, "segments": segments, "numbers": numbers, "reasons": reasons, "raws": raws},
    )


def _reason(line: bytes, problem: Problem) -> str | None:
    if not line.strip():
        return None
    try:
        event = json.loads(line)
    except ValueError as error:
        if not line.endswith(b"\n"):
            return "torn: the line has no end"
        return f"not JSON: {error}"
    if not isinstance(event, dict):
        return "not a JSON object"
    return problem(event)
