"""A promotion is one commit of one file, or nothing."""

import subprocess
from pathlib import Path

import pytest

from resources.serving.kserve.commit_back import CommitBack
from tests.fake_kubernetes.backends import artefact, backend
from tests.fake_kubernetes.server import FakeKubernetes

YAML = """\
# The delay model.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: m, labels: {team: flights}}
spec:
  predictor:
    minReplicas: 2   # one per zone
    model:
      modelFormat: {name: mlflow}
      storageUri: "s3://m/0"
"""


def git(tree: Path, *arguments: str) -> str:
    who = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(
        ["git", "-C", str(tree), *who, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q", "-b", "main")
    for name in ("m", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "inferenceservice.yaml").write_text(YAML)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "Start")
    return tmp_path


def promote(cluster: FakeKubernetes, tree: Path, version: str) -> None:
    made = backend(cluster, commit_back=CommitBack(tree))
    made.deploy_canary("m", artefact(version), percent=0, salt=f"s{version}")
    made.promote("m", version)


def test_each_promotion_is_a_commit_of_the_teams_file_alone(cluster: FakeKubernetes, tree: Path):
    promote(cluster, tree, "1")
    (tree / "other" / "inferenceservice.yaml").write_text("# half-finished\n")
    promote(cluster, tree, "2")
    assert git(tree, "log", "--format=%s").split("\n")[:2] == [
        "Promote m to version 2",
        "Promote m to version 1",
    ]
    assert git(tree, "show", "--stat", "--format=", "HEAD").count("|") == 1
    assert git(tree, "status", "--porcelain").strip() == "M other/inferenceservice.yaml"
    text = (tree / "m" / "inferenceservice.yaml").read_text()
    assert "s3://m/2" in text and "rampgate.io/version: '2'" in text
    assert "# The delay model." in text and "# one per zone" in text


def test_promoting_again_makes_no_commit(cluster: FakeKubernetes, tree: Path):
    promote(cluster, tree, "1")
    before = git(tree, "rev-parse", "HEAD")
    backend(cluster, commit_back=CommitBack(tree)).promote("m", "1")
    assert git(tree, "rev-parse", "HEAD") == before


def test_a_file_that_somebody_works_on_is_left_alone(
    cluster: FakeKubernetes, tree: Path, caplog: pytest.LogCaptureFixture
):
    path = tree / "m" / "inferenceservice.yaml"
    path.write_text(YAML + "# not finished\n")
    promote(cluster, tree, "1")
    assert path.read_text() == YAML + "# not finished\n"
    assert "has changes of somebody else" in caplog.text
    stable = backend(cluster).status("m").stable
    assert stable is not None and stable.version == "1", "the promotion stands"


def test_a_commit_that_a_hook_refuses_changes_nothing(
    cluster: FakeKubernetes, tree: Path, caplog: pytest.LogCaptureFixture
):
    hook = tree / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho frozen >&2\nexit 1\n")
    hook.chmod(0o755)
    promote(cluster, tree, "1")
    assert "frozen" in caplog.text
    assert (tree / "m" / "inferenceservice.yaml").read_text() == YAML
    assert git(tree, "status", "--porcelain") == ""


def test_a_folder_that_is_no_work_tree(
    cluster: FakeKubernetes, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    promote(cluster, tmp_path, "1")
    assert "is not there" in caplog.text
