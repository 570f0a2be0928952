"""Reads prediction segments into a typed temporary table, one set-based pass over the JSON.

`events` holds one row per line (half a prediction). `record_id` is the line's own id, `request_id` the call that it
answers (the gateway's id of it, or the record's where there is none), `caller_id` what the caller named it. Tensors
are found by name, without regard to case; nested data is flattened, row-major, as the protocol allows both. Row 0 is
typed at once; only batches (`rows` > 1) keep their tensors, for `pairing` to type the other rows.

Nothing here may hold a request's tensors once for each of its rows: memory is linear in what callers send.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from pipelines.core.manifest.model import PredictionLog
from resources.lake.connection import identifier, literal
from resources.lake.schema import ANSWERED, Fields
from resources.lake.segments import has_nul, moment, no_moment
from resources.prediction_log.cloudevents import LEFT_OUT, LONGEST_ID, REQUEST, RESPONSE

_TENSORS = "STRUCT(name VARCHAR, shape BIGINT[], datatype VARCHAR, data JSON)[]"

_DEEPEST = 6
"""Dimensions of nested data: more than a batch of videos has."""

_LINE = (
    "{id: 'VARCHAR', type: 'VARCHAR', time: 'VARCHAR', source: 'VARCHAR', latencyms: 'DOUBLE', status: 'INTEGER',"
    """ metadata: 'STRUCT("x-unit-id" VARCHAR[], "x-assignment" VARCHAR[], "x-call-id" VARCHAR[],"""
    f""" "x-request-id" VARCHAR[], "{LEFT_OUT}" VARCHAR[])',"""
    """ annotations: 'STRUCT("rampgate.io/version" VARCHAR, "rampgate.io/revision" VARCHAR)',"""
    f" data: 'STRUCT(inputs {_TENSORS}, outputs {_TENSORS})'}}"
)


def read_events(
    connection: DuckDBPyConnection,
    paths: Sequence[Path],
    features: Fields,
    outputs: Fields,
    *,
    limits: PredictionLog,
    longest_line: int,
) -> None:
    """Fill the temporary tables `events`, and `malformed` (segment, lines) for files with unusable lines.

    No line of `paths` may have more than `longest_line` bytes.
    """
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE events AS {_typed(features, outputs, longest_line)}",
        {"paths": [str(path) for path in paths], "max_rows": limits.max_rows},
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE malformed AS"
        " SELECT segment, count(*) AS lines FROM events WHERE seen_at IS NULL GROUP BY segment"
    )
    connection.execute("DELETE FROM events WHERE seen_at IS NULL")


def place(names: str, name: str, *, only: bool) -> str:
    """SQL of where a column's tensor is among `names` (in lower case), from 1; the only one of its side needs no name."""
    # In DuckDB's own lower case, on both sides: Python has another one for a few letters.
    found = f"list_position({names}, lower({literal(name)}))"
    return f"coalesce({found}, 1)" if only else found


def tensor_struct(struct: str, columns: Fields, raws: Sequence[str]) -> tuple[str, str]:
    """SQL for one row's struct, and for the values in it that do not fit their column, in words (or NULL).

    `raws` is the SQL of each column's text in that row; of a list of texts, where the column is a list.
    """
    values: list[str] = []
    misfits: list[tuple[str, str]] = []
    for (name, kind), raw in zip(columns.items(), raws, strict=True):
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


def _first_row(columns: Fields) -> list[str]:
    """SQL of each column's text in row 0; expects `names`, `firsts`, and `heads` where a column is a list."""
    places = [(kind, place("names", name, only=len(columns) == 1)) for name, kind in columns.items()]
    return [f"heads[{at}]" if kind.endswith("[]") else f"firsts[{at}]" for kind, at in places]


def problem(event: dict[str, Any], *, max_rows: int) -> str | None:
    """What makes a line of JSON unusable; the same conditions as in SQL, in words."""
    annotations = event.get("annotations")
    revision = annotations.get("rampgate.io/revision") if isinstance(annotations, dict) else None
    if not isinstance(event.get("id"), str):
        return "no id"
    if event.get("type") not in (REQUEST, RESPONSE):
        return f"type {event.get('type')!r}, must be {REQUEST} or {RESPONSE}"
    if not isinstance(revision, str) and not isinstance(event.get("source"), str):
        return "no revision: neither annotations nor source"
    if "\0" in (revision if isinstance(revision, str) else event["source"]):
        return "a revision with a NUL"
    wrong = no_moment("time", event.get("time"))
    if wrong is not None:
        return wrong
    rows = _rows(event)
    if rows > max_rows:
        return f"{rows:,} rows in one request; prediction_log.max_rows allows {max_rows:,}"
    return None


def _rows(event: dict[str, Any]) -> int:
    """How many rows a line's first tensor has; 1 where it has none that can be read."""
    data = event.get("data")
    tensors = (
        data.get("inputs" if event["type"] == REQUEST else "outputs") if isinstance(data, dict) else None
    )
    first = tensors[0] if isinstance(tensors, list) and tensors else None
    if not isinstance(first, dict):
        return 1
    shape, values = first.get("shape"), first.get("data")
    said = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else 1
    for _ in range(_DEEPEST):
        if not isinstance(values, list) or not values or not isinstance(values[0], list):
            break
        values = [item for value in values if isinstance(value, list) for item in value]
    return max(1, min(said, len(values) if isinstance(values, list) else 1))


def _parse(limit: int) -> str:
    """One row per line. `seen_at` is NULL where the line lacks anything that it needs, or has more than it may."""
    return f"""
        SELECT * REPLACE (
            CASE WHEN record_id IS NOT NULL AND kind IS NOT NULL AND revision IS NOT NULL AND "rows" <= $max_rows
                THEN seen_at END AS seen_at,
            "rows"::INTEGER AS "rows"
        )
        FROM (SELECT *,
            greatest(1, least(coalesce(tensors[1].shape[1], 1), len(tensors[1].data))) AS "rows"
        FROM (
            SELECT {_RECORD_ID} AS record_id,
                coalesce({_given("x-call-id")}, {_RECORD_ID}) AS request_id,
                {_given("x-request-id")} AS caller_id,
                {_without_nul('coalesce(annotations."rampgate.io/revision", source)')} AS revision,
                CASE type WHEN '{REQUEST}' THEN 'request' WHEN '{RESPONSE}' THEN 'response' END AS kind,
                {moment("time")} AS seen_at,
                {_given("x-unit-id")} AS unit_id,
                {_without_nul('annotations."rampgate.io/version"')} AS version,
                {_given("x-assignment")} AS assignment,
                latencyms AS latency_ms,
                status,
                list_transform(
                    CASE type WHEN '{REQUEST}' THEN data.inputs WHEN '{RESPONSE}' THEN data.outputs END,
                    lambda t: struct_pack(name := t.name, shape := t.shape, datatype := t.datatype, data := {_flat("t.data")})
                ) AS tensors,
                {_LEFT_OUT} AS left_out,
                parse_filename(filename) AS segment
            FROM read_json($paths, format = 'newline_delimited', columns = {_LINE}, ignore_errors = true,
                filename = true, maximum_object_size = {limit})
        ))"""


def _given(header: str) -> str:
    """SQL of a recorded header; one that is blank was not given; one that is too long, or has a NUL, names nothing."""
    value = f'metadata."{header}"[1]'
    usable = f"trim({value}, ' \t') <> '' AND strlen({value}) <= {LONGEST_ID} AND NOT {has_nul(value)}"
    return f"CASE WHEN {usable} THEN {value} END"


def _without_nul(value: str) -> str:
    return f"CASE WHEN NOT {has_nul(value)} THEN {value} END"


def _too_long(header: str) -> str:
    value = f'metadata."{header}"[1]'
    return (
        f"CASE WHEN strlen({value}) > {LONGEST_ID} THEN concat('{header} of ', strlen({value}), ' bytes') END"
    )


_RECORD_ID = (
    f"CASE WHEN strlen(id) > {LONGEST_ID} OR {has_nul('id')} THEN 'sha256-' || sha256(id) ELSE id END"
)
"""A caller's own `Ce-Id` may be of any length: both halves of a record have it, and must find each other."""

_HEADERS = ("x-unit-id", "x-request-id", "x-call-id", "x-assignment")

_LEFT_OUT = (
    f"""nullif(concat_ws(', ', metadata."{LEFT_OUT}"[1], {", ".join(map(_too_long, _HEADERS))}), '')"""
)
"""Headers that are no ids because they are too long: those that the predictor left out, and those that are found here."""


def _typed(features: Fields, outputs: Fields, limit: int) -> str:
    inputs, wrong_input = tensor_struct("features", features, _first_row(features))
    answers, wrong_answer = tensor_struct("outputs", outputs, _first_row(outputs))
    answered = f"kind = 'response' AND (status IS NULL OR {ANSWERED})"
    left_out = (
        f"CASE WHEN kind = 'request' THEN left_out || ', longer than {LONGEST_ID}: not taken as an id' END"
    )
    return f"""
        SELECT record_id, request_id, caller_id, revision, kind, seen_at, unit_id, version, assignment, latency_ms, status, "rows",
            CASE WHEN kind = 'request' THEN {inputs} END AS features,
            CASE WHEN {answered} THEN {answers} END AS outputs,
            nullif(concat_ws('; ', CASE WHEN kind = 'request' AND len(tensors) > 0 THEN {wrong_input}
                WHEN kind = 'request' THEN 'no input tensors' WHEN {answered} THEN {wrong_answer} END, {left_out}), '')
                AS wrong,
            CASE WHEN "rows" > 1 THEN tensors END AS tensors, segment
        FROM (
            SELECT *, list_transform(tensors, lambda t: lower(t.name)) AS names,
                list_transform(tensors, lambda t: t.data[1]) AS firsts,
                list_transform(tensors, lambda t: t.data[1 : len(t.data) // "rows"]) AS heads
            FROM ({_parse(limit)})
        )"""
