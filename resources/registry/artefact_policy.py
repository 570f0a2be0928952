"""Which artefacts may be loaded: exact shapes of data; everything else is code, and needs the manifest's word.

What is judged is what MLflow's loaders do with `MLmodel`, not what its flavors say of themselves. A shape that is not
known is refused, however harmless it may be.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, cast

from resources.registry.mlmodel import LoggedModel

SAFE_TYPES = frozenset({
    "sklearn.tree._tree.Tree",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "numpy.dtype",
})  # fmt: skip
"""Types outside skops' own list that are plain data. The list of an artefact is its author's claim, not a proof."""

_TOP = frozenset({
    "artifact_path", "auth_policy", "databricks_runtime", "env_vars", "flavors", "is_signature_from_type_hint",
    "metadata", "mlflow_version", "model_id", "model_size_bytes", "model_uuid", "prompts", "resources", "run_id",
    "saved_input_example_info", "signature", "type_hint_from_example", "utc_time_created",
})  # fmt: skip
"""What MLflow writes beside the flavors; loading a model as a Python function runs none of it."""

_PYTHON_FUNCTION = frozenset({
    "code", "config", "data", "env", "loader_module", "model_path", "predict_fn", "python_version", "streamable",
})  # fmt: skip

_PREDICT = frozenset({"predict", "predict_proba", "predict_log_proba", "predict_joint_log_proba", "score"})

_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle")

_SKOPS = (".skops",)

_SCHEMA = "schema.json"

_LARGEST_SCHEMA = 256 * 1024 * 1024

_READS_FILES = ("CountVectorizer", "HashingVectorizer", "TfidfVectorizer")
"""The scikit-learn classes that open what they are given where their `input` is `filename`."""

_MOST = 10
"""Sentences: they go into a tag and an alert, and their number is the author's choice."""


class _Flavors(NamedTuple):
    """Something that speaks against loading the artefact."""

    kind: str
    """The word in `artefact.allow` that lets it pass; empty where none does."""
    text: str


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """How MLflow logs one kind of model as data."""

    flavor: str
    file: str
    """The flavor's key for the one file that is loaded."""
    suffixes: tuple[str, ...]
    """Of files in a format of the library's own, which holds data."""
    keys: frozenset[str]
    """What else the flavor may say."""
    exact: Mapping[str, frozenset[Any]]
    """Keys whose values choose what is imported or called: the values that only read data, None for a missing key."""
    whole: bool = False
    """Whether the loader finds the file by `python_function.data` alone."""


_SHAPES: Mapping[str, _Shape] = {
    "mlflow.sklearn": _Shape(
        flavor="sklearn",
        file="pickled_model",
        suffixes=(),
        keys=frozenset({"serialization_format", "skops_trusted_types", "sklearn_version"}),
        exact={},
    ),
    "mlflow.lightgbm": _Shape(
        flavor="lightgbm",
        file="data",
        suffixes=(".lgb", ".txt"),
        keys=frozenset({"lgb_version", "serialization_format", "skops_trusted_types"}),
        exact={
            "model_class": frozenset({None, "lightgbm.basic.Booster"})
            | {f"lightgbm.sklearn.LGBM{kind}" for kind in ("Classifier", "Model", "Ranker", "Regressor")}
        },
    ),
    "mlflow.xgboost": _Shape(
        flavor="xgboost",
        file="data",
        suffixes=(".json", ".ubj", ".xgb"),
        keys=frozenset({"xgb_version"}),
        exact={
            "model_class": frozenset({None, "xgboost.core.Booster"})
            | {
                f"xgboost.sklearn.XGB{kind}"
                for kind in ("Classifier", "Model", "Ranker", "Regressor", "RFClassifier", "RFRegressor")
            },
            "model_format": frozenset({None, "json", "ubj", "xgb"}),
        },
    ),
    "mlflow.catboost": _Shape(
        flavor="catboost",
        file="data",
        suffixes=(".cb", ".cbm", ".json"),
        keys=frozenset({"catboost_version"}),
        exact={
            "model_type": frozenset(
                {"CatBoost", "CatBoostClassifier", "CatBoostRanker", "CatBoostRegressor"}
            ),
            "save_format": frozenset({None, "cbm", "json"}),
        },
        whole=True,
    ),
    "mlflow.onnx": _Shape(
        flavor="onnx",
        file="data",
        suffixes=(".onnx",),
        keys=frozenset({"onnx_version", "onnx_session_options", "providers"}),
        exact={},
        whole=True,
    ),
}
"""By loader module. TensorFlow and Keras are not here: their graphs and layers are programs."""

_PROVIDERS = frozenset({"CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"})

_SESSION = frozenset({
    "execution_mode", "graph_optimization_level", "inter_op_num_threads", "intra_op_num_threads",
})  # fmt: skip


def violations(logged: LoggedModel, allow: tuple[str, ...]) -> tuple[str, ...]:
    """Sentences on what is refused, empty where nothing is.

    `allow`: `pickle`, `cloudpickle`, `custom_code`, as in the manifest's `artefact.allow`. What leads out of the
    artefact's folder, and so out of its digest, is refused whatever is allowed.
    """
    found = [
        *_serialised(logged),
        *_python_function(logged),
        *_keys(logged),
        *_paths(logged),
        *_files(logged),
    ]
    refused = list(dict.fromkeys(_sentence(each) for each in found if each.kind not in allow))
    rest = len(refused) - _MOST
    return (*refused[:_MOST], f"and {rest} more") if rest > 0 else tuple(refused)


def _sentence(found: _Flavors) -> str:
    return f"{found.text}; allow it with artefact.allow: [{found.kind}]" if found.kind else found.text


def _serialised(logged: LoggedModel) -> Iterator[_Flavors]:
    """The formats of those flavors that name one, read by MLflow's loader of scikit-learn models."""
    for name, what in (("sklearn", "scikit-learn"), ("lightgbm", "LightGBM")):
        flavor = logged.flavors.get(name)
        if flavor is None or (name == "lightgbm" and _booster(flavor)):
            continue
        # MLflow reads a file without the key as pickle, and LightGBM's as cloudpickle.
        kind = flavor.get("serialization_format", "pickle" if name == "sklearn" else "cloudpickle")
        if kind == "skops":
            yield from _trusted(flavor)
        else:
            known = kind if kind in ("pickle", "cloudpickle") else "pickle"
            yield _Flavors(
                known, f"the {what} model is stored as {_short(kind)}, which runs code when it is loaded"
            )


def _booster(flavor: Mapping[str, Any]) -> bool:
    return flavor.get("model_class", "lightgbm.basic.Booster") == "lightgbm.basic.Booster"


def _trusted(flavor: Mapping[str, Any]) -> Iterator[_Flavors]:
    trusted = flavor.get("skops_trusted_types")
    if trusted is None:
        return
    if not isinstance(trusted, list) or not all(isinstance(each, str) for each in cast(list[Any], trusted)):
        yield _Flavors("custom_code", f"skops_trusted_types is {_short(trusted)}, must be a list of names")
    elif unknown := sorted(set(cast(list[str], trusted)) - SAFE_TYPES):
        rest = f" and {len(unknown) - _MOST} more" if len(unknown) > _MOST else ""
        yield _Flavors(
            "custom_code", f"the skops file asks to trust {', '.join(map(_short, unknown[:_MOST]))}{rest}"
        )


def _python_function(logged: LoggedModel) -> Iterator[_Flavors]:
    conf = logged.flavors.get("python_function")
    if conf is None:
        yield _Flavors(
            "custom_code", "MLmodel has no flavor python_function, so what loading it does is unknown"
        )
        return
    loader = conf.get("loader_module")
    shape = _SHAPES.get(loader) if isinstance(loader, str) else None
    if shape is not None:
        yield from _data(logged, conf, shape)
    elif loader == "mlflow.pyfunc.model":
        yield from _python_model(conf)
    else:
        yield _Flavors("custom_code", f"the model is loaded by {_short(loader)}")
    if any(_has_code(each) for each in logged.flavors.values()):
        yield _Flavors("custom_code", "the artefact brings Python code of its own (code_paths)")


def _python_model(conf: Mapping[str, Any]) -> Iterator[_Flavors]:
    yield _Flavors("custom_code", "the model is a Python class of its own (mlflow.pyfunc.PythonModel)")
    if "model_code_path" not in conf:
        yield _Flavors(
            "cloudpickle", "the Python model is stored with cloudpickle, which runs code when it is loaded"
        )


def _has_code(flavor: Mapping[str, Any]) -> bool:
    return flavor.get("code") is not None or "model_code_path" in flavor


def _data(logged: LoggedModel, conf: Mapping[str, Any], shape: _Shape) -> Iterator[_Flavors]:
    """What keeps an artefact with one of MLflow's own loaders from being data and nothing else."""
    flavor = logged.flavors.get(shape.flavor)
    if flavor is None:
        yield _Flavors(
            "custom_code", f"the model is loaded by mlflow.{shape.flavor}, and MLmodel has no such flavor"
        )
        return
    known = {"code", "extra_files", shape.file, *shape.keys, *shape.exact}
    for place, unknown in (
        ("flavors", set(logged.flavors) - {"python_function", shape.flavor}),
        ("flavors.python_function", set(conf) - _PYTHON_FUNCTION),
        (f"flavors.{shape.flavor}", set(flavor) - known),
    ):
        yield from (_Flavors("custom_code", _unknown_key(place, each)) for each in sorted(unknown))
    yield from _calls(conf)
    for key, values in shape.exact.items():
        if not _among(flavor.get(key), values):
            yield _Flavors(
                "custom_code", f"{shape.flavor}.{key} is {_short(flavor.get(key))}, which is not known"
            )
    if shape.flavor == "onnx":
        yield from _session(flavor)
    yield from _one_file(logged.directory, conf, flavor, shape)


def _calls(conf: Mapping[str, Any]) -> Iterator[_Flavors]:
    """Keys of `python_function` that choose what is called."""
    if not _among(conf.get("predict_fn", "predict"), _PREDICT):
        yield _Flavors("custom_code", f"predict_fn is {_short(conf['predict_fn'])}, which is not known")
    for key in ("config", "streamable"):
        if conf.get(key):
            yield _Flavors("custom_code", f"python_function.{key} is set, which no model of data needs")


def _session(flavor: Mapping[str, Any]) -> Iterator[_Flavors]:
    """ONNX Runtime takes libraries to load from the options of a provider or a session."""
    providers, options = flavor.get("providers") or [], flavor.get("onnx_session_options") or {}
    if not isinstance(providers, list) or not all(
        _among(each, _PROVIDERS) for each in cast(list[Any], providers)
    ):
        yield _Flavors("custom_code", f"onnx.providers must be some of {', '.join(sorted(_PROVIDERS))}")
    if not isinstance(options, dict) or not _SESSION.issuperset(
        key for key, value in cast(dict[str, Any], options).items() if value
    ):
        yield _Flavors(
            "custom_code", f"onnx.onnx_session_options may set {', '.join(sorted(_SESSION))} alone"
        )


def _one_file(
    directory: Path, conf: Mapping[str, Any], flavor: Mapping[str, Any], shape: _Shape
) -> Iterator[_Flavors]:
    """All keys name the same file, which lies in the root and is what its suffix says."""
    places = [(conf, "data"), (conf, "model_path"), (flavor, shape.file)]
    names = [each[key] for each, key in places if key in each]
    wanted = [*names[:1]] * len(names)
    if shape.whole and "data" not in conf:
        yield _Flavors("", f"MLmodel has no python_function.data, which mlflow.{shape.flavor} reads")
        return
    if not names or names != wanted or not _is_root_name(names[0]):
        yield _Flavors(
            "",
            f"the model's file is {', '.join(map(_short, names)) or 'not named'}, must be one name in the root",
        )
        return
    path, suffixes = directory / str(names[0]), _suffixes(flavor, shape)
    if path.is_symlink() or not path.is_file():
        yield _Flavors("", f"the model's file {path.name} is not a file of the artefact")
    elif path.suffix not in suffixes:
        yield _Flavors("", f"the model's file {path.name} must end in {' or '.join(suffixes)}")
    elif suffixes == _SKOPS:
        yield from _skops(path)


def _suffixes(flavor: Mapping[str, Any], shape: _Shape) -> tuple[str, ...]:
    if shape.flavor == "sklearn" or (shape.flavor == "lightgbm" and not _booster(flavor)):
        return _SKOPS if flavor.get("serialization_format") == "skops" else _PICKLES
    return shape.suffixes


def _skops(path: Path) -> Iterator[_Flavors]:
    """Its schema, and what the scikit-learn classes that skops trusts would do with files that callers name."""
    try:
        with zipfile.ZipFile(path) as content:
            about = content.getinfo(_SCHEMA) if content.namelist().count(_SCHEMA) == 1 else None
            if about is not None and about.file_size > _LARGEST_SCHEMA:
                yield _Flavors("", f"{path.name} has a {_SCHEMA} of more than {_LARGEST_SCHEMA} bytes")
                return
            schema = None if about is None else content.read(about)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError, ValueError):
        schema = None
    if schema is None:
        yield _Flavors("", f"{path.name} is no skops file: expected a zip with one {_SCHEMA}")
    elif _may_read_files(schema):
        yield _Flavors(
            "custom_code", f"{path.name} has a text vectorizer that reads files: its input must be 'content'"
        )


def _may_read_files(schema: bytes) -> bool:
    """Whether callers could have a file read by sending its name; also where that cannot be told."""
    plain = schema.isascii() and b"\0" not in schema and rb"\u00" not in schema
    if plain and not any(name.encode() in schema for name in _READS_FILES):
        return False  # parsed, a large forest takes gigabytes
    try:
        waiting: list[Any] = [json.loads(schema)]
    except (RecursionError, ValueError):
        return True
    vectorizers: list[Mapping[str, Any]] = []
    named: dict[Any, list[Mapping[str, Any]]] = {}
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            found = cast(dict[str, Any], node)
            if found.get("__class__") in _READS_FILES:
                vectorizers.append(found)
            if isinstance(number := found.get("__id__"), int | float | str):
                named.setdefault(number, []).append(found)
            waiting += found.values()
        elif isinstance(node, list):
            waiting += cast(list[Any], node)
    return not all(_takes_text(each, named) for each in vectorizers)


def _takes_text(vectorizer: Mapping[str, Any], named: Mapping[Any, list[Mapping[str, Any]]]) -> bool:
    """As skops writes a vectorizer whose texts are the values themselves.

    `named`: all nodes by their id. Of several with one id skops reads the first alone, whatever the others say.
    """
    try:
        attributes = vectorizer["content"]
        given, types = attributes["content"]["input"], attributes["key_types"]
        names = {(each["__loader__"], each["__class__"]) for each in types["content"]}
        loaders = [each["__loader__"] for each in (vectorizer, attributes, types, given)]
        read = [vectorizer, attributes, types, given, *types["content"]]
        return all(other == each for each in read for other in named.get(each.get("__id__"), ())) and (
            loaders,
            names,
            json.loads(given["content"]),
        ) == (
            ["ObjectNode", "DictNode", "ListNode", "JsonNode"],
            {("TypeNode", "str")},
            "content",
        )
    except (AttributeError, LookupError, TypeError, ValueError):
        return False


def _keys(logged: LoggedModel) -> Iterator[_Flavors]:
    for key in sorted(set(logged.about) - _TOP):
        yield _Flavors("custom_code", _unknown_key("MLmodel", key))


def _unknown_key(place: str, key: str) -> str:
    return f"{place} has {_short(key)}, which is not known, so what loading does with it is not either"


def _paths(logged: LoggedModel) -> Iterator[_Flavors]:
    """Names that lead out of the folder, whoever reads them."""
    for name, flavor in logged.flavors.items():
        for key in ("code", "data", "model_path", "pickled_model", "python_model", "saved_model_dir"):
            if flavor.get(key) is not None and not _stays_inside(flavor[key]):
                yield _Flavors(
                    "", f"{name}.{key} is {_short(flavor[key])}, must be a name in the artefact's folder"
                )
    example = logged.about.get("saved_input_example_info") or {}
    for key in ("artifact_path", "serving_input_path"):
        if example.get(key) is not None and not _stays_inside(example[key]):
            yield _Flavors(
                "", f"the input example lies at {_short(example[key])}, must be in the artefact's folder"
            )
    artifacts = logged.flavors.get("python_function", {}).get("artifacts") or {}
    for name, about in cast(dict[Any, Any], artifacts).items() if isinstance(artifacts, dict) else ():
        path = cast(dict[Any, Any], about).get("path") if isinstance(about, dict) else None
        if not _stays_inside(path):
            yield _Flavors(
                "", f"the artifact {_short(name)} lies at {_short(path)}, must be in the artefact's folder"
            )


def _is_root_name(name: Any) -> bool:
    return _stays_inside(name) and PurePosixPath(name).name == name


def _stays_inside(name: Any) -> bool:
    if not isinstance(name, str) or not name or "\0" in name or "\\" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.name != ""


def _files(logged: LoggedModel) -> Iterator[_Flavors]:
    """Links, a second MLmodel, and pickles that no flavor owns up to."""
    for path in sorted(logged.directory.rglob("*")):
        name = _short(str(path.relative_to(logged.directory)))
        if path.is_symlink():
            yield _Flavors("", f"{name} is a link: the artefact's digest covers files alone")
        if path.name.lower() == "mlmodel" and path != logged.directory / "MLmodel":
            yield _Flavors(
                "custom_code", f"{name} is a second MLmodel, which MLflow may read in place of the first"
            )
        if path.suffix.lower() in _PICKLES:
            owned = "python_model" in path.name or any(
                each.kind == "cloudpickle" for each in _serialised(logged)
            )
            kind = "cloudpickle" if owned else "pickle"
            yield _Flavors(kind, f"{name} is a pickle, which runs code when it is loaded")


def _among(value: Any, allowed: frozenset[Any]) -> bool:
    return isinstance(value, str | None) and value in allowed


def _short(value: Any) -> str:
    """A value for a sentence: the beginning of a text on one line, everything else by its type."""
    if isinstance(value, str):
        return " ".join(value.split())[:200]
    return "missing" if value is None else f"a {type(value).__name__}"
