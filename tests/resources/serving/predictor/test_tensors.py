"""What models return becomes v2 tensors, one row per prediction."""

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from resources.registry.signature import KINDS, Column
from resources.serving.predictor.inputs import PredictionFailed
from resources.serving.predictor.outputs import output_tensors


def tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


def column(name: str, kind: str, *shape: int, **more: Any) -> Column:
    return Column(name, kind, shape=shape, **more)


MATRIX = np.array([[0.25, 0.75], [0.5, 0.5]])

WHOLE, REAL, TEXT = column("late", "long"), column("p", "double"), column("label", "string")

ROWS = [tensor("p", [2], "FP64", [0.5, 1.0]), tensor("label", [2], "BYTES", ["a", None])]

NOON = "2026-01-31T12:00:00.000000Z"

SHAPES: dict[str, tuple[Any, list[Column], list[dict[str, Any]]]] = {
    "array": (np.array([1, 0]), [WHOLE], [tensor("late", [2], "INT64", [1, 0])]),
    "matrix": (MATRIX, [column("output_0", "double", 2)], [tensor("output_0", [2, 2], "FP64", [0.25, 0.75, 0.5, 0.5])]),
    "matrix of one column": (np.array([[1], [0]]), [WHOLE], [tensor("late", [2], "INT64", [1, 0])]),
    "matrix with named columns": (
        MATRIX,
        [column("on_time", "double"), column("late", "double")],
        [tensor("on_time", [2], "FP64", [0.25, 0.5]), tensor("late", [2], "FP64", [0.75, 0.5])],
    ),
    "frame": (pd.DataFrame({"label": ["a", None], "p": np.array([0.5, 1], dtype="float32")}), [REAL, TEXT], ROWS),
    "frame with integer labels": (
        pd.DataFrame([[0.5], [1.0]]), [column("0", "double", label=0)], [tensor("0", [2], "FP64", [0.5, 1.0])],
    ),
    "frame of lists": (
        pd.DataFrame({"v": [[1, 2], np.array([3, 4])]}), [column("v", "double", -1)], [tensor("v", [2, 2], "FP64", [1, 2, 3, 4])],
    ),
    "mapping": ({"ok": [True, False]}, [column("ok", "boolean")], [tensor("ok", [2], "BOOL", [True, False])]),
    "a mapping per row": ([{"p": 0.5, "label": "a"}, {"label": None, "p": 1}], [REAL, TEXT], ROWS),
    "a tuple of outputs": ((np.array([0.5, 1]), ["a", None]), [REAL, TEXT], ROWS),
    "rows of mixed types": ([[0.5, "a"], [1, None]], [REAL, TEXT], ROWS),
    "series": (pd.Series([1.5, 2.5]), [REAL], [tensor("p", [2], "FP64", [1.5, 2.5])]),
    "nullable integers": (pd.Series([1, None], dtype="Int64"), [WHOLE], [tensor("late", [2], "INT64", [1, None])]),
    "categories": (pd.Series(["a", "b"], dtype="category"), [TEXT], [tensor("label", [2], "BYTES", ["a", "b"])]),
    "list of strings": (["a", "b"], [TEXT], [tensor("label", [2], "BYTES", ["a", "b"])]),
    "numbers as objects": (np.array([1, 2.0], dtype=object), [WHOLE], [tensor("late", [2], "INT64", [1, 2])]),
    "decimals": ([Decimal("1.5"), 2], [REAL], [tensor("p", [2], "FP64", [1.5, 2.0])]),
    "half floats": (np.array([1, 2], dtype="float16"), [column("p", "float")], [tensor("p", [2], "FP32", [1.0, 2.0])]),
    "small integers": (np.array([1, 2], dtype="uint8"), [WHOLE], [tensor("late", [2], "INT64", [1, 2])]),
    "bytes": ([b"hi", None], [column("b", "binary")], [tensor("b", [2], "BYTES", ["aGk=", None])]),
    "moments": (
        pd.to_datetime(pd.Series(["2026-01-31T14:00:00+02:00", None])),
        [column("at", "datetime")],
        [tensor("at", [2], "BYTES", [NOON, None])],
    ),
    "lists of moments": (
        pd.DataFrame({"at": [np.array(["2026-01-31T12:00"], dtype="datetime64[ns]")] * 2}),
        [column("at", "datetime", -1)],
        [tensor("at", [2, 1], "BYTES", [NOON, NOON])],
    ),
    "moments without an offset": (
        np.array(["2026-01-31T12:00", "NaT"], dtype="datetime64[s]"),
        [column("at", "datetime")],
        [tensor("at", [2], "BYTES", [NOON, None])],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("predictions", "columns", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_predictions_become_tensors(
    predictions: Any, columns: list[Column], expected: list[dict[str, Any]]
) -> None:
    assert output_tensors(predictions, columns, rows=2) == expected


WRONG: dict[str, tuple[Any, list[Column], str]] = {
    "nothing": (None, [REAL], "returned None, expected one value per row"),
    "one text": ("late", [TEXT], "returned a value of type str, expected one value per row"),
    "one number": (1, [REAL], r"'p' with shape \[\], expected \[2\]"),
    "too few rows": (np.array([1.0]), [REAL], r"'p' with shape \[1\], expected \[2\]"),
    "too many dimensions": (np.zeros((2, 2, 2)), [column("v", "double", 2)], r"\[2, 2, 2\], expected \[2, 2\]"),
    "ragged": ([[1, 2], [3]], [column("v", "double", -1)], "'v' with rows of different lengths"),
    "ragged arrays": ([np.zeros((2, 2)), np.zeros((2, 3))], [REAL], "'p' with rows of different lengths"),
    "no output": ({}, [REAL], "returned no output; its signature has 'p'"),
    "another output": ({"q": [1, 2]}, [REAL], "returned 'q'; its signature has 'p'"),
    "one output too many": ({"p": [1, 2], "q": [1, 2]}, [REAL], "returned 'p', 'q'; its signature has 'p'"),
    "rows that differ": ([{"p": 1}, {"q": 1}], [REAL], "rows with different outputs"),
    "a tuple that is transposed": (([1, 2], [3, 4]), [REAL], "a tuple of 2; its signature has 1 outputs"),
    "lists that are transposed": ([[1, 2, 3], [4, 5, 6]], [REAL, WHOLE], r"shape \[2, 3\], expected \[n, 2\]"),
    "a column twice": (pd.DataFrame([[1, 2], [3, 4]], columns=["p", "p"]), [REAL], "a column twice: p, p"),
    "text for a number": (["a", "b"], [REAL], r"returned a value of type str in 'p', which the signature calls double"),
    "a number for text": ([1, 2], [TEXT], r"returned a value of type int in 'label', which the signature calls string"),
    "an object": ([{1}, {2}], [TEXT], r"returned a value of type set in 'label'"),
    "a fraction for an integer": ([1.0, 0.5], [WHOLE], r"a value of type float in 'late', which the signature calls long"),
    "infinity for an integer": ([1.0, float("inf")], [WHOLE], "a value of type float in 'late'"),
    "too large": (np.array([2**31, 0]), [column("n", "integer")], "a value of type .*int.* in 'n'"),
    "beyond 64 bits": ([2**63, 0], [WHOLE], "a value of type int in 'late'"),
    "a boolean for a number": ([True, False], [REAL], r"a value of type bool in 'p'"),
    "a number for a boolean": ([1, 0], [column("ok", "boolean")], r"a value of type int in 'ok'"),
    "half a surrogate pair": (["\ud800", "b"], [TEXT], r"a value of type str in 'label'"),
}  # fmt: skip


@pytest.mark.parametrize(("predictions", "columns", "message"), WRONG.values(), ids=WRONG.keys())
def test_anything_else_is_a_failure_that_says_what_was_returned(
    predictions: Any, columns: list[Column], message: str
) -> None:
    with pytest.raises(PredictionFailed, match=message):
        output_tensors(predictions, columns, rows=2)


@pytest.mark.parametrize("kind", KINDS)
def test_every_type_of_the_table_is_answered(kind: str) -> None:
    values = {"boolean": True, "string": "a", "binary": b"a", "datetime": np.datetime64("2026-01-31")}
    [found] = output_tensors([values.get(kind, 1), None], [column("y", kind)], rows=2)
    assert found["datatype"] == KINDS[kind].datatype
    assert found["data"][0] is not None
    assert found["data"][1] is None
