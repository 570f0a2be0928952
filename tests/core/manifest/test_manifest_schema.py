"""The published JSON Schema is the one that the models give, and agrees with the loader."""

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipelines.core.manifest.json_schema import SCHEMA_FILE, schema_text

REPOSITORY = Path(__file__).resolve().parents[3]

MANIFESTS = sorted((REPOSITORY / "serving_manifests").glob("*/rollout.yaml"))


def test_the_published_schema_is_up_to_date():
    assert SCHEMA_FILE.read_text() == schema_text(), "run `python -m pipelines.core.manifest.json_schema`"


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.parent.name)
def test_shipped_manifests_name_and_satisfy_the_schema(path: Path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# yaml-language-server: $schema=")
    schema = (path.parent / first.split("=")[1]).resolve()
    assert schema == SCHEMA_FILE
    data = YAML(typ="safe", pure=True).load(path)
    jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(data)


def test_defaults_are_written_as_people_write_them():
    text = SCHEMA_FILE.read_text()
    assert '"default": "5m"' in text
    assert "PT" not in text
