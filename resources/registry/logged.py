"""A model as MLflow logged it: its `MLmodel` file and examples, read without loading the model or mlflow."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pipelines.errors import VersionRefused
from pipelines.manifest.model import PredictionLog
from resources.registry.mlmodel import read_mlmodel
from resources.signature import ModelSchema

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
