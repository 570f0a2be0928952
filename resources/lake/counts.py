"""What the lake holds of a model, in numbers."""

from typing import Any, NamedTuple

from resources.lake.connection import Lake
from resources.lake.names import table
from resources.lake.schema import ANSWERED, exists


class Counts(NamedTuple):
    """Numbers for reports; all 0 before the first ingestion."""

    requests: int = 0
    """Distinct request ids."""
    rows: int = 0
    duplicates: int = 0
    """Rows beyond one per (request id, revision, time, row)."""
    failed: int = 0
    """Distinct request ids with an answer of any status but 2xx."""
    outcomes: int = 0
    """Outcome values."""
    unpaired: int = 0
    quarantined: int = 0
    segments: int = 0


def counts(lake: Lake, model: str) -> Counts:
    """Reads whole tables: for reports, not for every tick."""
    with lake.connect() as connection:
        if not exists(connection, model):
            return Counts()
        row: Any = connection.execute(
            f"""
            SELECT count(DISTINCT request_id), sum(copies), sum(copies) - count(*),
                count(DISTINCT request_id) FILTER (failed),
                (SELECT count(*) FROM {table(model, "outcomes")}),
                (SELECT count(*) FROM {table(model, "unpaired")}),
                (SELECT count(*) FROM {table(model, "quarantine")}),
                (SELECT count(*) FROM {table(model, "segments")})
            FROM (
                SELECT request_id, count(*) AS copies, bool_or(NOT ({ANSWERED})) AS failed
                FROM {table(model, "predictions")} GROUP BY request_id, revision, requested_at, "row"
            )"""
        ).fetchone()
    return Counts(*(int(value or 0) for value in row))
