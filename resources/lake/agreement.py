"""Do champion and challenger agree? Pairs of answers to the same request, one of them to its copy in the shadow."""

from datetime import datetime
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.connection import Lake, identifier, table
from resources.lake.schema import ANSWERED, exists, fields
from resources.registry.signature import SQL_NUMBERS


class ColumnAgreement(NamedTuple):
    """One output, over the pairs whose champion answered."""

    name: str
    share: float
    """Of the pairs that agree, 0 to 1: equal, or numbers within the tolerance. A copy that failed disagrees."""
    correlation: float | None
    """Of numbers; None where one side never changes, and for anything else."""
    distance: float | None
    """Mean absolute difference in standard deviations of the champion's answers; None where these are all equal."""


class Agreement(NamedTuple):
    """What the shadow's copies say beside the champion's answers."""

    pairs: int
    """Rows that the champion answered, and whose copy has come back in whatever way."""
    failed: int
    """Of these, copies that failed."""
    champion_ms: float | None
    """Median latency."""
    challenger_ms: float | None
    columns: tuple[ColumnAgreement, ...]

    @property
    def least(self) -> ColumnAgreement | None:
        """The output that agrees least."""
        return min(self.columns, key=lambda column: column.share, default=None)


def agreement(
    lake: Lake,
    model: str,
    *,
    champion: str,
    challenger: str,
    start: datetime,
    end: datetime,
    tolerance: float,
) -> Agreement:
    """Compare the copies of requests in [start, end) with the champion's answers to the same requests.

    `tolerance` is in standard deviations of the champion's answers. Raises LakeError.
    """
    parameters = {"champion": champion, "challenger": challenger, "start": start, "end": end}
    with lake.connect() as connection:
        if not exists(connection, model):
            return Agreement(0, 0, None, None, ())
        outputs = fields(connection, model)[1]
        _make_pairs(connection, model, parameters)
        pairs, failed, champion_ms, challenger_ms = _row(connection, _TOTALS)
        columns = tuple(
            _column(connection, name, kind in SQL_NUMBERS, tolerance)
            for name, kind in outputs.items()
            if pairs
        )
    return Agreement(pairs, failed, champion_ms, challenger_ms, columns)


_TOTALS = """SELECT count(*), count(*) FILTER (NOT answered), median(champion_ms),
    median(challenger_ms) FILTER (answered) FROM pairs"""


def _make_pairs(connection: DuckDBPyConnection, model: str, parameters: dict[str, Any]) -> None:
    """Of several answers to one request of one side (a retry), the good one counts, or the first."""

    def side(version: str, assignment: str) -> str:
        return f"""SELECT request_id, "row", outputs, latency_ms, {ANSWERED} AS answered
            FROM {table(model, "predictions")}
            WHERE version = ${version} AND assignment = '{assignment}'
                AND requested_at >= $start AND requested_at < $end
            QUALIFY row_number() OVER (PARTITION BY request_id, "row" ORDER BY NOT ({ANSWERED}), requested_at) = 1"""

    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE pairs AS
        SELECT old.outputs AS old, new.outputs AS new, new.answered AS answered,
            old.latency_ms AS champion_ms, new.latency_ms AS challenger_ms
        FROM ({side("champion", "weighted")}) old JOIN ({side("challenger", "shadow")}) new
            USING (request_id, "row")
        WHERE old.answered""",
        parameters,
    )


def _column(connection: DuckDBPyConnection, name: str, numeric: bool, tolerance: float) -> ColumnAgreement:
    old, new = (f"{side}.{identifier(name)}" for side in ("old", "new"))
    if not numeric:
        share = _row(
            connection, f"SELECT avg((answered AND {old} IS NOT DISTINCT FROM {new})::INTEGER) FROM pairs"
        )
        return ColumnAgreement(name, share[0], None, None)
    near = f"{old} IS NOT DISTINCT FROM {new} OR abs({old} - {new}) <= $tolerance * spread"
    found = _row(
        connection,
        f"""WITH s AS (SELECT coalesce(stddev_pop({old}), 0) AS spread FROM pairs)
        SELECT avg((answered AND coalesce({near}, false))::INTEGER),
            CASE WHEN stddev_pop({old}) > 0 AND stddev_pop({new}) > 0 THEN corr({old}, {new}) END,
            avg(abs({old} - {new})) / nullif(any_value(spread), 0)
        FROM pairs, s""",
        {"tolerance": tolerance},
    )
    return ColumnAgreement(name, *found)


def _row(connection: DuckDBPyConnection, query: str, parameters: dict[str, Any] | None = None) -> Any:
    return connection.execute(query, parameters or {}).fetchone()
