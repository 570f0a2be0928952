"""Logged requests that the champion answered: what callers really send, and what came of it."""

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from duckdb import DuckDBPyConnection

from pipelines.core.manifest.model import RolloutManifest
from resources.lake.connection import Lake, identifier, table
from resources.lake.schema import ANSWERED, KEY, exists, fields, one_request
from resources.registry.signature import Column, ModelSchema

_SKEW = dt.timedelta(seconds=5)
"""How far the clocks of whoever predicts and whoever observes may disagree."""

_ANSWERED = f"p.version = $champion AND p.assignment = 'weighted' AND p.{ANSWERED}"

Row = Mapping[str, Any]
"""One row as it was sent: column -> value, without the columns that were left out."""


@dataclass(frozen=True, kw_only=True)
class LabelledRows:
    """Most recent first; `rows[i]`, `scores[i]` and `labels[i]` belong together."""

    rows: Sequence[Row]
    scores: Sequence[float]
    """What the champion answered."""
    labels: Sequence[float]


def logged_rows(lake: Lake, manifest: RolloutManifest, champion: str, schema: ModelSchema) -> Sequence[Row]:
    """At most `validation.rows` rows that the champion answered to callers, most recent first.

    `schema` is the champion's: these are the columns that its callers send. Rows that the log does not hold whole are
    left out; none where nothing was logged. Raises LakeError.
    """
    with lake.connect() as connection:
        columns = _logged_columns(connection, manifest.model, schema)
        if not columns:
            return []
        values = ", ".join(f"p.features.{identifier(column.name)}" for column in columns)
        query = f"""
            SELECT {values} FROM {table(manifest.model, "predictions")} p WHERE {_ANSWERED}
            ORDER BY p.requested_at DESC, p.request_id, p."row" LIMIT $rows"""
        parameters = {"champion": champion, "rows": manifest.validation.rows}
        found = connection.execute(query, parameters).fetchall()
    return [row for row in _rows(columns, found) if row is not None]


def labelled_rows(
    lake: Lake, manifest: RolloutManifest, champion: str, schema: ModelSchema, *, score: str
) -> LabelledRows:
    """At most `validation.rows` of the champion's live answers with a finite score and an outcome.

    The label is the latest value of `validation.label` seen within the outcome window of the request: a
    correction replaces what it corrects. Requests of several rows are left out, since an outcome does not say
    which row it is about; so are requests that their caller gave one id. Raises LakeError.
    """
    with lake.connect() as connection:
        columns = _logged_columns(connection, manifest.model, schema)
        if not columns:
            return LabelledRows(rows=[], scores=[], labels=[])
        found = connection.execute(
            _labelled(manifest, columns, score),
            {
                "champion": champion,
                "label": manifest.validation.label,
                "skew": _SKEW,
                "window": manifest.experiment.outcome_window,
                "rows": manifest.validation.rows,
            },
        ).fetchall()
    rows = _rows(columns, [values[2:] for values in found])
    whole = [(row, values) for row, values in zip(rows, found, strict=True) if row is not None]
    return LabelledRows(
        rows=[row for row, _ in whole],
        scores=[values[0] for _, values in whole],
        labels=[values[1] for _, values in whole],
    )


def _labelled(manifest: RolloutManifest, columns: Sequence[Column], score: str) -> str:
    key, unique = (
        (KEY, one_request("request_id")) if manifest.experiment.unit == "request" else ("unit_id", "")
    )
    values = ", ".join(f"any_value(p.features.{identifier(column.name)})" for column in columns)
    return f"""
        SELECT any_value(p.outputs.{identifier(score)})::DOUBLE AS score, arg_max(o.value, o."at") AS label, {values}
        FROM (SELECT *, {key} AS key FROM {table(manifest.model, "predictions")} {unique}) p
        JOIN {table(manifest.model, "outcomes")} o USING (key)
        WHERE {_ANSWERED} AND o.metric = $label
            AND o."at" BETWEEN p.requested_at - $skew AND p.requested_at + $window
        GROUP BY p.request_id, p.revision
        HAVING count(DISTINCT p."row") = 1 AND isfinite(score)
        ORDER BY max(p.requested_at) DESC, p.request_id LIMIT $rows"""


def _logged_columns(connection: DuckDBPyConnection, model: str, schema: ModelSchema) -> Sequence[Column]:
    """The columns of the signature that the lake holds; none where it lacks one that callers must send."""
    if not exists(connection, model):
        return []
    held = {name.lower() for name in fields(connection, model)[0]}
    if any(column.required and column.name.lower() not in held for column in schema.inputs):
        return []
    return [column for column in schema.inputs if column.name.lower() in held]


def _rows(columns: Sequence[Column], found: Sequence[Sequence[Any]]) -> list[Row | None]:
    """None for a row that the log does not hold whole.

    The log does not tell a null from a column that was left out. An optional column that nobody gave a value was left
    out; elsewhere a null was sent, where the type allows one.
    """
    given = [column.required or any(row[i] is not None for row in found) for i, column in enumerate(columns)]
    kept = [index for index, is_given in enumerate(given) if is_given]
    return [_row([(columns[i], row[i]) for i in kept]) for row in found]


def _row(pairs: Sequence[tuple[Column, Any]]) -> Row | None:
    lost = [column for column, value in pairs if not _is_whole(column, value)]
    if any(column.required for column in lost):
        return None
    return {column.name: _sent(column, value) for column, value in pairs if column not in lost} or None


def _is_whole(column: Column, value: Any) -> bool:
    """The lake flattens lists: two unknown lengths cannot be told from their product. Null is no integer, and no list."""
    if value is None:
        return column.has_null
    return sum(size < 0 for size in column.shape) < 2


def _sent(column: Column, value: Any) -> Any:
    """As JSON has it: times and bytes as text, lists with their dimensions."""
    if isinstance(value, list):
        flat = [_plain(each) for each in cast(list[Any], value)]
        return flat if len(column.shape) < 2 else np.array(flat, dtype=object).reshape(column.shape).tolist()
    return _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if isinstance(value, dt.date) else value
