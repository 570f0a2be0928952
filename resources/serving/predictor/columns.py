"""v2 input tensors -> the data frame that the model's MLflow signature describes."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pipelines.errors import VersionRefused
from resources.serving.predictor.errors import BadInput

_INTEGERS = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_TEXT = frozenset({"BYTES"})
_NULL = type(None)


class _Kind(NamedTuple):
    """How values of one MLflow type arrive; `values` are the JSON types, exactly (a bool is no int)."""

    dtype: str
    datatype: str
    accepts: frozenset[str]
    values: frozenset[type]


_KINDS: Mapping[str, _Kind] = {
    "boolean": _Kind("bool", "BOOL", frozenset({"BOOL"}), frozenset({bool})),
    "integer": _Kind("int32", "INT32", _INTEGERS, frozenset({int})),
    "long": _Kind("int64", "INT64", _INTEGERS, frozenset({int})),
    "float": _Kind("float32", "FP32", _FLOATS | _INTEGERS, frozenset({float, int, _NULL})),
    "double": _Kind("float64", "FP64", _FLOATS | _INTEGERS, frozenset({float, int, _NULL})),
    "string": _Kind("object", "BYTES", _TEXT, frozenset({str, _NULL})),
    "binary": _Kind("object", "BYTES", _TEXT, frozenset({str, _NULL})),
    "datetime": _Kind("datetime64[ns]", "BYTES", _TEXT, frozenset({str, _NULL})),
}


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One v2 input tensor; `data` flat or nested, as the caller sent it."""

    name: str
    shape: Sequence[int]
    datatype: str
    data: Sequence[Any]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the signature. `kind` is MLflow's name of its type, such as `double`."""

    name: str
    kind: str
    required: bool = True

    @property
    def datatype(self) -> str:
        """The v2 datatype it is announced with."""
        return _KINDS[self.kind].datatype

    def values(self, tensor: Tensor) -> "np.ndarray[Any, np.dtype[Any]]":
        """The tensor's values with this column's dtype, shape [n]. Raises `BadInput`."""
        kind = _KINDS[self.kind]
        if tensor.datatype not in kind.accepts:
            raise self._wrong(f"has datatype {tensor.datatype}")
        data = _flat(tensor)
        for row, value in enumerate(data):
            if type(value) not in kind.values:
                raise self._wrong(f"has {value!r:.80} ({type(value).__name__}) in row {row}")
        try:
            return np.array(self._converted(data), dtype=kind.dtype)
        except (ValueError, OverflowError, binascii.Error) as error:
            raise self._wrong(f"cannot be read: {str(error).splitlines()[0]}") from error

    def _converted(self, data: Sequence[Any]) -> Any:
        if self.kind == "binary":
            return [None if value is None else base64.b64decode(value, validate=True) for value in data]
        if self.kind == "datetime":
            moments = pd.to_datetime(pd.Series(data, dtype="object"), format="ISO8601", utc=True)
            return moments.dt.tz_localize(None).to_numpy()
        return data

    def _wrong(self, what: str) -> BadInput:
        return BadInput(f"column {self.name!r} {what}; expected {self}")

    def __str__(self) -> str:
        kind = _KINDS[self.kind]
        meaning = {"binary": " (base64)", "datetime": " (ISO 8601)"}.get(self.kind, "")
        null = ", null allowed" if _NULL in kind.values else ""
        return f"{kind.datatype} of shape [n] or [n, 1]{meaning}{null}"


@dataclass(frozen=True)
class InputColumns:
    """The columns a model takes, in the signature's order."""

    columns: tuple[Column, ...]

    @classmethod
    def from_signature(cls, signature: Any) -> "InputColumns":
        """From an `mlflow.models.ModelSignature`. Raises `VersionRefused` where it has no plain columns."""
        if signature is None or signature.inputs is None:
            raise VersionRefused(
                "the model has no signature: log it with one (mlflow.models.infer_signature)"
            )
        schema = signature.inputs
        if schema.is_tensor_spec() or not schema.has_input_names():
            raise VersionRefused(
                "the signature has no named columns: log the model with a data frame's signature"
            )
        return cls(tuple(_column(spec) for spec in schema.inputs))

    def frame(self, tensors: Sequence[Tensor]) -> pd.DataFrame:
        """One row per prediction, dtypes of the signature. Raises `BadInput` naming column and expectation."""
        given = {tensor.name: tensor for tensor in tensors}
        self._check_names(tensors, given)
        values = {
            column.name: column.values(given[column.name]) for column in self.columns if column.name in given
        }
        rows = {name: len(array) for name, array in values.items()}
        if len(set(rows.values())) > 1:
            raise BadInput(f"columns have different numbers of rows: {rows}")
        return pd.DataFrame(values, copy=False)

    def _check_names(self, tensors: Sequence[Tensor], given: Mapping[str, Tensor]) -> None:
        expected = {column.name: column for column in self.columns}
        for column in self.columns:
            if column.required and column.name not in given:
                raise BadInput(f"column {column.name!r} is missing; expected {column}")
        for name in given:
            if name not in expected:
                raise BadInput(f"column {name!r} is not in the signature; expected {', '.join(expected)}")
        if len(given) < len(tensors):
            raise BadInput(f"a column is given twice: {[tensor.name for tensor in tensors]}")


def _column(spec: Any) -> Column:
    kind = getattr(spec.type, "name", str(spec.type))
    if kind not in _KINDS:
        raise VersionRefused(f"column {spec.name!r} has type {spec.type}, must be one of {', '.join(_KINDS)}")
    return Column(name=spec.name, kind=kind, required=spec.required)


def _flat(tensor: Tensor) -> Sequence[Any]:
    """The values of a tensor of shape [n] or [n, 1]."""
    shape = list(tensor.shape)
    rows = shape[0] if shape else 0
    if rows < 1 or shape[1:] not in ([], [1]):
        raise BadInput(f"column {tensor.name!r} has shape {shape}; expected [n] or [n, 1], one row or more")
    data = tensor.data
    if data and all(isinstance(value, list) and len(value) == 1 for value in data):
        data = [value[0] for value in data]
    if len(data) != rows:
        raise BadInput(f"column {tensor.name!r} has {len(data)} values; its shape {shape} says {rows}")
    return data
