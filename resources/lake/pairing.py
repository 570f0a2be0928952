"""Joins requests with their responses and appends them to `predictions`; runs inside the loading transaction."""

from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.events import TENSOR_LISTS, tensor_struct
from resources.lake.names import table
from resources.lake.schema import ANSWERED, Fields


class Loaded(NamedTuple):
    """What came of the temporary table `events`; counts by segment."""

    rows: Counter[str]
    misfits: Counter[str]
    """Values that do not fit their column: loaded as NULL, and noted in the quarantine (one line per row)."""
    duplicates: int


def load_pairs(
    connection: DuckDBPyConnection,
    model: str,
    source: str,
    columns: tuple[Fields, Fields],
    duplicates_within: timedelta,
) -> Loaded:
    """Pair `events` and the halves that wait in `unpaired` by (id of the record, revision); append the whole ones.

    A half that `predictions` already has is left out, and so is one that came twice: it has the id, the kind and the
    time of the first. Where an id was used again, a response belongs to the last request before it.
    """
    waiting = waiting_halves(connection, model) > 0
    if waiting:
        connection.execute(
            "INSERT INTO events BY NAME SELECT * REPLACE (coalesce(record_id, request_id) AS record_id)"
            f" FROM {table(model, 'unpaired')}"
        )
    _find_pairs(connection, model, duplicates_within)
    connection.execute(f"INSERT INTO {table(model, 'predictions')} BY NAME {_FIRST_ROWS}")
    if _one(connection, 'SELECT count(*) FROM whole WHERE "rows" > 1'):
        _load_batches(connection, model, columns)
    _keep_waiting(connection, model, rewrite=waiting)
    connection.execute(f"INSERT INTO {table(model, 'quarantine')} BY NAME {_MISFITS}", {"source": source})
    return Loaded(
        rows=_by_segment(connection, 'SELECT segment, sum("rows")::BIGINT FROM whole GROUP BY segment'),
        misfits=_by_segment(connection, "SELECT segment, count(*) FROM misfits GROUP BY segment"),
        duplicates=_one(
            connection, "SELECT (SELECT count(*) FROM events) - count(request) - count(response) FROM pairs"
        ),
    )


def waiting_halves(connection: DuckDBPyConnection, model: str) -> int:
    """How many requests and responses wait for their other half."""
    return _one(connection, f"SELECT count(*) FROM {table(model, 'unpaired')}")


def _find_pairs(connection: DuckDBPyConnection, model: str, duplicates_within: timedelta) -> None:
    """`pairs`: row ids of the halves in `events`, one of them perhaps NULL; `whole`: those with both."""
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE fresh AS
        SELECT min(e.rowid) AS half, record_id, revision, kind, seen_at
        FROM events e ANTI JOIN (
            SELECT request_id, revision, unnest(['request', 'response']) AS kind,
                unnest([requested_at, responded_at]) AS seen_at
            FROM {table(model, "predictions")} SEMI JOIN events USING (request_id, revision)
            WHERE "row" = 0
                AND requested_at >= (SELECT min(seen_at) FROM events) - $within
                AND requested_at <= (SELECT max(seen_at) FROM events) + $within
        ) USING (request_id, revision, kind, seen_at)
        GROUP BY record_id, revision, kind, seen_at""",
        {"within": duplicates_within},
    )
    used_again = _one(
        connection,
        "SELECT count(*) FROM (FROM fresh SELECT 1 GROUP BY record_id, revision, kind HAVING count(*) > 1)",
    )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE pairs AS
        SELECT min(half) FILTER (kind = 'request') AS request, min(half) FILTER (kind = 'response') AS response
        FROM (SELECT *, {_NTH_USE if used_again else "1"} AS nth FROM fresh)
        GROUP BY record_id, revision, nth"""
    )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE whole AS
        SELECT request, response, s.segment, r."rows"
        FROM pairs JOIN events r ON r.rowid = request JOIN events s ON s.rowid = response"""
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE misfits AS"
        " SELECT e.segment, e.request_id, e.wrong FROM pairs JOIN events e ON e.rowid IN (request, response)"
        " WHERE e.wrong IS NOT NULL AND request IS NOT NULL AND response IS NOT NULL"
    )


_NTH_USE = """greatest(1, count(*) FILTER (kind = 'request') OVER (
    PARTITION BY record_id, revision ORDER BY seen_at, kind ROWS UNBOUNDED PRECEDING))"""
_BOTH = "whole JOIN events r ON r.rowid = request JOIN events s ON s.rowid = response"
_SHARED = """
    r.request_id, coalesce(r.caller_id, s.caller_id) AS caller_id, r.revision,
    coalesce(r.unit_id, s.unit_id) AS unit_id,
    coalesce(r.version, s.version) AS version,
    coalesce(r.assignment, s.assignment) AS assignment,
    r.seen_at AS requested_at,
    s.seen_at AS responded_at,
    coalesce(s.latency_ms, epoch_ms(s.seen_at) - epoch_ms(r.seen_at)) AS latency_ms,
    coalesce(s.status, 200) AS status,
    s.segment"""
_FIRST_ROWS = f'SELECT {_SHARED}, 0 AS "row", r.features, s.outputs FROM {_BOTH}'
_MISFITS = """
    SELECT $source AS source, segment, NULL::BIGINT AS line, wrong AS reason, 'request ' || request_id AS raw,
        now() AS quarantined_at
    FROM misfits"""


def _load_batches(connection: DuckDBPyConnection, model: str, columns: tuple[Fields, Fields]) -> None:
    """The rows after the first of predictions with several."""
    features, wrong_feature = tensor_struct("features", columns[0], row="i", scope="r_")
    outputs, wrong_output = tensor_struct("outputs", columns[1], row="i", scope="s_")
    lists = [TENSOR_LISTS.format(tensors=f"{side}.tensors", scope=f"{side}_") for side in "rs"]
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE later_rows AS
        SELECT * EXCLUDE (r_names, r_datas, r_rows, s_names, s_datas, s_rows, i), i::INTEGER AS "row",
            {features} AS features,
            CASE WHEN {ANSWERED} THEN {outputs} END AS outputs,
            concat_ws('; ', {wrong_feature}, CASE WHEN {ANSWERED} THEN {wrong_output} END) AS wrong
        FROM (
            SELECT {_SHARED}, {", ".join(lists)}, r."rows" AS r_rows, s."rows" AS s_rows,
                unnest(range(1, r."rows")) AS i
            FROM {_BOTH} WHERE r."rows" > 1
        )"""
    )
    connection.execute(
        f"INSERT INTO {table(model, 'predictions')} BY NAME SELECT * EXCLUDE (wrong) FROM later_rows"
    )
    connection.execute(
        "INSERT INTO misfits SELECT segment, request_id, wrong FROM later_rows WHERE wrong <> ''"
    )
    connection.execute("DROP TABLE later_rows")


def _keep_waiting(connection: DuckDBPyConnection, model: str, *, rewrite: bool) -> None:
    """Put the halves without a partner into `unpaired`, which is small and therefore simply rewritten."""
    if rewrite:
        connection.execute(f"DELETE FROM {table(model, 'unpaired')}")
    lonely = "FROM pairs JOIN events e ON e.rowid = coalesce(request, response) WHERE request IS NULL OR response IS NULL"
    if _one(connection, f"SELECT count(*) {lonely}"):
        connection.execute(f"INSERT INTO {table(model, 'unpaired')} BY NAME SELECT e.* {lonely}")


def _one(connection: DuckDBPyConnection, query: str) -> int:
    row: Any = connection.execute(query).fetchone()
    return row[0]


def _by_segment(connection: DuckDBPyConnection, query: str) -> Counter[str]:
    return Counter(dict(connection.execute(query).fetchall()))
