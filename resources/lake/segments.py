"""Closed segments: which are not loaded yet, in portions, and the one transaction that marks them loaded."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from duckdb import DuckDBPyConnection

from resources.lake.names import table

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
