"""What a model returns -> v2 output tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from resources.serving.predictor.errors import PredictionFailed

_Array = np.ndarray[Any, np.dtype[Any]]
_BITS = {"i": "INT", "u": "UINT", "f": "FP"}


def output_tensors(predictions: Any, names: Sequence[str], *, rows: int) -> list[dict[str, Any]]:
    """v2 tensors (name, shape, datatype, data) of shape [rows] or [rows, k].

    A data frame or mapping gives one tensor per column. Anything else is one array, named as in the signature's
    outputs: split where they name each of its k columns, `output_0` where they name nothing.
    Raises `PredictionFailed` where there is not one prediction per row.
    """
    tensors = [_tensor(name, values, rows) for name, values in _named(predictions, names).items()]
    if not tensors:
        raise PredictionFailed("the model returned no output")
    return tensors


def _named(predictions: Any, names: Sequence[str]) -> Mapping[str, Any]:
    if isinstance(predictions, pd.DataFrame | Mapping):
        return {str(name): predictions[name] for name in predictions}
    array = np.asarray(predictions)
    if array.ndim == 2 and len(names) == array.shape[1]:
        return {name: array[:, i] for i, name in enumerate(names)}
    return {names[0] if names else "output_0": array}


def _tensor(name: str, values: Any, rows: int) -> dict[str, Any]:
    array = _plain(np.asarray(values))
    if array.ndim not in (1, 2) or array.shape[0] != rows:
        raise PredictionFailed(
            f"the model returned {name!r} with shape {list(array.shape)}, expected [{rows}] or [{rows}, k]"
        )
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": _datatype(array),
        "data": array.ravel().tolist(),
    }


def _plain(array: _Array) -> _Array:
    """An array of numbers, booleans or strings."""
    if array.dtype.kind == "O":
        array = np.asarray(array.tolist())  # numbers that only travelled as objects
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "biuf":
        return array
    strings = array.astype(str).astype(object)
    strings[pd.isna(array)] = None
    return strings


def _datatype(array: _Array) -> str:
    if array.dtype.kind == "b":
        return "BOOL"
    prefix = _BITS.get(array.dtype.kind)
    return "BYTES" if prefix is None else f"{prefix}{array.dtype.itemsize * 8}"
