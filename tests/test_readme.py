"""The README says what is so: its commands exist, its links lead somewhere, its manifest loads."""

import re
import subprocess
from pathlib import Path

import pytest

from pipelines.core.manifest.load import load_models

ROOT = Path(__file__).resolve().parent.parent

README = (ROOT / "README.md").read_text()

COMMANDS = sorted(set(re.findall(r"`?\bmake ([a-z-]+)\b`?", README)))

LINKS = sorted(
    {target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target}
)


@pytest.mark.parametrize("target", COMMANDS)
def test_a_command_of_the_readme_is_one_of_the_makefile(target: str) -> None:
    answer = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("link", LINKS)
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_manifest_of_the_readme_is_a_good_one(tmp_path: Path) -> None:
    (manifest,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    folder = tmp_path / "churn"
    folder.mkdir()
    (folder / "rollout.yaml").write_text(manifest)
    service = (ROOT / "serving_manifests" / "flight-delay" / "inferenceservice.yaml").read_text()
    (folder / "inferenceservice.yaml").write_text(service.replace("flight-delay", "churn"))
    catalogue = load_models(tmp_path)
    assert catalogue.errors == ()
    assert [model.name for model in catalogue.models] == ["churn"]
