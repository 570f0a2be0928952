"""What models return becomes v2 tensors, one row per prediction."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from resources.serving.predictor.errors import PredictionFailed
from resources.serving.predictor.tensors import output_tensors


def tensor(name: str, shape: list[int], datatype: str, data: list[Any]) -> dict[str, Any]:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


MATRIX = np.array([[0.25, 0.75], [0.5, 0.5]])
SHAPES = {
    "array": (np.array([1, 0]), [], [tensor("output_0", [2], "INT64", [1, 0])]),
    "named array": (np.array([1, 0]), ["late"], [tensor("late", [2], "INT64", [1, 0])]),
    "matrix": (MATRIX, [], [tensor("output_0", [2, 2], "FP64", [0.25, 0.75, 0.5, 0.5])]),
    "matrix with named columns": (
        MATRIX,
        ["on_time", "late"],
        [tensor("on_time", [2], "FP64", [0.25, 0.5]), tensor("late", [2], "FP64", [0.75, 0.5])],
    ),
    "frame": (
        pd.DataFrame({"p": np.array([0.5, 1], dtype="float32"), "label": ["a", None]}),
        ["p", "label"],
        [tensor("p", [2], "FP32", [0.5, 1.0]), tensor("label", [2], "BYTES", ["a", None])],
    ),
    "mapping": ({"ok": [True, False]}, [], [tensor("ok", [2], "BOOL", [True, False])]),
    "series": (pd.Series([1.5, 2.5]), [], [tensor("output_0", [2], "FP64", [1.5, 2.5])]),
    "list of strings": (["a", "b"], ["label"], [tensor("label", [2], "BYTES", ["a", "b"])]),
    "numbers as objects": (np.array([1, 2], dtype=object), [], [tensor("output_0", [2], "INT64", [1, 2])]),
    "half floats": (np.array([1, 2], dtype="float16"), [], [tensor("output_0", [2], "FP32", [1.0, 2.0])]),
    "small integers": (np.array([1, 2], dtype="uint8"), [], [tensor("output_0", [2], "UINT8", [1, 2])]),
}


@pytest.mark.parametrize(("predictions", "names", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_predictions_become_tensors(
    predictions: Any, names: list[str], expected: list[dict[str, Any]]
) -> None:
    assert output_tensors(predictions, names, rows=2) == expected


@pytest.mark.parametrize("predictions", [np.array([1]), np.array([1, 2, 3]), 1, np.zeros((2, 2, 2)), {}])
def test_anything_but_one_prediction_a_row_is_a_failure(predictions: Any) -> None:
    with pytest.raises(PredictionFailed):
        output_tensors(predictions, [], rows=2)
