"""Aliases, tags, signature, example and artefact, against a real MLflow server."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core.errors import RegistryError, VersionRefused
from resources.registry.artefacts import ArtefactCache
from resources.registry.client import RegistryApi
from resources.registry.digest import digest_of
from resources.registry.registry import Registry
from resources.registry.signature import Column, ModelSchema


def test_an_alias_is_set_moved_and_removed(registry: Registry, publish: Callable[..., str]):
    first, second = publish("aliased"), publish("aliased")
    assert registry.version_with_alias("aliased", "champion") is None
    registry.set_alias("aliased", "champion", first)
    registry.set_alias("aliased", "champion", second)
    found = registry.version_with_alias("aliased", "champion")
    assert found is not None
    assert (found.version, found.aliases, found.status) == (second, ("champion",), "READY")
    for _ in range(2):  # removing twice is the same as once
        registry.remove_alias("aliased", "champion")
        assert registry.version_with_alias("aliased", "champion") is None


def test_an_alias_is_looked_up_in_all_models_at_once_whatever_the_number_of_pages(
    registry: Registry, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    held = {name: publish(name) for name in ("sought-a", "sought-b", "sought-c")}
    publish("sought-d")
    for name, version in held.items():
        registry.set_alias(name, "sought", version)
    for page in ("1000", "1"):
        monkeypatch.setattr("resources.registry.registry.PAGE", page)
        assert registry.aliased("sought") == held
        assert registry.aliased("nobody") == {}


def test_what_does_not_exist_is_none(registry: Registry, good_version: str):
    assert registry.version_with_alias("nobody", "champion") is None
    assert registry.version("churn", "999") is None
    assert registry.versions("nobody") == ()
    assert registry.tags("churn", "999") == {}
    found = registry.version("churn", good_version)
    assert found is not None
    assert found.run_id


def test_versions_come_newest_first(registry: Registry, publish: Callable[..., str]):
    numbers = [publish("many") for _ in range(2)]
    assert [info.version for info in registry.versions("many")] == numbers[::-1]


def test_tags_are_set_and_replaced(registry: Registry, good_version: str):
    registry.tag("churn", good_version, "rampgate.state", "refused")
    registry.tag("churn", good_version, "rampgate.state", 'it\'s "rolled back": ü')
    assert registry.tags("churn", good_version)["rampgate.state"] == 'it\'s "rolled back": ü'


def test_tagging_an_unknown_version_is_an_error(registry: Registry, good_version: str):
    with pytest.raises(RegistryError, match=r"refused POST model-versions/set-tag.*not found"):
        registry.tag("churn", "999", "key", "value")


def test_the_signature_has_columns_in_order(registry: Registry, good_version: str):
    assert registry.signature("churn", good_version) == ModelSchema(
        inputs=(Column("age", "double", required=False), Column("plan", "long")),
        outputs=(Column("score", "double"),),
    )


def test_the_example_is_one_tensor_per_column(registry: Registry, good_version: str):
    assert registry.input_example("churn", good_version) == {
        "inputs": [
            {"name": "age", "shape": [3], "datatype": "FP64", "data": [30.0, None, 50.0]},
            {"name": "plan", "shape": [3], "datatype": "INT64", "data": [1, 0, 1]},
        ]
    }


def test_a_version_without_signature_or_example_is_refused(registry: Registry, publish: Callable[..., str]):
    version = publish("bare")
    with pytest.raises(VersionRefused, match="has no signature: log the model with signature="):
        registry.signature("bare", version)
    with pytest.raises(VersionRefused, match="no input example"):
        registry.input_example("bare", version)


def test_the_artefact_is_downloaded_once_and_pinned(registry: Registry, good_version: str):
    artefact = registry.artefact("churn", good_version)
    directory = Path(artefact.uri)
    assert (directory / "MLmodel").is_file()
    assert directory.is_relative_to(registry.cache)
    assert artefact.digest == digest_of(directory)
    inode = directory.stat().st_ino
    assert registry.artefact("churn", good_version) == artefact
    assert directory.stat().st_ino == inode
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]  # nothing partial stays


def test_a_changed_copy_has_another_digest(registry: Registry, good_version: str):
    artefact = registry.artefact("churn", good_version)
    (Path(artefact.uri) / "model.skops").write_bytes(b"other")
    assert registry.artefact("churn", good_version).digest != artefact.digest


def test_where_mlflow_keeps_it(registry: Registry, good_version: str):
    assert registry.artefact("churn", good_version, local=False).uri.startswith("mlflow-artifacts:/")


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", ""])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str):
    cache = ArtefactCache(tmp_path / "cache", RegistryApi("http://127.0.0.1:9"))
    with pytest.raises(RegistryError, match=r"model == '.*', must be usable as a folder's name"):
        cache.directory(name, "1", str(tmp_path))


def test_a_local_artefact_is_copied_and_a_missing_one_told(tmp_path: Path):
    cache = ArtefactCache(tmp_path / "cache", RegistryApi("http://127.0.0.1:9"))
    (tmp_path / "logged").mkdir()
    (tmp_path / "logged" / "MLmodel").write_text("flavors: {}")
    copy = cache.directory("churn", "1", f"file://{tmp_path}/logged")
    assert (copy / "MLmodel").read_text() == "flavors: {}"
    with pytest.raises(RegistryError, match="churn version 2 cannot be copied from .*nowhere"):
        cache.directory("churn", "2", str(tmp_path / "nowhere"))
    assert len(list(copy.parent.iterdir())) == 1


def test_neither_polling_nor_downloading_imports_mlflow(mlflow_uri: str, good_version: str, tmp_path: Path):
    script = (
        "import sys\nfrom pathlib import Path\nfrom resources.registry.registry import Registry\n"
        f"registry = Registry({mlflow_uri!r}, Path({str(tmp_path)!r}))\n"
        f"registry.version_with_alias('churn', 'challenger'); registry.tags('churn', {good_version!r})\n"
        f"registry.artefact('churn', {good_version!r})\n"
        "sys.exit('mlflow' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
