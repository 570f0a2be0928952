"""What a model version takes and gives: MLflow's signature, read without MLflow, and the one table of its types.

Registry, lake, probe and predictor all go by it. A column's name is text everywhere; a data frame's integer label
(`0`) is the name `0`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, cast

from pipelines.core.errors import VersionRefused

LONGEST_NAME = 255
"""Characters of a column's name."""

_HOW = "log the model with signature=mlflow.models.infer_signature(inputs, predictions)"

_INTEGERS = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))

_NUMBERS = frozenset({"FP16", "FP32", "FP64"}) | _INTEGERS

_TEXT = frozenset({"BYTES"})

_NULL = type(None)


class ColumnKind(StrEnum):
    """What the values of a column are, nulls aside."""

    NUMBERS = "numbers"
    BOOLEANS = "booleans"
    TEXT = "text"
    TIMES = "times"
    LISTS = "lists"
    OTHERS = "values of several kinds"

    @property
    def counts(self) -> bool:
        """Whether values have a mean: numbers, and booleans as 0 and 1."""
        return self in (ColumnKind.NUMBERS, ColumnKind.BOOLEANS)


class TypeKind(NamedTuple):
    """One of MLflow's types, wherever it goes."""

    holds: ColumnKind

    datatype: str
    """The v2 datatype that it is announced and answered with."""
    accepts: frozenset[str]
    """The v2 datatypes that hold it without loss."""
    values: frozenset[type]
    """The JSON types of its values, exactly: a bool is no int. Null is among them where numpy knows it."""
    dtype: str
    """numpy's, in the data frame that the model sees."""
    sql: str
    """DuckDB's, in the lake."""
    form: str = ""
    """How text stands for it."""
    bits: int | None = None
    """Of a whole number, with its sign."""
    list_is_array: bool = False
    """MLflow takes a list of these as an array alone: a list's numbers have 64 bits, and its times are numbers."""


KINDS: Mapping[str, TypeKind] = {
    "boolean": TypeKind(
        ColumnKind.BOOLEANS, "BOOL", frozenset({"BOOL"}), frozenset({bool}), "bool", "BOOLEAN"
    ),
    "integer": TypeKind(
        ColumnKind.NUMBERS, "INT32", _INTEGERS, frozenset({int}), "int32", "INTEGER", bits=32, list_is_array=True
    ),
    "long": TypeKind(ColumnKind.NUMBERS, "INT64", _INTEGERS, frozenset({int}), "int64", "BIGINT", bits=64),
    "float": TypeKind(
        ColumnKind.NUMBERS, "FP32", _NUMBERS, frozenset({float, int, _NULL}), "float32", "FLOAT", list_is_array=True
    ),
    "double": TypeKind(
        ColumnKind.NUMBERS, "FP64", _NUMBERS, frozenset({float, int, _NULL}), "float64", "DOUBLE"
    ),
    "string": TypeKind(ColumnKind.TEXT, "BYTES", _TEXT, frozenset({str, _NULL}), "object", "VARCHAR"),
    "binary": TypeKind(ColumnKind.OTHERS, "BYTES", _TEXT, frozenset({str, _NULL}), "object", "BLOB", "base64"),
    "datetime": TypeKind(
        ColumnKind.TIMES, "BYTES", _TEXT, frozenset({str, _NULL}), "datetime64[ns]", "TIMESTAMP", "ISO 8601",
        list_is_array=True,
    ),
}  # fmt: skip
"""Every member of `mlflow.types.DataType`, and the only list of them. An array of one of them is a list a row, as is a tensor."""

SQL_NUMBERS = frozenset(kind.sql for kind in KINDS.values() if kind.holds is ColumnKind.NUMBERS)
"""DuckDB's types of numbers, as far as the lake has them."""

SQL_COUNTS = frozenset(kind.sql for kind in KINDS.values() if kind.holds.counts)
"""Those, and that of booleans."""

REFUSED: Mapping[str, str] = {
    "object": "give each of its properties a column",
    "map": "give each of its keys a column",
    "any": "give it a type of its own",
    "sparkml_vector": "make it an array of doubles",
}
"""What else MLflow knows, and what to do instead: a v2 tensor holds values of one plain type."""


class _Tensor(NamedTuple):
    type: str
    datatype: str


_TENSORS: Mapping[str, _Tensor] = {
    "bool": _Tensor("boolean", "BOOL"),
    "int8": _Tensor("integer", "INT8"),
    "int16": _Tensor("integer", "INT16"),
    "int32": _Tensor("integer", "INT32"),
    "int64": _Tensor("long", "INT64"),
    "uint8": _Tensor("integer", "UINT8"),
    "uint16": _Tensor("integer", "UINT16"),
    "uint32": _Tensor("long", "UINT32"),
    "float16": _Tensor("float", "FP32"),  # KServe takes no FP16 as JSON
    "float32": _Tensor("float", "FP32"),
    "float64": _Tensor("double", "FP64"),
    "object": _Tensor("string", "BYTES"),
    "str": _Tensor("string", "BYTES"),
}
"""numpy's name of a tensor's dtype -> what it is as a column; uint64 fits no column of the lake."""


@dataclass(frozen=True)
class Column:
    """One column of a signature."""

    name: str
    type: str
    """One of `KINDS`."""
    shape: tuple[int, ...] = ()
    """Of one row's value: () for a single value, (3,) for a list of three, (-1,) for a list of any length."""
    required: bool = True
    """Without it the column may be left out, or null, which is the same."""
    label: int | None = None
    """What the model's own input is called, where that is no text: an integer label, or the place of a nameless one."""
    dtype: str = ""
    """numpy's, of a tensor; empty for a data frame's column."""

    @property
    def kind(self) -> TypeKind:
        return KINDS[self.type]

    @property
    def holds(self) -> ColumnKind:
        """What its values are in the lake."""
        return ColumnKind.LISTS if self.many else self.kind.holds

    @property
    def datatype(self) -> str:
        """The v2 datatype that it is announced and answered with."""
        return _TENSORS[self.dtype].datatype if self.dtype else self.kind.datatype

    @property
    def many(self) -> bool:
        """Whether the lake holds a list for each row, row-major where there are more dimensions."""
        return self.shape not in ((), (1,))

    @property
    def has_null(self) -> bool:
        """Whether numpy has a null for one of its values: a list is no value, and null is no `str`."""
        return _NULL in self.kind.values and not self.many and self.dtype != "str"

    @property
    def sql_type(self) -> str:
        """DuckDB's type."""
        return self.kind.sql + ("[]" if self.many else "")

    @property
    def dimensions(self) -> str:
        """Its tensor's shape in words: `[n]`, `[n, 3]`, `[n, k]`."""
        return "[" + ", ".join(["n", *("k" if size < 0 else str(size) for size in self.shape)]) + "]"

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape holds the column: [n] and [n, 1] are the same."""
        inner = tuple(shape[1:])
        if not self.many:
            return len(shape) > 0 and inner in ((), (1,))
        return len(inner) == len(self.shape) and all(
            size in (-1, found) for size, found in zip(self.shape, inner, strict=True)
        )


@dataclass(frozen=True)
class ModelSchema:
    """What a model version takes and gives. Raises `VersionRefused` for what cannot be served, or stored."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...]

    def __post_init__(self) -> None:
        for side, columns in (("input", self.inputs), ("output", self.outputs)):
            if not columns:
                raise VersionRefused(f"the signature has no {side}s: {_HOW}")
            _check(side, columns)

    @classmethod
    def of_mlflow(cls, signature: Mapping[str, Any] | None) -> "ModelSchema":
        """From `signature` in an `MLmodel` file, or `ModelSignature.to_dict()`. Raises `VersionRefused`."""
        written = signature or {}
        if not written.get("inputs") or not written.get("outputs"):
            missing = "signature with both inputs and outputs" if written else "signature"
            raise VersionRefused(f"the version has no {missing}: {_HOW}")
        return cls(*(_columns(side, written[f"{side}s"]) for side in ("input", "output")))

    def columns(self) -> list[str]:
        """`features.<name>` and `outputs.<name>` of each, as the lake and manifests call them."""
        return [
            *(f"features.{column.name}" for column in self.inputs),
            *(f"outputs.{column.name}" for column in self.outputs),
        ]


def _check(side: str, columns: Iterable[Column]) -> None:
    """Names become fields of a struct, which are told apart without regard to case."""
    seen: dict[str, Column] = {}
    for column in columns:
        name = column.name
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise VersionRefused(f"the {side} {name!r}: must be 1 to {LONGEST_NAME} printable characters")
        if column.type not in KINDS:
            raise VersionRefused(f"the {side} {name!r} has type {column.type!r}; {_allowed(column.type)}")
        if name.lower() in seen:
            other = seen[name.lower()].name
            raise VersionRefused(
                f"the {side}s have a second column {name!r} beside {other!r}: names differ in more than case,"
                " and an integer label is its text"
            )
        seen[name.lower()] = column


def _allowed(type_: str) -> str:
    hint = f"{REFUSED[type_]}; " if type_ in REFUSED else ""
    return f"{hint}allowed are {', '.join(KINDS)}, arrays of them and tensors"


def _columns(side: str, written: Any) -> tuple[Column, ...]:
    try:
        specs = json.loads(written) if isinstance(written, str) else written
        return tuple(_column(side, spec, place) for place, spec in enumerate(specs))
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise VersionRefused(f"the signature's {side}s cannot be read: {error!r}; {_HOW}") from error


def _column(side: str, spec: Mapping[str, Any], place: int) -> Column:
    """MLflow writes a column as {type, name, required}, an array as {type: array, items}, a tensor as {tensor-spec}.

    Older clients write no `required`: every column was.
    """
    given = spec.get("name")
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int)):
        raise VersionRefused(f"the {side} {given!r}: a column's name must be text or an integer")
    name = f"{side}_{place}" if given is None else str(given)
    label = given if isinstance(given, int) else place if given is None else None
    if spec["type"] == "tensor":
        return _tensor(side, name, label, spec["tensor-spec"])
    inner, depth = spec, 0
    while inner["type"] == "array":
        inner, depth = inner["items"], depth + 1
    required = spec.get("required") is not False
    return Column(name, str(inner["type"]), shape=(-1,) * depth, required=required, label=label)


def _tensor(side: str, name: str, label: int | None, spec: Mapping[str, Any]) -> Column:
    shape, dtype = tuple(cast(list[int], spec["shape"])), str(spec["dtype"])
    if dtype not in _TENSORS:
        raise VersionRefused(f"the {side} {name!r} is a tensor of {dtype}; allowed are {', '.join(_TENSORS)}")
    if not shape or shape[0] != -1:
        raise VersionRefused(
            f"the {side} {name!r} is a tensor of shape {list(shape)}; its first dimension must be -1: one entry per row"
        )
    if not all(type(size) is int and size >= -1 for size in shape):
        raise VersionRefused(
            f"the {side} {name!r} is a tensor of shape {list(shape)!r:.200}; sizes must be integers, or -1 for any"
        )
    return Column(name, _TENSORS[dtype].type, shape=shape[1:], label=label, dtype=dtype)


def v2_tensor(column: Column, rows: Sequence[Any]) -> dict[str, Any]:
    """`{"name", "shape": [n, ...], "datatype", "data"}` of one value per row; lists are flattened, row-major.

    JSON has neither NaN nor infinity: both travel as null. Raises `VersionRefused` for rows of different lengths.
    """
    shape, data = [len(rows)], list(rows)
    for _ in column.shape:
        lists = [value if isinstance(value, list) else [value] for value in data]
        if len({len(values) for values in lists}) > 1:
            raise VersionRefused(
                f"column {column.name!r} has lists of different lengths; one request holds rows of one length"
            )
        shape.append(len(lists[0]) if lists else 0)
        data = [value for values in lists for value in values]
    return {
        "name": column.name,
        "shape": shape,
        "datatype": column.datatype,
        "data": [_json(column, value) for value in data],
    }


def _json(column: Column, value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str) and column.type == "binary":
        return "".join(value.split())  # MLflow breaks base64 into lines
    whole = column.kind.bits is not None and isinstance(value, float) and value.is_integer()
    return int(value) if whole else value
