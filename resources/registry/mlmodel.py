"""A model as MLflow logged it: its `MLmodel` file, signature and input example, read without loading the
model or mlflow.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError as OtherYAMLError
from yaml import AliasEvent, SafeLoader, YAMLError
from yaml.nodes import Node

from pipelines.core.errors import RegistryError, VersionRefused
from pipelines.core.manifest.model import PredictionLog
from resources.registry.signature import Column, ModelSchema, v2_tensor

LARGEST = 256 * 1024
"""Bytes: a signature of some 3,500 columns. MLflow's reader takes seconds for a megabyte."""

_LINES, _DEPTH, _NODES = 10_000, 20, 3_000

_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What both readers raise, beside their own errors, on a tag or a number that they cannot make sense of."""


def read_mlmodel(path: Path) -> dict[str, Any]:
    """The file as a mapping with text for keys, its flavors mappings as well.

    Raises `VersionRefused` where the file is missing, too large, too deep, malformed, or means something else to
    YAML 1.2 than to MLflow's YAML 1.1; `RegistryError` where this machine cannot read it.
    """
    text = _text(path)
    about, second = _as_mlflow_does(text), _as_yaml_1_2(text)
    place = _difference(about, second, "MLmodel")
    if place:
        raise VersionRefused(
            f"{place} means one thing to MLflow's YAML 1.1 and another to YAML 1.2, or is there twice"
        )
    return _shaped(about)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise VersionRefused("the version has no file MLmodel: log it with MLflow's log_model")
        size = path.stat().st_size
        if size > LARGEST:
            raise VersionRefused(f"MLmodel has {size} bytes, must be at most {LARGEST}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VersionRefused(f"MLmodel is not UTF-8: {error}") from error
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error}") from error
    if text.count("\n") > _LINES:
        raise VersionRefused(f"MLmodel has {text.count(chr(10))} lines, must have at most {_LINES}")
    return text


class _Bounded(SafeLoader):
    """The loader of `yaml.safe_load`, which is what MLflow calls, stopped before it recurses or multiplies."""

    depth = nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """One node and what is in it."""
        if self.check_event(AliasEvent):
            raise VersionRefused(
                "MLmodel uses a YAML alias, which is not followed: give each list or mapping of its own"
            )
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.depth > _DEPTH:
            raise VersionRefused(f"MLmodel is nested more than {_DEPTH} deep")
        if self.nodes > _NODES:
            raise VersionRefused(f"MLmodel has more than {_NODES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _as_mlflow_does(text: str) -> Any:
    try:
        loader = _Bounded(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (YAMLError, *_UNREADABLE) as error:
        raise _malformed(error) from error


def _as_yaml_1_2(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (OtherYAMLError, *_UNREADABLE) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> VersionRefused:
    return VersionRefused(
        f"MLmodel cannot be read: {type(error).__name__}: {' '.join(str(error).split()):.300}"
    )


def _difference(one: Any, other: Any, place: str) -> str:
    """Where the two differ in type or value; empty where they do not."""
    if type(one) is not type(other):
        return place
    if isinstance(one, dict):
        mine, theirs = cast(dict[Any, Any], one), cast(dict[Any, Any], other)
        if list(map(_typed, mine)) != list(map(_typed, theirs)):
            return place
        return next(filter(None, (_difference(mine[key], theirs[key], f"{place}.{key}") for key in mine)), "")
    if isinstance(one, list):
        mine, theirs = cast(list[Any], one), cast(list[Any], other)
        if len(mine) != len(theirs):
            return place
        pairs = enumerate(zip(mine, theirs, strict=True))
        return next(filter(None, (_difference(*pair, f"{place}[{i}]") for i, pair in pairs)), "")
    return "" if one == other or one != one else place


def _typed(key: Any) -> tuple[type, Any]:
    return type(key), key


def _shaped(about: Any) -> dict[str, Any]:
    """The parts that everybody reads have the shape that everybody expects."""
    found = _mapping("MLmodel", about)
    for name, flavor in _mapping("flavors", found.get("flavors")).items():
        _mapping(f"flavors.{name}", flavor)
    for name in ("signature", "saved_input_example_info"):
        for key, value in _mapping(name, found.get(name)).items():
            if not isinstance(value, str | None):
                raise VersionRefused(f"MLmodel: {name}.{key} is a {type(value).__name__}, must be text")
    return found


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None and name != "MLmodel":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in cast(dict[Any, Any], value)):
        where = name if name == "MLmodel" else f"MLmodel: {name}"
        raise VersionRefused(f"{where} is a {type(value).__name__}, must be a mapping with text for keys")
    return cast(dict[str, Any], value)


# A model as MLflow logged it: its `MLmodel` file and examples, read without loading the model or mlflow.


LARGEST_EXAMPLE = PredictionLog().max_bytes
"""Bytes: it is sent as a request, and the gateway takes none that is larger."""


@dataclass(frozen=True)
class LoggedModel:
    """The directory of one version's artefact."""

    directory: Path
    about: Mapping[str, Any]
    """The `MLmodel` file."""

    @classmethod
    def read(cls, directory: Path) -> "LoggedModel":
        """Read `MLmodel`. Raises `VersionRefused` where it is none; see `read_mlmodel`."""
        return cls(directory, read_mlmodel(directory / "MLmodel"))

    @property
    def flavors(self) -> Mapping[str, Mapping[str, Any]]:
        """What MLflow can load the artefact as."""
        found = self.about.get("flavors") or {}
        return {name: flavor or {} for name, flavor in cast(dict[str, dict[str, Any] | None], found).items()}

    def signature(self) -> ModelSchema:
        """Columns in and out. Raises `VersionRefused` where they are missing, or cannot be served or stored."""
        written = self.about.get("signature")
        return ModelSchema.of_mlflow(cast(dict[str, Any], written) if isinstance(written, dict) else None)

    def example(self) -> Mapping[str, Any]:
        """The example as MLflow's scoring request. Raises `VersionRefused` where there is none.

        Older clients saved no such request, but the example alone: it is put into one.
        """
        info = cast(dict[str, Any], self.about.get("saved_input_example_info") or {})
        request, alone = info.get("serving_input_path"), info.get("artifact_path")
        if not request and not alone:
            raise VersionRefused("the version has no input example: log the model with input_example=")
        name = Path(str(request or alone)).name
        try:
            for each in filter(None, (request, alone)):  # the predictor reads the other one
                _must_be_short(self.directory / str(each))
            saved = json.loads((self.directory / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise VersionRefused(f"the version's input example {name} cannot be read: {error}") from error
        example = saved if request else _as_request(saved, info)
        if not isinstance(example, dict):
            raise VersionRefused(f"the version's input example {name} is no mapping, but {saved!r:.80}")
        return cast(dict[str, Any], example)


def _must_be_short(example: Path) -> None:
    size = example.stat().st_size if example.is_file() else 0
    if size > LARGEST_EXAMPLE:
        raise VersionRefused(
            f"the version's input example {example.name} has {size:,} bytes, must be at most {LARGEST_EXAMPLE:,}, as"
            " for every request: log the model with fewer rows as input_example="
        )


def _as_request(saved: Any, info: Mapping[str, Any]) -> Any:
    """What newer clients save beside the example; `inputs` and `params` are kept apart where it has both."""
    kind = info.get("type")
    data = saved["inputs"] if info.get("params") and "inputs" in saved else saved
    match kind, info.get("pandas_orient", "split"):
        case "dataframe", "split" | "values":
            return {"dataframe_split": data}
        case "dataframe", "records":
            return {"dataframe_records": data}
        case "ndarray", _ if (
            isinstance(data, dict) and len(data) == 1 and {"inputs", "instances"} & set(data)
        ):
            return data  # as for TensorFlow Serving
        case "ndarray" | "json_object", _:
            return {"inputs": data}
        case _:
            raise VersionRefused(
                f"the version's input example is of type {kind!r}, which cannot be sent as a request: give a data"
                " frame, an array or a mapping as input_example="
            )


# MLflow's saved input example as an Open Inference Protocol v2 request.


_FORMATS = "dataframe_split, dataframe_records, inputs or instances"


def v2_request(example: Mapping[str, Any], schema: ModelSchema) -> dict[str, Any]:
    """`{"inputs": [{"name", "shape": [n, ...], "datatype", "data"}]}`, one tensor per column of the signature.

    `example` is a scoring request as MLflow saves it. An optional column that it lacks, or that is
    null where numpy has no null, is left out. Raises `VersionRefused` where it does not fit.
    """
    try:
        columns = _columns(example, schema.inputs)
    except (LookupError, TypeError, AttributeError) as error:
        raise VersionRefused(f"the input example cannot be read: {error!r}; expected {_FORMATS}") from error
    found = {column.name: _given(column, columns) for column in schema.inputs}
    rows = {name: len(values) for name, values in found.items() if values is not None}
    if not rows or 0 in rows.values() or len(set(rows.values())) != 1:
        raise VersionRefused(f"the input example has no rows, or not as many in each column: {rows}")
    return {
        "inputs": [
            v2_tensor(column, values)
            for column in schema.inputs
            if (values := found[column.name]) is not None
        ]
    }


def _given(column: Column, columns: Mapping[str, Sequence[Any]]) -> Sequence[Any] | None:
    """The column's values; None where it is optional and left out, or null, which nothing else says of an integer."""
    values = columns.get(column.name, columns.get(str(column.label)))
    if values is None and column.required:
        raise VersionRefused(
            f"the input example has no column {column.name!r}, which the signature names; it has"
            f" {', '.join(columns) or 'none'}"
        )
    if values is None:
        return None
    silent = not column.required and not column.has_null and all(value is None for value in values)
    return None if silent else values


def _columns(example: Mapping[str, Any], wanted: Sequence[Column]) -> dict[str, Sequence[Any]]:
    split = example.get("dataframe_split")
    if isinstance(split, Mapping):
        return _table(split["data"], split.get("columns"))
    records = example.get("dataframe_records", example.get("instances"))
    if isinstance(records, list) and records and isinstance(records[0], Mapping):
        return _records(cast(list[Mapping[str, Any]], records))
    inputs = example.get("inputs", records)
    if isinstance(inputs, Mapping):
        kinds = {column.name: column for column in wanted}
        named = cast(Mapping[str, Any], inputs)
        return {name: _rows(value, kinds.get(name)) for name, value in named.items()}
    if inputs is not None and all(column.label is not None for column in wanted):
        return _nameless(inputs, wanted)
    raise VersionRefused(f"the input example has no named columns: expected {_FORMATS}, has {list(example)}")


def _records(rows: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {str(name): [row.get(name) for row in rows] for name in names}


def _table(rows: list[Any], names: list[Any] | None) -> dict[str, Sequence[Any]]:
    """MLflow leaves out names that are 0, 1, ..."""
    known = range(len(rows[0]) if rows else 0) if names is None else names
    return {str(name): [row[place] for row in rows] for place, name in enumerate(known)}


def _rows(value: Any, column: Column | None) -> Sequence[Any]:
    """One value per row. A single value is one row; so is a single list for an array, but not for a tensor."""
    if not isinstance(value, list):
        return [value]
    values = cast(list[Any], value)
    one_array = column is not None and column.many and not column.dtype
    return [values] if one_array and not any(isinstance(item, list) for item in values) else values


def _nameless(inputs: Any, wanted: Sequence[Column]) -> dict[str, Sequence[Any]]:
    """A list of rows, each a list of values where there are several columns."""
    rows: list[Any] = inputs if isinstance(inputs, list) else [inputs]
    if rows and isinstance(rows[0], Mapping):
        return _records(rows)
    if len(wanted) == 1:
        return {"0": rows}
    return _table(rows, None)
