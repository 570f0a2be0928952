"""A model as MLflow logged it: its `MLmodel` file and examples, read without loading the model or mlflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipelines.errors import LakeError, RegistryError, VersionRefused
from resources.lake.schema import Column, ModelSchema

_HOW = "log the model with signature=mlflow.models.infer_signature(inputs, predictions)"
_TENSOR_TYPES = {
    "float64": "double", "float32": "float", "int64": "long", "int32": "integer", "bool": "boolean",
    "str": "string", "object": "string",
}  # fmt: skip


@dataclass(frozen=True)
class LoggedModel:
    """The directory of one version's artefact."""

    directory: Path
    about: Mapping[str, Any]
    """The `MLmodel` file."""

    @classmethod
    def read(cls, directory: Path) -> "LoggedModel":
        """Read `MLmodel`. Raises `RegistryError` where there is none that can be read."""
        path = directory / "MLmodel"
        try:
            about = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, YAMLError) as error:
            raise RegistryError(f"{path} cannot be read: {error}") from error
        if not isinstance(about, dict):
            raise RegistryError(f"{path} is not an MLmodel file: expected a mapping")
        return cls(directory, cast(dict[str, Any], about))

    @property
    def flavors(self) -> Mapping[str, Mapping[str, Any]]:
        """What MLflow can load the artefact as."""
        found = self.about.get("flavors")
        return cast(dict[str, dict[str, Any]], found) if isinstance(found, dict) else {}

    def signature(self) -> ModelSchema:
        """Columns in and out. Raises `VersionRefused` where they are missing or have no names."""
        written = self.about.get("signature") or {}
        if not written.get("inputs") or not written.get("outputs"):
            missing = "signature" if not written else "signature with both inputs and outputs"
            raise VersionRefused(f"the version has no {missing}: {_HOW}")
        try:
            return ModelSchema(
                inputs=_columns(written["inputs"]), outputs=_columns(written["outputs"], unnamed="output")
            )
        except LakeError as error:
            raise VersionRefused(f"the version's signature cannot be stored: {error}") from error

    def example(self) -> Mapping[str, Any]:
        """The example as MLflow's scoring request. Raises `VersionRefused` where there is none."""
        info = self.about.get("saved_input_example_info") or {}
        name = info.get("serving_input_path")
        if not name:
            raise VersionRefused("the version has no input example: log the model with input_example=")
        path = self.directory / Path(name).name
        try:
            return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise VersionRefused(f"the version's input example {name} cannot be read: {error}") from error


def _columns(written: str, unnamed: str | None = None) -> tuple[Column, ...]:
    specs = cast(list[dict[str, Any]], json.loads(written))
    return tuple(_column(spec, index, unnamed) for index, spec in enumerate(specs))


def _column(spec: Mapping[str, Any], index: int, unnamed: str | None) -> Column:
    """MLflow writes a column as {type, name}, an array as {type: array, items}, a tensor as {tensor-spec}."""
    name: str | None = spec.get("name") or (f"{unnamed}_{index}" if unnamed else None)
    if name is None:
        raise VersionRefused(f"the signature's input {index} has no name: {_HOW}, on a data frame")
    if spec["type"] == "tensor":
        tensor = spec["tensor-spec"]
        kind = _TENSOR_TYPES.get(tensor["dtype"], str(tensor["dtype"]))
        return Column(name, kind, many=_many(tensor["shape"]))
    if spec["type"] == "array":
        return Column(name, str(spec["items"]["type"]), many=True)
    return Column(name, str(spec["type"]))


def _many(shape: list[int]) -> bool:
    return len(shape) > 1 and shape[1:] != [1]
