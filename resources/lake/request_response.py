"""Joins requests with their responses and appends them to `predictions`; runs inside the loading transaction."""

from collections import Counter
from datetime import timedelta
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.connection import table
from resources.lake.events import place, tensor_struct
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
        FROM (SELECT *, {_NTH_USE if used_again else "1"} AS nth FROM fresh
            WINDOW used AS (PARTITION BY record_id, revision))
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


_NTH_USE = """CASE
    WHEN count(*) FILTER (kind = 'request') OVER used = count(*) FILTER (kind = 'response') OVER used
    THEN row_number() OVER (PARTITION BY record_id, revision, kind ORDER BY seen_at)
    ELSE greatest(1, count(*) FILTER (kind = 'request') OVER (
        PARTITION BY record_id, revision ORDER BY seen_at, kind ROWS UNBOUNDED PRECEDING)) END"""
"""Which use of an id a half belongs to: in the order they came, if none is missing; else a response belongs to the last
request before it, for KServe's logger keeps no response that is not 200."""

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
    """The rows after the first of predictions with several.

    Each column's values are unnested beside those of the others: to look into a whole tensor for each of its rows would
    take memory that grows with the square of the rows.
    """
    sides = [_Side("r", columns[0]), _Side("s", columns[1])]
    features, wrong_feature = tensor_struct("features", columns[0], sides[0].names)
    outputs, wrong_output = tensor_struct("outputs", columns[1], sides[1].names)
    tensors = ", ".join(tensor for side in sides for tensor in side.tensors())
    values = ", ".join(value for side in sides for value in side.values())
    regrouped = [name for side in sides for name in side.lists()]
    lists = "".join(f", {name}_rows AS ({_regrouped(name)})" for name in regrouped)
    joins = " ".join(f"LEFT JOIN {name}_rows USING (batch, i)" for name in regrouped)
    names = ", ".join(name for side in sides for name in side.names)
    flags = "".join(f", has_{name}" for name in regrouped)
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE later_rows AS
        WITH batches AS (
            SELECT {_SHARED}, request AS batch, r."rows" AS r_rows, s."rows" AS s_rows, {tensors}
            FROM {_BOTH} WHERE r."rows" > 1
        ), single AS (
            SELECT * EXCLUDE (r_rows, s_rows, {names}), unnest(range(1, r_rows)) AS i, {values} FROM batches
        ){lists}
        SELECT * EXCLUDE (batch, i, {names}{flags}), i::INTEGER AS "row",
            {features} AS features,
            CASE WHEN {ANSWERED} THEN {outputs} END AS outputs,
            concat_ws('; ', {wrong_feature}, CASE WHEN {ANSWERED} THEN {wrong_output} END) AS wrong
        FROM (
            SELECT single.*{"".join(f", coalesce({name}_list, CASE WHEN has_{name} THEN [] END) AS {name}" for name in regrouped)}
            FROM single {joins}
        )"""
    )
    connection.execute(
        f"INSERT INTO {table(model, 'predictions')} BY NAME SELECT * EXCLUDE (wrong) FROM later_rows"
    )
    connection.execute(
        "INSERT INTO misfits SELECT segment, request_id, wrong FROM later_rows WHERE wrong <> ''"
    )
    connection.execute("DROP TABLE later_rows")


class _Side(NamedTuple):
    """Requests (`r`) or responses (`s`): SQL for the columns of one, named `r0`, `r1`, ..."""

    letter: str
    columns: Fields

    @property
    def names(self) -> list[str]:
        return [f"{self.letter}{i}" for i in range(len(self.columns))]

    def lists(self) -> list[str]:
        """Names of the columns with several values in a row."""
        return [
            name for name, kind in zip(self.names, self.columns.values(), strict=True) if kind.endswith("[]")
        ]

    def tensors(self) -> list[str]:
        """Each column's texts, of all rows in one list."""
        of = f"{self.letter}.tensors"
        names = f"list_transform({of}, lambda t: lower(t.name))"
        found = (place(names, name, only=len(self.columns) == 1) for name in self.columns)
        return [f"{of}[{at}].data AS {name}" for at, name in zip(found, self.names, strict=True)]

    def values(self) -> list[str]:
        """Each column's text in one row, from the second on; for a list, whether there are any."""
        lists = self.lists()
        return [
            f"{name} IS NOT NULL AS has_{name}" if name in lists else f"unnest({name}[2:r_rows]) AS {name}"
            for name in self.names
        ]


def _regrouped(name: str) -> str:
    """A flat tensor's values as one list per row (from 0)."""
    return f"""
        SELECT batch, nth // size AS i, list(text ORDER BY nth) AS {name}_list FROM (
            SELECT batch, len({name}) // {name[0]}_rows AS size, unnest({name}) AS text,
                generate_subscripts({name}, 1) - 1 AS nth
            FROM batches
        ) WHERE size > 0 AND nth >= size GROUP BY ALL"""


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
