"""Artefacts that ran code when they were loaded, with nothing allowed; each is really loaded here."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import VersionRefused
from resources.registry.artefact_policy import violations
from resources.registry.artefacts import ArtefactCache
from resources.registry.client import RegistryApi
from resources.registry.digest import digest_of, verify
from resources.registry.mlmodel import LoggedModel
from resources.serving.predictor.guard import KINDS
from resources.settings import ROOT
from tests.attacks.loading import (
    ATTACKS,
    ORDINARY,
    READERS,
    VARIANTS,
    Artefact,
    constructor_that_is_a_function,
)

NAMES = [attack.__name__ for attack in ATTACKS]

FIRST_LINE_ALONE = {
    "xgboost_class": "calls a function that is installed: nothing is read that could be refused"
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What became of everything in `loading`."""
    folder = tmp_path_factory.mktemp("attacks")
    command = [sys.executable, "-W", "ignore", "-m", "tests.attacks.loading", str(folder)]
    ended = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        check=False,
        env=os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    assert ended.returncode == 0, ended.stderr.decode()
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", NAMES)
def test_an_artefact_that_runs_code_when_mlflow_loads_it_is_refused_where_nothing_is_allowed(
    loaded: dict[str, Any], name: str
):
    attack = loaded["attacks"][name]
    assert attack["unguarded"], "the attack works, or this test says nothing"
    assert attack["refusals"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FIRST_LINE_ALONE])
def test_without_the_policy_in_front_the_predictor_itself_runs_no_code_of_an_artefact(
    loaded: dict[str, Any], name: str
):
    attack = loaded["attacks"][name]
    assert not attack["guarded"]
    assert "loading the model asked for" in attack["error"]


@pytest.mark.parametrize("name", [variant.__name__ for variant in VARIANTS])
def test_a_variant_that_the_policy_lets_pass_runs_nothing(loaded: dict[str, Any], name: str):
    variant = loaded["variants"][name]
    assert variant["refusals"] or not variant["guarded"], variant
    assert bool(variant["refusals"]) >= variant["unguarded"], "what works is refused on paper already"


@pytest.mark.parametrize(
    "name",
    ["pickle.load", "pickle.loads", "pickle.Unpickler", "pickle._Unpickler", "cloudpickle.load", "cloudpickle.loads",
     "joblib.load", "numpy.load", "pandas.read_pickle", "marshal.loads"],
)  # fmt: skip
def test_no_reader_of_pickles_resolves_a_name_in_a_guarded_process(loaded: dict[str, Any], name: str):
    found = loaded["unpicklers"][name]
    assert found["said"].startswith("VersionRefused: loading the model asked for")
    assert "artefact.allow: [pickle]" in found["said"]
    assert not found["ran"]


@pytest.mark.parametrize("name", list(READERS)[:-1])
def test_no_file_is_read_because_a_caller_sent_its_name(loaded: dict[str, Any], name: str):
    found = loaded["readers"][name]
    assert "has a text vectorizer that reads files" in "".join(found["refusals"])
    assert found["said"].startswith("VersionRefused: loading the model asked for a file that a caller named")


def test_a_vectorizer_that_takes_texts_is_data(loaded: dict[str, Any]):
    assert loaded["readers"]["texts"] == {"refusals": [], "said": ""}


def test_a_guarded_process_goes_on_doing_what_no_file_told_it_to(loaded: dict[str, Any]):
    assert len(loaded["harmless"]) == 4
    assert {name: found["said"] for name, found in loaded["harmless"].items() if found["said"]} == {}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_ordinary_model_loads_with_what_it_needs_and_stays_as_it_was(loaded: dict[str, Any], name: str):
    assert loaded["ordinary"][name] == {"needs": True, "refusals": [], "said": "", "same": True}


@pytest.mark.parametrize("target", ["/", "/dev/zero", "."])
def test_a_link_in_a_local_source_is_copied_as_a_link_and_refused(tmp_path: Path, target: str):
    source = tmp_path / "source"
    source.mkdir()
    (source / "MLmodel").write_text("flavors: {}\n")
    (source / "link").symlink_to(target)
    api = RegistryApi("http://127.0.0.1:1", timeout=1, attempts=1)
    cached = ArtefactCache(tmp_path / "cache", api).directory("m", "1", source.as_uri())
    assert len(digest_of(cached)) == 64
    assert "link is a link" in "".join(violations(LoggedModel.read(cached), KINDS))


def _changed(folder: Path) -> None:
    (folder / "model").write_bytes(b"other")


def _linked_elsewhere(folder: Path) -> None:
    shutil.move(folder / "inner", folder.parent / "moved")
    (folder.parent / "moved" / "file").write_bytes(b"other")
    (folder / "inner").symlink_to(folder.parent / "moved")


def _linked_to_itself(folder: Path) -> None:
    (folder / "inner" / "loop").symlink_to(folder)


def _removed(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("change", [_changed, _linked_elsewhere, _linked_to_itself, _removed])
def test_files_that_are_not_those_that_were_pinned_are_refused(tmp_path: Path, change: Any):
    folder = tmp_path / "artefact"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").write_bytes(b"one")
    (folder / "model").write_bytes(b"one")
    digest = digest_of(folder)
    verify(folder, digest)
    change(folder)
    with pytest.raises(VersionRefused, match="not loaded"):
        verify(folder, digest)


def _started(folder: Path, digest: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "resources.serving.predictor", "--model-dir", str(folder)]
    command += ["--model-name", "m", "--model-version", "1", "--revision", "m-00001", "--port", "1"]
    command += ["--log-dir", str(folder / "log"), "--digest", digest]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_predictor_does_not_start_on_files_that_changed_since_they_were_pinned(tmp_path: Path):
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    ended = _started(tmp_path, "0" * 64)
    assert ended.returncode == 1
    assert f"the rollout pinned {'0' * 64}; not loaded" in ended.stderr


def test_a_predictor_refuses_what_the_policy_refuses_whoever_starts_it(tmp_path: Path):
    constructor_that_is_a_function(Artefact(tmp_path / "at"))
    folder = tmp_path / "at" / "artefact"
    ended = _started(folder, digest_of(folder))
    assert ended.returncode == 1
    assert "is not loaded: " in ended.stderr
    assert "os.mkdir" in ended.stderr
    assert not list(tmp_path.rglob("ran"))
