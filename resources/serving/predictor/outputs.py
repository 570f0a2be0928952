"""What a model returns -> the v2 output tensors that its MLflow signature describes."""

import base64
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pandas as pd

from resources.registry.signature import Column, TypeKind
from resources.serving.predictor.inputs import PredictionFailed

_Array = np.ndarray[Any, np.dtype[Any]]


def output_tensors(predictions: Any, columns: Sequence[Column], *, rows: int) -> list[dict[str, Any]]:
    """v2 tensors (name, shape, datatype, data), one for each of the signature's outputs, in its order.

    One value per row is expected, as a data frame, a mapping of outputs, a list of mappings, or an array; a tuple has
    one element per output. What a nameless signature describes is found by place. Raises `PredictionFailed` where
    an output is missing, is not in the signature, has no value per row, or has a value of another type.
    """
    found = _named(predictions, columns)
    unknown = [name for name in found if name not in {column.name for column in columns}]
    missing = [column.name for column in columns if column.name not in found]
    if unknown or missing:
        raise PredictionFailed(
            f"the model returned {', '.join(map(repr, found)) or 'no output'}; its signature has"
            f" {', '.join(repr(column.name) for column in columns)}"
        )
    return [_tensor(column, found[column.name], rows) for column in columns]


def _named(predictions: Any, columns: Sequence[Column]) -> Mapping[str, Any]:
    match predictions:
        case pd.DataFrame():
            return _of_frame(predictions, columns)
        case Mapping():
            return {str(name): values for name, values in predictions.items()}
        case list() if predictions and all(isinstance(row, Mapping) for row in predictions):
            return _of_records(predictions)
        case tuple():
            return _of_tuple(predictions, columns)
        case None | str() | bytes():
            raise PredictionFailed(f"the model returned {_kind(predictions)}, expected one value per row")
        case _:
            return _of_array(predictions, columns)


def _of_frame(frame: pd.DataFrame, columns: Sequence[Column]) -> Mapping[str, Any]:
    names = [str(label) for label in frame.columns]
    if len(set(names)) < len(names):
        raise PredictionFailed(f"the model returned a data frame with a column twice: {', '.join(names)}")
    nameless = len(names) == len(columns) and all(column.label is not None for column in columns)
    if nameless:
        names = [column.name for column in columns]
    return {name: frame.iloc[:, place] for place, name in enumerate(names)}


def _of_records(records: list[Mapping[Any, Any]]) -> Mapping[str, Any]:
    if any(row.keys() != records[0].keys() for row in records):
        raise PredictionFailed("the model returned rows with different outputs")
    return {str(name): [row[name] for row in records] for name in records[0]}


def _of_tuple(values: tuple[Any, ...], columns: Sequence[Column]) -> Mapping[str, Any]:
    if len(values) != len(columns):
        raise PredictionFailed(
            f"the model returned a tuple of {len(values)}; its signature has {len(columns)} outputs, and a tuple is"
            " one element per output"
        )
    return {column.name: value for column, value in zip(columns, values, strict=True)}


def _of_array(values: Any, columns: Sequence[Column]) -> Mapping[str, Any]:
    if len(columns) == 1:
        return {columns[0].name: values}
    array = _array("a value", values)
    if array.ndim != 2 or array.shape[1] != len(columns):
        raise PredictionFailed(
            f"the model returned shape {list(array.shape)}, expected [n, {len(columns)}]: a column per output"
        )
    return {column.name: array[:, place] for place, column in enumerate(columns)}


def _array(name: str, values: Any) -> _Array:
    """Lists become arrays of objects: numpy would make text of a number beside a text."""
    try:
        array = _stacked(values) if isinstance(values, list | tuple) else np.asarray(values)
        if array.ndim == 1 and _holds_lists(array):
            array = _stacked([*array])  # a data frame's column of lists
    except ValueError:
        array = None
    if array is None or (array.ndim > 0 and _holds_lists(array)):
        raise PredictionFailed(f"the model returned {name} with rows of different lengths")
    return array


def _stacked(rows: Sequence[Any]) -> _Array:
    """Arrays keep their dtype: as objects, times would be numbers."""
    arrays = len(rows) > 0 and all(isinstance(row, np.ndarray) for row in rows)
    return np.stack(rows) if arrays else np.array(rows, dtype=object)


def _holds_lists(array: _Array) -> bool:
    return array.dtype == object and any(np.ndim(value) for value in array.flat)


def _tensor(column: Column, values: Any, rows: int) -> dict[str, Any]:
    array = _array(repr(column.name), values)
    if array.shape[:1] != (rows,) or not column.fits(array.shape):
        expected = column.dimensions.replace("n", str(rows), 1)
        raise PredictionFailed(
            f"the model returned {column.name!r} with shape {list(array.shape)}, expected {expected}"
        )
    return {
        "name": column.name,
        "shape": [rows, *array.shape[1:]] if column.shape else [rows],
        "datatype": column.datatype,
        "data": _data(column, array.ravel()),
    }


def _data(column: Column, array: _Array) -> list[Any]:
    """Flat, as JSON has it: NaN is null there."""
    if array.dtype == (column.dtype or column.kind.dtype) and array.dtype.kind in "biuf":
        return array.tolist()
    items = list(array) if array.dtype.kind in "Mm" else array.tolist()
    return [_value(column, value) for value in items]


def _value(column: Column, value: Any) -> Any:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    try:
        return _VALUES[column.type](column.kind, value)
    except (TypeError, ValueError, OverflowError):
        raise PredictionFailed(
            f"the model returned {_kind(value)} in {column.name!r}, which the signature calls {column.type}"
        ) from None


def _kind(value: Any) -> str:
    """What it is, and not which: it may be what the caller sent."""
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _boolean(_: TypeKind, value: Any) -> bool:
    return bool(_one_of(value, bool, np.bool_))


def _whole(kind: TypeKind, value: Any) -> int:
    number, limit = _number(kind, value, exact=True), 2 ** ((kind.bits or 0) - 1)
    if number != int(number) or not -limit <= number < limit:
        raise ValueError
    return int(number)


def _number(kind: TypeKind, value: Any, *, exact: bool = False) -> Any:
    if isinstance(value, bool):
        raise TypeError
    number = _one_of(value, int, float, np.integer, np.floating, Decimal)
    if exact:
        return number
    with np.errstate(over="ignore"):  # what is beyond the type is infinite, as the model's own cast has it
        return float(np.float32(float(number))) if kind.dtype == "float32" else float(number)


def _text(_: TypeKind, value: Any) -> str:
    text = str(_one_of(value, str))
    text.encode()  # half a surrogate pair is no text, and no JSON
    return text


def _binary(_: TypeKind, value: Any) -> str:
    return base64.b64encode(_one_of(value, bytes, bytearray)).decode()


def _moment(_: TypeKind, value: Any) -> str:
    moment = pd.Timestamp(_one_of(value, dt.date, np.datetime64))
    utc = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    return cast(pd.Timestamp, utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _one_of(value: Any, *types: type) -> Any:
    if not isinstance(value, types):
        raise TypeError
    return value


_VALUES = cast(
    Mapping[str, Callable[[TypeKind, Any], Any]],
    {
        "boolean": _boolean, "integer": _whole, "long": _whole, "float": _number, "double": _number,
        "string": _text, "binary": _binary, "datetime": _moment,
    },
)  # fmt: skip
