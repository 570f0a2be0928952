"""Outcomes that the experiment does not count, with their number: nothing is dropped in silence."""

from typing import Any, NamedTuple

from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery
from resources.lake.names import table
from resources.lake.schema import KEY, fields
from resources.lake.sources import outcome_names


class OutcomeQuality(NamedTuple):
    """Of the outcomes since the experiment's start."""

    keys: int
    unknown: int
    """Keys that made no request in the log: kept, and counted should the request still come."""
    before_exposure: int
    """Values seen before their key's first request: no metric counts them."""
    ambiguous: int
    """Keys that callers gave to several requests: nobody knows which of them it is about, so it counts for none."""
    quarantined: int
    """Values and lines that are not usable: NaN, infinite, not a number, in the future, malformed."""
    reason: str
    """The most frequent reason for a quarantine; empty without one."""

    @property
    def sentence(self) -> str:
        """In words; empty where nothing was left out."""
        parts = [
            f"{self.unknown:,} of {self.keys:,} outcome keys made no request" if self.unknown else "",
            f"{self.before_exposure:,} outcomes came before their request" if self.before_exposure else "",
            f"{self.ambiguous:,} outcome keys name several requests" if self.ambiguous else "",
            f"{self.quarantined:,} outcomes are quarantined (mostly: {self.reason})"
            if self.quarantined
            else "",
        ]
        told = "; ".join(part for part in parts if part)
        return f"Kept out: {told}." if told else ""


def outcomes_seen(lake: Lake, model: str) -> frozenset[str]:
    """Every outcome that there has ever been a value of. Raises `LakeError`."""
    with lake.connect() as connection:
        fields(connection, model)
        query = f"SELECT DISTINCT metric FROM {table(model, 'outcomes')}"
        return frozenset(row[0] for row in connection.execute(query).fetchall())


def outcome_quality(lake: Lake, model: str, query: ExperimentQuery) -> OutcomeQuality:
    """Count what `query` cannot use. Raises `LakeError`."""
    key = KEY if query.by_request else "unit_id"
    several = "calls > 1" if query.by_request else "false"
    with lake.connect() as connection:
        fields(connection, model)
        row: Any = connection.execute(
            f"""WITH found AS (
                SELECT key, "at" FROM {table(model, "outcomes")}
                WHERE list_contains($metrics::VARCHAR[], metric) AND "at" >= $start AND "at" < $until),
            asked AS (
                SELECT key, min(requested_at) AS first, count(DISTINCT request_id) AS calls
                FROM (SELECT {key} AS key, requested_at, request_id FROM {table(model, "predictions")})
                SEMI JOIN found USING (key) GROUP BY key)
            SELECT count(DISTINCT key), count(DISTINCT key) FILTER (first IS NULL),
                count(*) FILTER ("at" < first - $skew), count(DISTINCT key) FILTER ({several})
            FROM found LEFT JOIN asked USING (key)""",
            {
                "metrics": outcome_names(query),
                "start": query.start,
                "until": query.watermark,
                "skew": query.clock_skew,
            },
        ).fetchone()
        bad: Any = connection.execute(
            f"""SELECT count(*), coalesce(mode(reason), '') FROM {table(model, "quarantine")}
            WHERE source = 'outcomes' AND quarantined_at >= $start""",
            {"start": query.start},
        ).fetchone()
    return OutcomeQuality(*row, *bad)
