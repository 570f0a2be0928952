"""Lines that cannot be loaded: kept with file, line and reason, never dropped in silence."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.names import table

_RAW = 4096
"""Characters of the line that are kept."""
_KEPT = 1000
"""Lines of a segment that are kept."""

Problem = Callable[[dict[str, Any]], str | None]
"""Says what is wrong with an event, or None."""


class BadLine(NamedTuple):
    """One line of a segment, or one thing in it, that was not loaded."""

    segment: str
    line: int | None
    """From 1; None where the reason does not lie in one line."""
    reason: str
    raw: str


class Unusable(NamedTuple):
    """What the lines of some segments lost to the quarantine."""

    counts: Counter[str]
    """By segment."""
    lines: list[BadLine]

    def without(self, segments: Collection[str]) -> "Unusable":
        return Unusable(
            Counter({name: count for name, count in self.counts.items() if name not in segments}),
            [line for line in self.lines if line.segment not in segments],
        )


def bad_lines(path: Path, problem: Problem) -> Iterator[BadLine]:
    """The lines of `path` that are not an event without `problem`. Reads line by line: for damaged files only."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            reason = _reason(line, problem)
            if reason is not None:
                text = line[:_RAW].decode(errors="backslashreplace").rstrip("\n")
                yield BadLine(path.name, number, reason, text)


def explain(paths: Iterable[Path], found: Mapping[str, int], problem: Problem) -> Unusable:
    """Where the fast reader counted unusable lines (`found`, by segment), the slow one says which and why.

    At most a thousand lines of a segment are kept; one more says how many there are beside them.
    """
    bad: list[BadLine] = []
    for path in paths:
        count = found.get(path.name, 0)
        lines = list(islice(bad_lines(path, problem), _KEPT)) if count else []
        bad += lines
        if count > len(lines):
            bad.append(BadLine(path.name, None, f"{count - len(lines)} more lines that are not readable", ""))
    return Unusable(Counter(found), bad)


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
    except (ValueError, RecursionError) as error:
        if not line.endswith(b"\n"):
            return "torn: the line has no end"
        return f"not JSON: {error}"
    if not isinstance(event, dict):
        return "not a JSON object"
    return problem(event)
