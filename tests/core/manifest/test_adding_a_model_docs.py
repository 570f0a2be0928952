"""The page on adding a model is true: its YAML is a model, its command works."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

PAGE = (REPOSITORY / "docs" / "adding-a-model.md").read_text()


def _written(folder: Path) -> Path:
    service, rollout = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (folder / "churn").mkdir(parents=True)
    (folder / "churn" / "inferenceservice.yaml").write_text(service)
    (folder / "churn" / "rollout.yaml").write_text(rollout)
    return folder


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines.core.manifest", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)


def test_the_page_s_yaml_is_a_good_model(tmp_path: Path):
    done = _check(_written(tmp_path / "models"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("churn: good")


def test_the_page_s_messages_are_the_ones_that_are_given(tmp_path: Path):
    folder = _written(tmp_path / "models")
    path = folder / "churn" / "rollout.yaml"
    path.write_text(path.read_text().replace("mde:", "mdee:").replace("250ms", "260ms"))
    service = folder / "churn" / "inferenceservice.yaml"
    service.write_text(service.read_text() + "      storageUri: s3://b\n")
    done = _check(folder)
    assert done.returncode == 1
    for line in re.findall(r"^serving_manifests/churn/\S+?:\d+: (.*?)(?: \.\.\.)?$", PAGE, re.MULTILINE):
        assert line in done.stderr
