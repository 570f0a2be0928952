"""Housekeeping, for a schedule: small files merged, old snapshots and loaded segments removed."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake import segments
from resources.lake.connection import Lake, table
from resources.lake.schema import exists


class Maintenance(NamedTuple):
    """What one call did."""

    files_merged: int
    snapshots_expired: int
    files_removed: int


def maintain(lake: Lake, *, keep_snapshots: timedelta = timedelta(days=1)) -> Maintenance:
    """Merge small adjacent files, expire snapshots older than `keep_snapshots`, remove files that nothing uses.

    Safe beside readers and ingesters: a reader's snapshot lives as long as `keep_snapshots` at least, and so do
    files after they fell out of use. Raises `LakeError`.
    """
    with lake.connect() as connection:
        merged = lake.transaction(_merge, connection)
        before = datetime.now(UTC) - keep_snapshots
        return lake.transaction(lambda inside: Maintenance(merged, *_expire(inside, before)), connection)


def expire_unpaired(lake: Lake, model: str, *, older_than: timedelta = timedelta(days=1)) -> int:
    """Move requests and responses that waited that long for their other half to the quarantine; returns how many."""

    def move(connection: DuckDBPyConnection) -> int:
        if not exists(connection, model):
            return 0
        segments.take_fence(connection, model)
        before = {"before": datetime.now(UTC) - older_than}
        waiting = f"{table(model, 'unpaired')} WHERE seen_at < $before"
        connection.execute(
            f"""INSERT INTO {table(model, "quarantine")} BY NAME
                SELECT 'predictions' AS source, segment, NULL::BIGINT AS line, now() AS quarantined_at,
                    concat('a ', kind, ' without its other half since ', seen_at) AS reason,
                    'request ' || request_id AS raw
                FROM {waiting}""",
            before,
        )
        row = connection.execute(f"DELETE FROM {waiting}", before).fetchone()
        return row[0] if row else 0

    return lake.transaction(move)


def remove_loaded(
    lake: Lake, model: str, source: str, directory: Path, *, older_than: timedelta = timedelta(days=7)
) -> int:
    """Delete closed segments (`source`: predictions | outcomes) that the lake loaded and that are that old.

    Keeps the directory small, which every ingestion lists. A segment that is in the quarantine as a whole stays: its
    content is nowhere else. Returns how many files were removed.
    """
    if not directory.is_dir():
        return 0
    limit = time.time() - older_than.total_seconds()
    old = {path.name: path for path in directory.glob("*.jsonl") if path.stat().st_mtime < limit}
    with lake.connect() as connection:
        if not exists(connection, model):
            return 0
        kept = segments.whole_segments(connection, model, source)
        names = [name for name in segments.loaded(connection, model, source, list(old)) if name not in kept]
    for name in names:
        old[name].unlink(missing_ok=True)
    return len(names)


def _merge(connection: DuckDBPyConnection) -> int:
    rows = connection.execute("CALL ducklake_merge_adjacent_files('lake')").fetchall()
    return sum(row[2] for row in rows)


def _expire(connection: DuckDBPyConnection, before: datetime) -> tuple[int, int]:
    when = {"before": before}
    snapshots = connection.execute(
        "CALL ducklake_expire_snapshots('lake', older_than => $before)", when
    ).fetchall()
    files = connection.execute(
        "CALL ducklake_cleanup_old_files('lake', older_than => $before)", when
    ).fetchall()
    return len(snapshots), len(files)
