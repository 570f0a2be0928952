"""Whatever is done to a good manifest, it stays valid or becomes errors with file and line."""

import copy
import io
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import Model, load_model

_FILES = ("rollout.yaml", "inferenceservice.yaml")

_PLACE = re.compile(r"(rollout|inferenceservice)\.yaml:[1-9]\d*: ")

_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.dates(), st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from_repository = Path(__file__).resolve().parents[3] / "serving_manifests" / "flight-delay"
    folder = tmp_path_factory.mktemp("models") / "flight-delay"
    folder.mkdir()
    for name in _FILES:
        (folder / name).write_text((from_repository / name).read_text())
    return folder


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_key_gives_a_model_or_errors_with_places(good: Path, data: st.DataObject):
    name = data.draw(st.sampled_from(_FILES))
    original = (good / name).read_text()
    tree = YAML(typ="safe", pure=True).load(original)
    container, key = data.draw(st.sampled_from(_places(tree)))
    _mutate(data, container, key)
    _judge(good, name, original, _dump(tree))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_text_gives_a_model_or_errors_with_places(good: Path, data: st.DataObject):
    name = data.draw(st.sampled_from(_FILES))
    original = (good / name).read_text()
    start = data.draw(st.integers(0, len(original)))
    end = data.draw(st.integers(start, min(len(original), start + 20)))
    noise = st.text(alphabet=st.sampled_from("{}[]:,-&*!|>'\"%@#?\n\t 09azé.<~"), max_size=6)
    _judge(good, name, original, original[:start] + data.draw(noise) + original[end:])


def _judge(folder: Path, name: str, original: str, text: str) -> None:
    (folder / name).write_text(text)
    try:
        loaded = load_model(folder)
    finally:
        (folder / name).write_text(original)
    if not isinstance(loaded, Model):
        assert loaded
        assert all(isinstance(error, ManifestError) and _PLACE.search(str(error)) for error in loaded)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    entries: list[tuple[Any, Any]] = []
    if isinstance(tree, dict):
        entries = [(tree, key) for key in tree]
    elif isinstance(tree, list):
        entries = [(tree, index) for index in range(len(tree))]
    return entries + [inner for container, key in entries for inner in _places(container[key])]


def _mutate(data: st.DataObject, container: Any, key: Any) -> None:
    kind = data.draw(st.sampled_from(["drop", "rename", "retype", "repeat"]))
    if kind == "retype":
        container[key] = data.draw(_VALUES)
    elif kind == "rename" and isinstance(container, dict):
        container[data.draw(st.text(max_size=4))] = container.pop(key)
    elif kind == "repeat" and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    else:
        del container[key]


def _dump(tree: Any) -> str:
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(tree, stream)
    return stream.getvalue()
