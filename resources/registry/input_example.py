"""MLflow's saved input example as an Open Inference Protocol v2 request."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from pipelines.errors import VersionRefused
from resources.lake.schema import Column, ModelSchema

DATATYPES: Mapping[str, str] = {
    "double": "FP64", "float": "FP32", "long": "INT64", "integer": "INT32", "boolean": "BOOL",
    "string": "BYTES", "datetime": "BYTES",
}  # fmt: skip
_FORMATS = "dataframe_split, dataframe_records, inputs or instances"


def v2_request(example: Mapping[str, Any], schema: ModelSchema) -> dict[str, Any]:
    """`{"inputs": [{"name", "shape": [n], "datatype", "data"}]}`, one tensor per column of the signature.

    `example` is a scoring request as MLflow saves it. Raises `VersionRefused` where it does not fit.
    """
    try:
        columns = _columns(example)
    except (LookupError, TypeError, AttributeError) as error:
        raise VersionRefused(f"the input example cannot be read: {error!r}; expected {_FORMATS}") from error
    missing = [column.name for column in schema.inputs if column.name not in columns]
    if missing:
        raise VersionRefused(
            f"the input example has no column {missing[0]!r}, which the signature names; it has"
            f" {', '.join(columns) or 'none'}"
        )
    rows = {name: len(columns[name]) for name in (column.name for column in schema.inputs)}
    if 0 in rows.values() or len(set(rows.values())) != 1:
        raise VersionRefused(f"the input example has no rows, or not as many in each column: {rows}")
    return {"inputs": [_tensor(column, columns[column.name]) for column in schema.inputs]}


def _columns(example: Mapping[str, Any]) -> dict[str, list[Any]]:
    split = example.get("dataframe_split")
    if isinstance(split, Mapping):
        rows = cast(list[list[Any]], split["data"])
        return {str(name): [row[i] for row in rows] for i, name in enumerate(split["columns"])}
    records = example.get("dataframe_records", example.get("instances"))
    if isinstance(records, list) and records and isinstance(records[0], Mapping):
        rows = cast(list[Mapping[str, Any]], records)
        return {str(name): [row.get(name) for row in rows] for name in rows[0]}
    inputs = example.get("inputs")
    if isinstance(inputs, Mapping):
        named = cast(Mapping[str, Any], inputs)
        return {name: value if isinstance(value, list) else [value] for name, value in named.items()}
    raise VersionRefused(f"the input example has no named columns: expected {_FORMATS}, has {list(example)}")


def _tensor(column: Column, values: Sequence[Any]) -> dict[str, Any]:
    return {
        "name": column.name,
        "shape": [len(values)],
        "datatype": DATATYPES[column.type],
        "data": [_value(column, value) for value in values],
    }


def _value(column: Column, value: Any) -> Any:
    """JSON has neither NaN nor infinity: unknown numbers travel as null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    whole = column.type in ("long", "integer") and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value
