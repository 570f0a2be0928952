"""v2 tensors become the data frame of the signature, or a message that says what is expected."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec
from mlflow.types.schema import Array

from resources.registry.signature import ModelSchema
from resources.serving.predictor.inputs import BadInput, Inputs, Tensor


def inputs(*specs: Any) -> Inputs:
    schema = ModelSignature(Schema([*specs]), Schema([ColSpec("double", "y")]))
    return Inputs(ModelSchema.of_mlflow(schema.to_dict()).inputs)


COLUMNS = inputs(
    ColSpec("string", "carrier"),
    ColSpec("double", "distance"),
    ColSpec("long", "hour"),
    ColSpec("integer", "month"),
    ColSpec("float", "wind"),
    ColSpec("boolean", "holiday"),
    ColSpec("datetime", "scheduled"),
    ColSpec("binary", "photo"),
    ColSpec("double", "gust", required=False),
)


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> Tensor:
    return Tensor(name=name, shape=shape or [len(data)], datatype=datatype, data=data)


def request(**changes: Tensor | None) -> list[Tensor]:
    tensors: dict[str, Tensor | None] = {
        "carrier": tensor("carrier", "BYTES", ["UA"]),
        "distance": tensor("distance", "FP64", [719.0]),
        "hour": tensor("hour", "INT64", [8]),
        "month": tensor("month", "INT32", [1]),
        "wind": tensor("wind", "FP32", [1.5]),
        "holiday": tensor("holiday", "BOOL", [True]),
        "scheduled": tensor("scheduled", "BYTES", ["2013-01-01T05:15:00Z"]),
        "photo": tensor("photo", "BYTES", ["aGk="]),
    }
    return [one for one in (tensors | changes).values() if one is not None]


def test_the_frame_has_the_signatures_columns_and_types() -> None:
    frame, rows = COLUMNS.read(list(reversed(request())))
    assert rows == 1
    expected = pd.DataFrame(
        {
            "carrier": np.array(["UA"], dtype=object),
            "distance": [719.0],
            "hour": np.array([8], dtype="int64"),
            "month": np.array([1], dtype="int32"),
            "wind": np.array([1.5], dtype="float32"),
            "holiday": [True],
            "scheduled": np.array(["2013-01-01T05:15:00"], dtype="datetime64[ns]"),
            "photo": np.array([b"hi"], dtype=object),
            "gust": [np.nan],
        }
    )
    pd.testing.assert_frame_equal(frame, expected)


def test_an_optional_column_may_be_there() -> None:
    assert COLUMNS.read(request(gust=tensor("gust", "FP64", [3.0])))[0]["gust"].tolist() == [3.0]


def test_null_is_a_missing_number_string_or_moment() -> None:
    frame, _ = COLUMNS.read(
        request(
            carrier=tensor("carrier", "BYTES", [None]),
            distance=tensor("distance", "FP64", [None]),
            scheduled=tensor("scheduled", "BYTES", [None]),
        )
    )
    assert frame[["carrier", "distance", "scheduled"]].isna().all(axis=None)


@pytest.mark.parametrize("data", [[1, 2], [[1], [2]]])
def test_a_column_may_have_shape_n_1(data: list[Any]) -> None:
    frame, _ = inputs(ColSpec("long", "hour")).read([tensor("hour", "INT64", data, [2, 1])])
    assert frame["hour"].tolist() == [1, 2]


WRONG = {
    "missing": ({"distance": None}, "'distance' is missing; expected FP64"),
    "extra": (
        {"weight": tensor("weight", "FP64", [1.0])},
        "'weight' is not in the signature; expected carrier, ",
    ),
    "datatype": (
        {"distance": tensor("distance", "BYTES", ["x"])},
        "'distance' has datatype BYTES; expected FP64",
    ),
    "value": (
        {"distance": tensor("distance", "FP64", ["far"])},
        r"'distance' has a value of type str in row 0; expected FP64",
    ),
    "bool is no int": ({"hour": tensor("hour", "INT64", [True])}, "'hour' has a value of type bool in row 0"),
    "float is no int": (
        {"hour": tensor("hour", "INT64", [8.5])},
        "'hour' has a value of type float in row 0",
    ),
    "null is no int": (
        {"hour": tensor("hour", "INT64", [None])},
        "'hour' has a value of type NoneType in row 0",
    ),
    "too large": (
        {"month": tensor("month", "INT64", [2**40])},
        "'month' has a value that is out of range; expected INT32",
    ),
    "no moment": (
        {"scheduled": tensor("scheduled", "BYTES", ["noon"])},
        "'scheduled' has a value that cannot be read; expected .*ISO 8601",
    ),
    "a moment for pandas alone": (
        {"scheduled": tensor("scheduled", "BYTES", ["now"])},
        "has a value that cannot be read",
    ),
    "a moment for DuckDB alone": (
        {"scheduled": tensor("scheduled", "BYTES", ["epoch"])},
        "has a value that cannot be read",
    ),
    "too early": (
        {"scheduled": tensor("scheduled", "BYTES", ["0001-01-01"])},
        "'scheduled' has a value that cannot be read",
    ),
    "infinity": (
        {"distance": tensor("distance", "FP64", [float("-inf")])},
        "'distance' has an infinite value in row 0",
    ),
    "no base64": (
        {"photo": tensor("photo", "BYTES", ["?"])},
        "'photo' has a value that cannot be read; .*base64",
    ),
    "shape": (
        {"hour": tensor("hour", "INT64", [1, 2], [1, 2])},
        r"'hour' has shape \[1, 2\]; expected \[n\] or \[n, 1\]",
    ),
    "empty": ({"hour": tensor("hour", "INT64", [], [0])}, r"'hour' has shape \[0\]; expected"),
    "count": ({"hour": tensor("hour", "INT64", [1], [2])}, r"'hour' has 1 values; its shape \[2\] says 2"),
    "rows": ({"hour": tensor("hour", "INT64", [1, 2])}, "different numbers of rows: .*'hour': 2"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG.keys())
def test_bad_input_names_the_column_and_what_is_expected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        COLUMNS.read(request(**changes))


def test_a_column_given_twice_is_bad_input() -> None:
    with pytest.raises(BadInput, match="given twice"):
        COLUMNS.read([*request(), tensor("hour", "INT64", [8])])


@pytest.mark.parametrize(
    ("kind", "data"), [("datetime", ["2026-01-31T14:00:00+02:00"]), ("float", [0.5]), ("long", [7])]
)
def test_lists_reach_the_model_as_mlflow_takes_them(kind: str, data: list[Any]) -> None:
    from mlflow.models.utils import _enforce_schema

    schema = Schema([ColSpec(Array(kind), "v")])
    datatype = {"datetime": "BYTES", "float": "FP32", "long": "INT64"}[kind]
    frame, _ = inputs(*schema.inputs).read([tensor("v", datatype, data * 4, [2, 2])])
    enforced = _enforce_schema(frame, schema)
    wanted = np.datetime64("2026-01-31T12:00") if kind == "datetime" else data[0]
    assert [list(row) for row in enforced["v"]] == [[wanted] * 2] * 2


TENSORS = inputs(TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("uint8"), (-1,), "b"))


def test_tensors_reach_the_model_as_arrays_of_their_own_types() -> None:
    a = tensor("a", "FP64", [[1, 2], [3, 4]], [2, 2])
    found, rows = TENSORS.read([a, tensor("b", "UINT8", [7, 255])])
    assert rows == 2
    assert {name: (array.dtype, array.tolist()) for name, array in found.items()} == {
        "a": (np.float32, [[1, 2], [3, 4]]),
        "b": (np.uint8, [7, 255]),
    }


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (tensor("a", "FP32", [1, 2, 3], [1, 3]), r"'a' has shape \[1, 3\]; expected \[n, 2\]"),
        (tensor("a", "FP32", [1], [1]), r"'a' has shape \[1\]; expected \[n, 2\]"),
        (tensor("a", "FP32", [[1, 2], [3]], [2, 2]), "'a' has lists of different lengths"),
        (tensor("a", "FP32", [1, 2, 3], [2, 2]), r"'a' has 3 values; its shape \[2, 2\] says 4"),
        (tensor("a", "FP32", [1e300, 2], [1, 2]), "'a' has a value that is out of range"),
        (tensor("a", "FP32", [float("inf"), 2], [1, 2]), "'a' has an infinite value in row 0"),
        (
            tensor("a", "BYTES", ["x", "y"], [1, 2]),
            r"'a' has datatype BYTES; expected FP32 of shape \[n, 2\]",
        ),
    ],
)
def test_a_tensor_of_another_shape_or_type_is_bad_input(a: Tensor, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        TENSORS.read([a, tensor("b", "UINT8", [7] * a.shape[0])])


@given(
    st.lists(
        st.tuples(
            st.text(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_values_arrive_unchanged(rows: list[tuple[str, float, int]]) -> None:
    columns = inputs(ColSpec("string", "s"), ColSpec("double", "f"), ColSpec("long", "i"))
    s, f, i = (list(values) for values in zip(*rows, strict=True))
    frame, _ = columns.read([tensor("s", "BYTES", s), tensor("f", "FP64", f), tensor("i", "INT64", i)])
    assert list(frame.itertuples(index=False, name=None)) == rows
