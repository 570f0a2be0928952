"""Reads prediction segments into a typed temporary table, one set-based pass over the JSON.

`events` holds one row per line (half a prediction). `record_id` is the line's own id, `request_id` the call that it
answers (the gateway's id of it, or the record's where there is none), `caller_id` what the caller named it. Tensors
are found by name, without regard to case; nested data is flattened, row-major, as the protocol allows both. Row 0 is
typed at once; only batches (`rows` > 1) keep their tensors, for `pairing` to type the other rows.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from resources.lake.names import identifier, literal
from resources.lake.schema import ANSWERED, Fields
from resources.lake.segments import line_limit

REQUEST = "org.kubeflow.serving.inference.request"
RESPONSE = "org.kubeflow.serving.inference.response"

TENSOR_LISTS = (
    "list_transform({tensors}, lambda t: lower(t.name)) AS {scope}names,"
    " list_transform({tensors}, lambda t: t.data) AS {scope}datas"
)
"""What `tensor_struct` looks names up in; to be formatted."""

_TENSORS = "STRUCT(name VARCHAR, shape BIGINT[], datatype VARCHAR, data JSON)[]"
_DEEPEST = 6
"""Dimensions of nested data: more than a batch of videos has."""
_LINE = (
    "{id: 'VARCHAR', type: 'VARCHAR', time: 'VARCHAR', source: 'VARCHAR', latencyms: 'DOUBLE', status: 'INTEGER',"
    """ metadata: 'STRUCT("x-unit-id" VARCHAR[], "x-assignment" VARCHAR[], "x-call-id" VARCHAR[],"""
    """ "x-request-id" VARCHAR[])',"""
    """ annotations: 'STRUCT("rampgate.io/version" VARCHAR, "rampgate.io/revision" VARCHAR)',"""
    f" data: 'STRUCT(inputs {_TENSORS}, outputs {_TENSORS})'}}"
)


def read_events(
    connection: DuckDBPyConnection, paths: Sequence[Path], features: Fields, outputs: Fields
) -> None:
    """Fill the temporary tables `events`, and `malformed` (segment, lines) for files with unusable lines."""
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE events AS {_typed(features, outputs, line_limit(paths))}",
        {"paths": [str(path) for path in paths]},
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE malformed AS"
        " SELECT segment, count(*) AS lines FROM events WHERE seen_at IS NULL GROUP BY segment"
    )
    connection.execute("DELETE FROM events WHERE seen_at IS NULL")


def tensor_struct(struct: str, columns: Fields, *, row: str, scope: str = "") -> tuple[str, str]:
    """SQL for one row's struct, and for the values in it that do not fit their column, in words (or NULL).

    Expects `<scope>names`, `<scope>datas` (parallel lists) and `<scope>rows` in scope; `row` is the SQL of
    the row's index from 0. A tensor of a one-column side needs no matching name.
    """
    values: list[str] = []
    misfits: list[tuple[str, str]] = []
    for name, kind in columns.items():
        raw = _raw(name, kind, row, scope, only=len(columns) == 1)
        value = _cast(raw, kind)
        values.append(f"{identifier(name)} := {value}")
        words = f"concat({literal(f'{struct}.{name} == ')}, left(({raw})::VARCHAR, 80), {literal(f' is not {kind}')})"
        lost = f"{raw} IS NOT NULL AND {value} IS NULL"
        if kind.endswith("[]"):
            lost += f" OR list_count({raw}) > list_count({value})"
        misfits.append((f"({lost})", words))
    anything = " OR ".join(misfit for misfit, _ in misfits)
    which = ", ".join(f"CASE WHEN {misfit} THEN {words} END" for misfit, words in misfits)
    return f"struct_pack({', '.join(values)})", f"CASE WHEN {anything} THEN concat_ws('; ', {which}) END"


def _cast(raw: str, kind: str) -> str:
    """Text as a value of the column, or NULL. A time with an offset is kept in UTC, as the model sees it."""
    if kind.endswith("[]"):
        return f"list_transform({raw}, lambda v: {_cast('v', kind.removesuffix('[]'))})"
    if kind == "TIMESTAMP":
        return f"timezone('UTC', TRY_CAST({raw} AS TIMESTAMPTZ))"
    return f"try(from_base64({raw}))" if kind == "BLOB" else f"TRY_CAST({raw} AS {kind})"


def _flat(data: str) -> str:
    """A tensor's data as one list of texts. DuckDB writes JSON without blanks: its first brackets say how deep it is."""
    cases = " ".join(
        f"WHEN NOT starts_with({data}::VARCHAR, '{'[' * (depth + 1)}')"
        f" THEN json_extract_string({data}, '${'[*]' * depth}')"
        for depth in range(1, _DEEPEST)
    )
    return f"CASE {cases} ELSE json_extract_string({data}, '${'[*]' * _DEEPEST}') END"


def _raw(name: str, kind: str, row: str, scope: str, *, only: bool) -> str:
    place = f"list_position({scope}names, {literal(name.lower())})"
    data = f"{scope}datas[{f'coalesce({place}, 1)' if only else place}]"
    if not kind.endswith("[]"):
        return f"{data}[{row} + 1]"
    size = f"(len({data}) // {scope}rows)"
    return f"{data}[{row} * {size} + 1 : ({row} + 1) * {size}]"


def problem(event: dict[str, Any]) -> str | None:
    """What makes a line of JSON unusable; the same conditions as in SQL, in words."""
    annotations = event.get("annotations")
    revision = annotations.get("rampgate.io/revision") if isinstance(annotations, dict) else None
    if not isinstance(event.get("id"), str):
        return "no id"
    if event.get("type") not in (REQUEST, RESPONSE):
        return f"type {event.get('type')!r}, must be {REQUEST} or {RESPONSE}"
    if not isinstance(revision, str) and not isinstance(event.get("source"), str):
        return "no revision: neither annotations nor source"
    try:
        datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return f"time {event.get('time')!r} is not RFC 3339"
    return None


def _parse(limit: int) -> str:
    """One row per line. `seen_at` is NULL where the line lacks anything that it needs."""
    return f"""
        SELECT * REPLACE (
            CASE WHEN record_id IS NOT NULL AND kind IS NOT NULL AND revision IS NOT NULL THEN seen_at END AS seen_at
        )
        FROM (
            SELECT id AS record_id,
                coalesce({_given("x-call-id")}, id) AS request_id,
                {_given("x-request-id")} AS caller_id,
                coalesce(annotations."rampgate.io/revision", source) AS revision,
                CASE type WHEN '{REQUEST}' THEN 'request' WHEN '{RESPONSE}' THEN 'response' END AS kind,
                TRY_CAST(time AS TIMESTAMPTZ) AS seen_at,
                {_given("x-unit-id")} AS unit_id,
                annotations."rampgate.io/version" AS version,
                metadata."x-assignment"[1] AS assignment,
                latencyms AS latency_ms,
                status,
                list_transform(
                    CASE type WHEN '{REQUEST}' THEN data.inputs WHEN '{RESPONSE}' THEN data.outputs END,
                    lambda t: struct_pack(name := t.name, shape := t.shape, datatype := t.datatype, data := {_flat("t.data")})
                ) AS tensors,
                parse_filename(filename) AS segment
            FROM read_json($paths, format = 'newline_delimited', columns = {_LINE}, ignore_errors = true,
                filename = true, maximum_object_size = {limit})
        )"""


def _given(header: str) -> str:
    """SQL of a recorded header; one that is blank was not given."""
    value = f'metadata."{header}"[1]'
    return f"CASE WHEN trim({value}, ' \t') <> '' THEN {value} END"


def _typed(features: Fields, outputs: Fields, limit: int) -> str:
    inputs, wrong_input = tensor_struct("features", features, row="0")
    answers, wrong_answer = tensor_struct("outputs", outputs, row="0")
    answered = f"kind = 'response' AND (status IS NULL OR {ANSWERED})"
    return f"""
        SELECT record_id, request_id, caller_id, revision, kind, seen_at, unit_id, version, assignment, latency_ms, status, "rows",
            CASE WHEN kind = 'request' THEN {inputs} END AS features,
            CASE WHEN {answered} THEN {answers} END AS outputs,
            CASE WHEN kind = 'request' AND len(tensors) > 0 THEN {wrong_input}
                WHEN kind = 'request' THEN 'no input tensors' WHEN {answered} THEN {wrong_answer} END AS wrong,
            CASE WHEN "rows" > 1 THEN tensors END AS tensors, segment
        FROM (
            SELECT *, {TENSOR_LISTS.format(tensors="tensors", scope="")},
                greatest(1, least(coalesce(tensors[1].shape[1], 1), len(tensors[1].data)))::INTEGER AS "rows"
            FROM ({_parse(limit)})
        )"""
