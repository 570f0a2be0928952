"""MLflow's saved input example as an Open Inference Protocol v2 request."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipelines.errors import VersionRefused
from resources.signature import Column, ModelSchema, v2_tensor

_FORMATS = "dataframe_split, dataframe_records, inputs or instances"


def v2_request(example: Mapping[str, Any], schema: ModelSchema) -> dict[str, Any]:
    """`{"inputs": [{"name", "shape": [n, ...], "datatype", "data"}]}`, one tensor per column of the signature.

    `example` is a scoring request as MLflow saves it. An optional column that it lacks, or that is
    null where numpy has no null, is left out. Raises `VersionRefused` where it does not fit.
    """
    try:
        columns = _columns(example, schema.inputs)
    except (LookupError, TypeError, AttributeError) as error:
        raise VersionRefused(f"the input example cannot be read: {error!r}; expected {_FORMATS}") from error
    found = {column.name: _given(column, columns) for column in schema.inputs}
    rows = {name: len(values) for name, values in found.items() if values is not None}
    if not rows or 0 in rows.values() or len(set(rows.values())) != 1:
        raise VersionRefused(f"the input example has no rows, or not as many in each column: {rows}")
    return {
        "inputs": [
            v2_tensor(column, values)
            for column in schema.inputs
            if (values := found[column.name]) is not None
        ]
    }


def _given(column: Column, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any] | None:
    """The column's values; None where it is optional and left out, or null, which nothing else says of an integer."""
    values = columns.get(column.name, columns.get(str(column.label)))
    if values is None and column.required:
        raise VersionRefused(
            f"the input example has no column {column.name!r}, which the signature names; it has"
            f" {', '.join(columns) or 'none'}"
        )
    if values is None:
        return None
    silent = not column.required and not column.has_null and all(value is None for value in values)
    return None if silent else values


def _columns(example: Mapping[str, Any], wanted: Sequence[Column]) -> dict[str, Sequence[Any]]:
    split = example.get("dataframe_split")
    if isinstance(split, Mapping):
        return _table(split["data"], split.get("columns"))
    records = example.get("dataframe_records", example.get("instances"))
    if isinstance(records, list) and records and isinstance(records[0], Mapping):
        return _records(cast(list[Mapping[str, Any]], records))
    inputs = example.get("inputs", records)
    if isinstance(inputs, Mapping):
        kinds = {column.name: column for column in wanted}
        named = cast(Mapping[str, Any], inputs)
        return {name: _rows(value, kinds.get(name)) for name, value in named.items()}
    if inputs is not None and all(column.label is not None for column in wanted):
        return _nameless(inputs, wanted)
    raise VersionRefused(f"the input example has no named columns: expected {_FORMATS}, has {list(example)}")


def _records(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {str(name): [row.get(name) for row in rows] for name in names}


def _table(rows: list[Any], names: list[Any] | None) -> dict[str, Sequence[Any]]:
    """MLflow leaves out names that are 0, 1, ..."""
    known = range(len(rows[0]) if rows else 0) if names is None else names
    return {str(name): [row[place] for row in rows] for place, name in enumerate(known)}


def _rows(value: Any, column: Column | None) -> Sequence[Any]:
    """One value per row. A single value is one row; so is a single list for an array, but not for a tensor."""
    if not isinstance(value, list):
        return [value]
    values = cast(list[Any], value)
    one_array = column is not None and column.many and not column.dtype
    return [values] if one_array and not any(isinstance(item, list) for item in values) else values


def _nameless(inputs: Any, wanted: Sequence[Column]) -> dict[str, Sequence[Any]]:
    """A list of rows, each a list of values where there are several columns."""
    rows: list[Any] = inputs if isinstance(inputs, list) else [inputs]
    if rows and isinstance(rows[0], Mapping):
        return _records(rows)
    if len(wanted) == 1:
        return {"0": rows}
    return _table(rows, None)
