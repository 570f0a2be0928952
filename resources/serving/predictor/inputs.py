"""v2 input tensors -> what the model's MLflow signature describes: a data frame, or arrays."""

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from pipelines.core.errors import RampgateError
from resources.registry.signature import Column


class NoPrediction(RampgateError):
    """A request was answered without a prediction; the message goes to the caller and into the log."""

    status: ClassVar[int] = 500


class BadInput(NoPrediction):
    """The caller's tensors do not fit the signature: not a failure of the model."""

    status = 400


class TooLarge(NoPrediction):
    """More rows or bytes than one request may have; none of it is recorded but that it came."""

    status = 413


class PredictionFailed(NoPrediction):
    """The model raised, or returned something that is not one prediction a row."""

    status = 500


class NotRecorded(NoPrediction):
    """The prediction could not be logged: an answer without a record would be a silent loss."""

    status = 503


# v2 input tensors -> what the model's MLflow signature describes: a data frame, or arrays.


_Array = np.ndarray[Any, np.dtype[Any]]

_NULL = type(None)

# What pandas and DuckDB read alike; pandas alone would also take `now`, and DuckDB `epoch`.
_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d(?P<time>[T ]\d\d:\d\d(:\d\d(\.\d{1,9})?(?P<offset>Z|[+-]\d\d(:?\d\d)?)?)?)?", re.ASCII
)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One v2 input tensor; `data` flat or nested, as the caller sent it."""

    name: str
    shape: Sequence[int]
    datatype: str
    data: Sequence[Any]


@dataclass(frozen=True)
class Inputs:
    """What a model takes, in the signature's order."""

    columns: tuple[Column, ...]

    def read(self, tensors: Sequence[Tensor]) -> tuple[Any, int]:
        """What the model is asked with, and its number of rows.

        A data frame with the signature's dtypes; for a signature of tensors a mapping of arrays, or the one array that
        has no name. An optional column that was left out is null; it stays out where numpy has no null. Names are
        found without regard to case, as in the lake. Raises `BadInput` naming column and expectation.
        """
        given = self._by_name(tensors)
        values = {
            column.name: _values(column, given[column.name])
            for column in self.columns
            if column.name in given
        }
        rows = {name: len(array) for name, array in values.items() if array is not None}
        if len(set(rows.values())) != 1:
            raise BadInput(
                f"columns have different numbers of rows: {rows}" if rows else "no column is given"
            )
        count = next(iter(rows.values()))
        if self.columns[0].dtype:
            return self._arrays(values), count
        return self._frame(values, count), count

    def _arrays(self, values: Mapping[str, Any]) -> Any:
        """MLflow knows a tensor that has no name as an array of its own."""
        return values if self.columns[0].label is None else values[self.columns[0].name]

    def _frame(self, values: Mapping[str, Any], rows: int) -> pd.DataFrame:
        found: dict[str | int, Any] = {}
        for column in self.columns:
            array = values.get(column.name)
            if array is None and not column.has_null:
                continue
            label = column.name if column.label is None else column.label
            found[label] = np.array([None] * rows, dtype=column.kind.dtype) if array is None else array
        return pd.DataFrame(found, copy=False)

    def _by_name(self, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Column's name -> its tensor."""
        names = {column.name.lower(): column.name for column in self.columns}
        given: dict[str, Tensor] = {}
        for tensor in tensors:
            name = names.get(tensor.name.lower())
            if name is None:
                raise BadInput(
                    f"column {_shown(tensor.name)} is not in the signature; expected {', '.join(names.values())}"
                )
            if name in given:
                raise BadInput(f"column {name!r} is given twice")
            given[name] = tensor
        for column in self.columns:
            if column.required and column.name not in given:
                raise BadInput(f"column {column.name!r} is missing; expected {expected(column)}")
        return given


def expected(column: Column) -> str:
    """The tensor that holds a column, in words."""
    shape = column.dimensions if column.many else "[n] or [n, 1]"
    form = f" ({column.kind.form})" if column.kind.form else ""
    null = ", null allowed" if _takes_null(column) else ""
    return f"{column.datatype} of shape {shape}{form}{null}"


def _takes_null(column: Column) -> bool:
    """A list cannot be null, but what is in it can; MLflow takes an optional boolean as an object."""
    optional_boolean = column.type == "boolean" and not column.required and not column.many
    return optional_boolean or (_NULL in column.kind.values and column.dtype != "str")


def _values(column: Column, tensor: Tensor) -> Any:
    """The column's values with its dtype: an array of shape [n, ...], or a list of arrays for an array column.

    None for an optional column of nulls alone. Raises `BadInput`.
    """
    data = _flat(column, tensor)
    if not column.required and all(value is None for value in data):
        return None if not column.has_null else _converted(column, data)
    if tensor.datatype not in column.kind.accepts:
        raise _wrong(column, f"has datatype {tensor.datatype:.80}")
    _check(column, data, len(data) // tensor.shape[0])
    array = _converted(column, data)
    if not column.many:
        return array.reshape(-1, *column.shape)
    array = array.reshape(tensor.shape)
    return array if column.dtype else _lists(column, array)


def _check(column: Column, data: Sequence[Any], each: int) -> None:
    null = frozenset({_NULL})
    allowed = column.kind.values | null if _takes_null(column) else column.kind.values - null
    if set(map(type, data)) <= allowed:
        infinite = next((i for i, v in enumerate(data) if type(v) is float and math.isinf(v)), None)
        if infinite is None:
            return
        raise _wrong(column, f"has an infinite value in row {infinite // each}")
    for place, value in enumerate(data):
        if type(value) not in allowed:
            raise _wrong(column, f"has a value of type {type(value).__name__} in row {place // each}")


def _converted(column: Column, data: Sequence[Any]) -> _Array:
    dtype = column.dtype or column.kind.dtype
    if column.type == "boolean" and None in data:
        dtype = "object"
    try:
        with np.errstate(over="raise"):
            return np.array(_parsed(column, data), dtype=dtype)
    except (OverflowError, FloatingPointError) as error:
        raise _wrong(column, "has a value that is out of range") from error
    except (ValueError, binascii.Error) as error:  # its text would quote the value
        raise _wrong(column, "has a value that cannot be read") from error


def _parsed(column: Column, data: Sequence[Any]) -> Any:
    match column.type:
        case "binary":
            return [None if value is None else base64.b64decode(value, validate=True) for value in data]
        case "datetime":
            return _moments(data)
        case _:
            return data


def _moments(data: Sequence[Any]) -> Any:
    """In UTC, which a time without an offset is in already."""
    texts = [None if value is None else _with_offset(value) for value in data]
    moments = pd.to_datetime(pd.Series(texts, dtype="object"), format="ISO8601", utc=True)
    return moments.dt.tz_localize(None).to_numpy()


def _with_offset(text: str) -> str:
    """pandas would read a time that has none by the offset of the row before it."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError("not like 2026-01-31T12:00:00Z")
    if found["offset"]:
        return text
    return f"{text}Z" if found["time"] else f"{text}T00:00Z"


def _lists(column: Column, array: _Array) -> pd.Series:
    """One list per row, as MLflow's own server has it."""
    rows = list(array) if column.kind.list_is_array else array.tolist()
    return pd.Series(rows, dtype="object")


def _flat(column: Column, tensor: Tensor) -> Sequence[Any]:
    """The tensor's values, row-major, one row or more."""
    shape = list(tensor.shape)
    if not shape or min(shape) < 1 or not column.fits(shape):
        raise BadInput(
            f"column {column.name!r} has shape {_shown(shape)}; expected"
            f" {column.dimensions if column.many else '[n] or [n, 1]'}, one row or more"
        )
    data = tensor.data
    while data and all(isinstance(value, list) for value in data):
        if len({len(value) for value in data}) > 1:
            raise BadInput(
                f"column {column.name!r} has lists of different lengths; expected shape {_shown(shape)}"
            )
        data = [item for value in data for item in value]
    if len(data) != math.prod(shape):
        count = f"{len(data)} values; its shape {_shown(shape)} says {_shown(math.prod(shape))}"
        raise BadInput(f"column {column.name!r} has {count}")
    return data


def _wrong(column: Column, what: str) -> BadInput:
    return BadInput(f"column {column.name!r} {what}; expected {expected(column)}")


def _shown(given: object) -> str:
    """What a caller chose, cut short."""
    return f"{given!r:.80}"
