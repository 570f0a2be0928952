"""The JSON Schema of `rollout.yaml`, published for editors.

`python -m pipelines.core.manifest.json_schema` rewrites `serving_manifests/rollout.schema.json`.
"""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from pipelines.core.manifest.model import RolloutManifest, format_duration

SCHEMA_FILE = Path(__file__).resolve().parents[3] / "serving_manifests" / "rollout.schema.json"


class _Generator(GenerateJsonSchema):
    """Writes defaults the way people write them: `24h`, not `PT24H`."""

    def encode_default(self, dft: Any) -> Any:
        return super().encode_default(_written(dft))


def rollout_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that editors complete and check `rollout.yaml` with."""
    schema = RolloutManifest.model_json_schema(schema_generator=_Generator)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text() -> str:
    """The published file's text."""
    return json.dumps(rollout_schema(), indent=2) + "\n"


def _written(value: Any) -> Any:
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, BaseModel):
        return {name: _written(inner) for name, inner in value}
    if isinstance(value, tuple):
        return [_written(inner) for inner in cast(tuple[Any, ...], value)]
    return value


if __name__ == "__main__":
    SCHEMA_FILE.write_text(schema_text(), encoding="utf-8")
