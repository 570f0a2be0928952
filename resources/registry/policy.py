"""Which artefacts may be loaded: formats that run code of the artefact's author need the manifest's word."""

from collections.abc import Iterator, Mapping
from typing import Any

from resources.registry.logged import LoggedModel

SAFE_TYPES = frozenset({
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "numpy.dtype",
})  # fmt: skip
"""Types outside skops' own list that are plain data. The list of an artefact is its author's claim, not a proof."""

_DATA_LOADERS = frozenset({
    "mlflow.sklearn", "mlflow.xgboost", "mlflow.lightgbm", "mlflow.catboost", "mlflow.onnx", "mlflow.tensorflow",
})  # fmt: skip
"""Loaders of formats that hold data; sklearn's depends on its `serialization_format`."""
_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")


def violations(logged: LoggedModel, allow: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on what is refused, empty where nothing is.

    `allow`: `pickle`, `cloudpickle`, `custom_code`, as in the manifest's `artefact.allow`.
    """
    found = [*_loadable(logged), *_sklearn(logged), *_python_function(logged), *_files(logged)]
    refused = [(kind, text) for kind, text in found if kind not in allow]
    return tuple(dict.fromkeys(f"{text}; allow it with artefact.allow: [{kind}]" for kind, text in refused))


def _loadable(logged: LoggedModel) -> Iterator[tuple[str, str]]:
    if "python_function" not in logged.flavors:
        yield "custom_code", "MLmodel has no flavor python_function, so what loading it does is unknown"


def _sklearn(logged: LoggedModel) -> Iterator[tuple[str, str]]:
    flavor = logged.flavors.get("sklearn")
    if flavor is None:
        return
    # MLflow reads a file without the key as pickle.
    kind = flavor.get("serialization_format", "pickle")
    if kind != "skops":
        known = kind if kind in ("pickle", "cloudpickle") else "pickle"
        yield known, f"the scikit-learn model is stored as {kind}, which runs code when it is loaded"
        return
    unknown = sorted(set(flavor.get("skops_trusted_types") or ()) - SAFE_TYPES)
    if unknown:
        yield "custom_code", f"the skops file asks to trust {', '.join(unknown)}"


def _python_function(logged: LoggedModel) -> Iterator[tuple[str, str]]:
    flavor = logged.flavors.get("python_function", {})
    loader = str(flavor.get("loader_module", ""))
    if loader == "mlflow.pyfunc.model":
        yield from _python_model(flavor)
    elif loader and loader not in _DATA_LOADERS:
        yield "custom_code", f"the model is loaded by {loader}"
    if any(_has_code(each) for each in logged.flavors.values()):
        yield "custom_code", "the artefact brings Python code of its own (code_paths)"


def _python_model(flavor: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "custom_code", "the model is a Python class of its own (mlflow.pyfunc.PythonModel)"
    if flavor.get("python_model"):
        yield "cloudpickle", "the Python model is stored with cloudpickle, which runs code when it is loaded"


def _has_code(flavor: Mapping[str, Any]) -> bool:
    return bool(flavor.get("code") or flavor.get("model_code_path"))


def _files(logged: LoggedModel) -> Iterator[tuple[str, str]]:
    """A pickle that no flavor owns up to."""
    for path in sorted(logged.directory.rglob("*")):
        if path.suffix in _PICKLES:
            flavor = logged.flavors.get("sklearn", {})
            kind = "cloudpickle" if flavor.get("serialization_format") == "cloudpickle" else "pickle"
            kind = "cloudpickle" if "python_model" in path.name else kind
            yield kind, f"{path.relative_to(logged.directory)} is a pickle, which runs code when it is loaded"
