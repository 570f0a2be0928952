"""Units told apart by an input of the model: which values there are, what a unit's slice is, and every metric's sums by slice."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.slices import MOST_VALUES
from resources.lake.connection import Lake, identifier, table
from resources.lake.experiment import ExperimentQuery, MetricQuery, Span
from resources.lake.schema import Fields, exists, fields
from resources.lake.sums import added_up, stacked, terms

LONGEST_VALUE = 100
"""Characters of a value; what begins alike up to there is one slice."""


class SliceBatch(NamedTuple):
    """What became final at one look, slice by slice, in the order of `slices_of`."""

    steps: tuple[int, ...]
    """Of the batch's units, growing."""
    sums: Mapping[str, Array]
    """By metric: shape (steps, slices, 2, 10), the champion before the challenger, the fields of Sums. No covariates."""


def sliceable(held: Fields) -> list[str]:
    """The inputs that units can be told apart by: one plain value each."""
    return [name for name, kind in held.items() if not kind.endswith("]") and kind != "BLOB"]


def inputs_held(lake: Lake, model: str) -> list[str]:
    """The same, as the lake holds them; none where it holds nothing of the model. Raises `LakeError`."""
    with lake.connect() as connection:
        return sliceable(fields(connection, model)[0]) if exists(connection, model) else []


def frequent_values(
    lake: Lake, model: str, column: str, *, versions: Sequence[str], start: datetime, until: datetime
) -> tuple[str, ...]:
    """The column's `MOST_VALUES` most frequent values in requests to these versions. Raises `LakeError` for a column that is not
    there."""
    with lake.connect() as connection:
        value = _value(column, fields(connection, model)[0])
        rows = connection.execute(
            f"""SELECT {value} AS value FROM {table(model, "predictions")}
            WHERE assignment = 'weighted' AND "row" = 0 AND list_contains($versions::VARCHAR[], version)
                AND requested_at >= $start AND requested_at < $until AND value IS NOT NULL
            GROUP BY value ORDER BY count(*) DESC, value LIMIT {MOST_VALUES}""",
            {"versions": list(versions), "start": start, "until": until},
        ).fetchall()
    return tuple(value for (value,) in rows)


def _value(column: str, held: Fields) -> str:
    """SQL of the value as text; NULL where there is none."""
    found = [name for name in sliceable(held) if name.lower() == column.lower()]
    if not found:
        allowed = ", ".join(sliceable(held)) or "none"
        raise LakeError(f"slices: {column!r} is no input of one plain value in the lake; it holds {allowed}")
    field = f"features.{identifier(found[0])}"
    known = (
        f"CASE WHEN NOT isnan({field}) THEN {field} END" if held[found[0]] in ("DOUBLE", "FLOAT") else field
    )
    return f"left(({known})::VARCHAR, {LONGEST_VALUE})"


# The unit's slice: of its first request, known before the answer.


def slice_names(query: ExperimentQuery) -> list[str]:
    """Of the columns that tell a unit's slices."""
    return [f"slice{k}" for k in range(len(query.slices))]


def slice_values(connection: DuckDBPyConnection, model: str, query: ExperimentQuery) -> str:
    """SQL of the values of a request, a column each, with a comma before each; of a batch those of its first row."""
    if not query.slices:
        return ""
    held = fields(connection, model)[0]
    values = zip(slice_names(query), (_value(column.name, held) for column in query.slices), strict=True)
    return "".join(
        f', arg_min_null({value}, requested_at) FILTER ("row" = 0) AS {name}' for name, value in values
    )


def placed(units: str, query: ExperimentQuery) -> str:
    """SQL of the units with the place of each value among its column's slices; takes the parameters `values<k>`."""
    names = slice_names(query)
    columns = [
        f"(coalesce(p{k}.place - 1, {len(column.values)} + ({name} IS NULL)::INTEGER))::UTINYINT AS {name}"
        for k, (name, column) in enumerate(zip(names, query.slices, strict=True))
    ]
    joins = [
        f"""LEFT JOIN (SELECT unnest($values{k}::VARCHAR[]) AS value, generate_subscripts($values{k}::VARCHAR[], 1) AS place) p{k}
            ON p{k}.value = found.{name}"""
        for k, name in enumerate(names)
    ]
    return f"SELECT found.* REPLACE ({', '.join(columns)}) FROM ({units}) found {' '.join(joins)}"


# Every metric's sums by slice.


def sum_by_slice(connection: DuckDBPyConnection, query: ExperimentQuery) -> SliceBatch:
    """Of what is in `unit_values`, the units that became final in their metric's span: one pass, whatever the number of metrics,
    columns and values."""
    metrics = [(i, m) for i, m in enumerate(query.metrics) if m.name in query.sliced]
    if not metrics:
        return SliceBatch((), {})
    spans = {m.name: _ended(query, m, query.sliced[m.name]) for _, m in metrics}
    several = len(set(spans.values())) > 1
    sums = [
        f"coalesce({term}{f' FILTER ({spans[m.name]})' if several else ''}, 0)::DOUBLE AS {name}_{i}"
        for i, m in metrics
        for name, term in terms(f"y{i}", f"d{i}", "0").items()
        if name in added_up(m.kind)
    ]
    names = slice_names(query)
    sets = ", ".join(f"(step, challenger, {name})" for name in names)
    found = connection.execute(
        f"""SELECT step, challenger, {", ".join(names)}, {", ".join(sums)}
        FROM (SELECT *, {_bucket_end(query)} AS ended FROM unit_values)
        WHERE {" OR ".join(f"({span})" for span in dict.fromkeys(spans.values()))}
        GROUP BY GROUPING SETS ({sets})"""
    ).fetchnumpy()
    return _batch(query, metrics, {name: _filled(column) for name, column in found.items()})


def _filled(column: Any) -> Array:
    """A slice's place is not there (-1) in the rows of another column."""
    return np.ma.filled(np.ma.asarray(column).astype(float), -1.0)


def _bucket_end(query: ExperimentQuery) -> str:
    """SQL of when the unit's bucket was over, in microseconds: at its end, or at that of its step."""
    width = query.bucket // timedelta(microseconds=1)
    cases = " ".join(
        f"WHEN {step:d} THEN {_microseconds(end)}"
        for step, end in query.step_ends().items()
        if end is not None
    )
    own = f"(epoch_us(exposed) // {width} + 1) * {width}"
    return f"least({own}, CASE step {cases} END)" if cases else own


def _ended(query: ExperimentQuery, metric: MetricQuery, span: Span) -> str:
    """SQL of whether a bucket became final in the span."""
    window = query.window_of(metric)
    upto = f"ended <= {_microseconds(span.watermark - window)}"
    return upto if span.after is None else f"{upto} AND ended > {_microseconds(span.after - window)}"


def _microseconds(at: datetime) -> int:
    return (at - datetime.fromtimestamp(0, at.tzinfo)) // timedelta(microseconds=1)


def _batch(
    query: ExperimentQuery, metrics: Iterable[tuple[int, MetricQuery]], found: Mapping[str, Array]
) -> SliceBatch:
    steps = sorted({int(step) for step in found["step"]})
    sizes = [len(column.slices) for column in query.slices]
    begins = np.cumsum([0, *sizes])
    places = sum(
        np.where(found[name] >= 0, begin + found[name], 0.0)
        for name, begin in zip(slice_names(query), begins, strict=False)
    )
    index = (
        np.searchsorted(steps, found["step"]),
        np.asarray(places, int),
        found["challenger"].astype(int),
    )

    def table(name: str) -> Array:
        made = np.zeros((len(steps), int(begins[-1]), 2))
        made[index] = found[name]
        return made

    sums = {m.name: stacked({name: table(f"{name}_{i}") for name in added_up(m.kind)}) for i, m in metrics}
    return SliceBatch(tuple(steps), sums)
