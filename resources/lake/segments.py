"""Which segments are in the lake, and which cannot be: quarantined with an alert, never lost."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import duckdb
from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError
from resources.lake.connection import Lake, table

PORTION = 32 << 20
"""Bytes of the segments that are loaded at once; parsed they take many times that."""

LONGEST_LINE = 32 << 20
"""Bytes of a line: of a request as large as any may be, and of its answer. A longer one is not loaded."""

_SHORTEST_LIMIT = 1 << 20


def not_loaded(connection: DuckDBPyConnection, model: str, source: str, directory: Path) -> list[Path]:
    """The closed segments of `directory` that the lake has not loaded, oldest first."""
    if not directory.is_dir():
        return []
    paths = {path.name: path for path in directory.glob("*.jsonl")}
    for name in loaded(connection, model, source, list(paths)):
        del paths[name]
    return sorted(paths.values(), key=lambda path: (path.stat().st_mtime_ns, path.name))


def loaded(connection: DuckDBPyConnection, model: str, source: str, names: Sequence[str]) -> list[str]:
    """Those of `names` that the lake has loaded."""
    if not names:
        return []
    rows = connection.execute(
        f"SELECT DISTINCT name FROM {table(model, 'segments')} WHERE source = $source AND list_contains($names, name)",
        {"source": source, "names": list(names)},
    ).fetchall()
    return [name for (name,) in rows]


def portions(paths: Sequence[Path], max_bytes: int) -> Iterator[list[Path]]:
    """Consecutive `paths` in groups of at most `max_bytes` (at least one each): what memory must hold at once."""
    group: list[Path] = []
    size = 0
    for path in paths:
        bytes_here = path.stat().st_size
        if group and size + bytes_here > max_bytes:
            yield group
            group, size = [], 0
        group.append(path)
        size += bytes_here
    if group:
        yield group


def line_limit(paths: Sequence[Path], longest: int) -> int:
    """Bytes that DuckDB must be ready for in a line of `paths`, of which none has more than `longest`.

    It reads in buffers of twice that: small ones let its threads share a file.
    """
    return max(_SHORTEST_LIMIT, min(longest, max((path.stat().st_size for path in paths), default=0)))


def take_fence(connection: DuckDBPyConnection, model: str) -> None:
    """Make concurrent transactions of this model's ingesters conflict: appends alone would not."""
    connection.execute(f"UPDATE {table(model, 'fence')} SET writes = writes + 1")


def record(
    connection: DuckDBPyConnection, model: str, source: str, counts: Sequence[tuple[str, int, int]]
) -> None:
    """Mark segments as loaded: (name, rows, bad) each. Belongs into the transaction that loads them."""
    names, rows, bad = (list(column) for column in zip(*counts, strict=True))
    connection.execute(
        f"INSERT INTO {table(model, 'segments')}"
        " SELECT $source, unnest($names), unnest($rows), unnest($bad), now()",
        {"source": source, "names": names, "rows": rows, "bad": bad},
    )


# Lines and segments that cannot be loaded: kept with file, line and reason, never dropped in silence.
#
# What cannot be loaded must not keep out what comes after it; and a lake that cannot load must not throw out what is good.


T = TypeVar("T")

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

    def with_more(self, other: "Unusable") -> "Unusable":
        """Both together."""
        return Unusable(self.counts + other.counts, [*self.lines, *other.lines])

    def without(self, segments: Collection[str]) -> "Unusable":
        return Unusable(
            Counter({name: count for name, count in self.counts.items() if name not in segments}),
            [line for line in self.lines if line.segment not in segments],
        )


WHOLE = "the whole segment could not be loaded: "
"""How the reason begins where no single line is to blame."""

_CONTENT = (
    duckdb.ConversionException,
    duckdb.DataError,
    duckdb.InvalidInputException,
    duckdb.InvalidTypeException,
    duckdb.OutOfRangeException,
    duckdb.TypeMismatchException,
)

_OTHERS = ("offload", "temp_directory", "allocation failure")
"""In DuckDB's words for memory that ran out because the disk is full, or the machine's memory is."""


def load_what_can_be(
    lake: Lake,
    connection: DuckDBPyConnection,
    model: str,
    source: str,
    paths: Sequence[Path],
    load: Callable[[Sequence[Path]], T],
) -> Generator[T | None]:
    """`load` a portion; where its content breaks it, segment by segment. One that breaks it alone goes to the quarantine.

    Yields what `load` returned, and None for a segment in the quarantine. `load` is one transaction, and takes no paths as well:
    if that breaks too, the fault is the lake's own. A fault of the lake (catalogue, disk, lock, anything unknown) is raised
    as it is, and puts nothing into the quarantine.
    """
    error = _broken(lambda: load(paths))
    if not isinstance(error, Exception):
        yield error
        return
    for path in paths:
        alone = _broken(lambda path=path: load([path])) if len(paths) > 1 else error
        if not isinstance(alone, Exception):
            yield alone
            continue
        load([])
        lake.transaction(
            lambda inside, path=path, why=alone: _refuse(inside, model, source, path, why), connection
        )
        yield None


def _broken(work: Callable[[], T]) -> T | Exception:
    """What `work` returns, or the error that its content caused; raises any other."""
    try:
        return work()
    except (duckdb.Error, LakeError) as error:
        if not is_about_content(error):
            raise
        return error


def is_about_content(error: Exception) -> bool:
    """Whether DuckDB names what it was given as the reason; what it says of files, locks or itself is another's fault."""
    cause = error.__cause__ if isinstance(error, LakeError) else error
    if isinstance(cause, duckdb.OutOfMemoryException):
        return not any(other in str(cause).lower() for other in _OTHERS)
    return isinstance(cause, _CONTENT)


def _refuse(connection: DuckDBPyConnection, model: str, source: str, path: Path, error: Exception) -> None:
    take_fence(connection, model)
    if loaded(connection, model, source, [path.name]):
        return  # by somebody with more memory
    said = str(error).strip().splitlines()[0]
    put(connection, model, source, [BadLine(path.name, None, WHOLE + said, str(path))])
    record(connection, model, source, [(path.name, 0, 1)])


def whole_segments(connection: DuckDBPyConnection, model: str, source: str) -> dict[str, str]:
    """Segments in the quarantine as a whole: name -> reason."""
    rows = connection.execute(
        f"""SELECT segment, reason FROM {table(model, "quarantine")}
            WHERE source = $source AND line IS NULL AND starts_with(reason, $whole)""",
        {"source": source, "whole": WHOLE},
    ).fetchall()
    return dict(rows)


@contextmanager
def short_lines(paths: Sequence[Path], longest: int, scratch: Path) -> Generator[tuple[list[Path], Unusable]]:
    """`paths` without the lines of more than `longest` bytes, which no reader must be asked to hold.

    A segment that has one is copied below `scratch` for as long as the context lasts, under its own name. Without paths
    there is one, which is empty.
    """
    with TemporaryDirectory(dir=scratch) as folder:
        found = [_shortened(path, longest, Path(folder)) for path in paths]
        long = [line for _, lines in found for line in lines]
        yield (
            [path for path, _ in found] or [_nothing(Path(folder))],
            Unusable(Counter(line.segment for line in long), long),
        )


def _nothing(folder: Path) -> Path:
    path = folder / "nothing.jsonl"
    path.touch()
    return path


def _shortened(path: Path, longest: int, folder: Path) -> tuple[Path, list[BadLine]]:
    if path.stat().st_size <= longest:
        return path, []
    long: list[BadLine] = []
    copy = folder / path.name
    with copy.open("wb") as file:
        for number, line, size in _lines(path, longest):
            if size <= longest:
                file.write(line)
            else:
                reason = f"a line of {size:,} bytes; at most {longest:,} are read"
                long.append(BadLine(path.name, number, reason, _text(line)))
    return copy, long


def _lines(path: Path, longest: int) -> Iterator[tuple[int, bytes, int]]:
    """Number, content and size of each line; of one that is longer, the first `longest` bytes."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(longest):
            number, size, part = number + 1, len(line), line
            while not part.endswith(b"\n") and (part := file.readline(longest)):
                size += len(part)
            yield number, line, size


def _text(line: bytes) -> str:
    return line[:_RAW].decode(errors="backslashreplace").rstrip("\n")


FIRST_YEAR, LAST_YEAR = 1970, 8999
"""Days can be added to what lies between them, and taken from it. DuckDB knows infinite times, and years BC."""


def moment(text: str) -> str:
    """SQL of a text's time; NULL where it is none, or not of these years."""
    at = f"TRY_CAST({text} AS TIMESTAMPTZ)"
    between = (
        f"'{FIRST_YEAR}-01-01 00:00:00+00'::TIMESTAMPTZ AND '{LAST_YEAR}-12-31 00:00:00+00'::TIMESTAMPTZ"
    )
    return f"CASE WHEN {at} BETWEEN {between} THEN {at} END"


def no_moment(name: str, value: Any) -> str | None:
    """The same in words; None where it is one."""
    try:
        year = datetime.fromisoformat(str(value)).year
    except ValueError:
        return f"{name} {value!r} is not RFC 3339"
    if not FIRST_YEAR <= year <= LAST_YEAR:
        return f"{name} {value!r} is not of the years {FIRST_YEAR} to {LAST_YEAR}"
    return None


def has_nul(text: str) -> str:
    """SQL of whether a text has a NUL: one among the values of a join ends the query that DuckLake asks its catalogue."""
    return f"contains({text}, chr(0))"


def bad_lines(path: Path, problem: Problem) -> Iterator[BadLine]:
    """The lines of `path` that are not an event without `problem`. Reads line by line: for damaged files only."""
    for number, line, _ in _lines(path, LONGEST_LINE):
        reason = _reason(line, problem)
        if reason is not None:
            yield BadLine(path.name, number, reason, _text(line))


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
