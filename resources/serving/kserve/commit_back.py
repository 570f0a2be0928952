"""After a promotion: the promoted version into the team's YAML, as one commit of one file in a git work tree.

Opt-in (RAMPGATE_COMMIT_BACK). Only the version-bound fields of `spec.predictor` change; comments and everything else
stay. Nothing is pushed, no other file is touched, and a file that somebody is working on is left alone.
"""

import io
import logging
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServingError
from resources.files import write_whole
from resources.serving.kserve.identity import PREFIX

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class CommitBack:
    """A work tree that holds `<service>/inferenceservice.yaml` below `folder`."""

    folder: Path

    def promoted(self, service: str, isvc: Mapping[str, Any]) -> bool:
        """Commit what the promoted InferenceService serves; False where the file says so already.

        Raises ServingError naming what is in the way; the promotion itself is done by then, and stays.
        """
        path = self.folder / service / "inferenceservice.yaml"
        if not path.is_file():
            raise ServingError(f"commit back: {path} is not there")
        if self._git("status", "--porcelain", "--", str(path)):
            raise ServingError(f"commit back: {path} is new or has changes of somebody else")
        predictor = isvc["spec"]["predictor"]
        text = with_version(path.read_text(encoding="utf-8"), predictor)
        if text is None:
            return False
        write_whole(path, text)
        version = (predictor.get("annotations") or {}).get(f"{PREFIX}version", "")
        try:
            self._git("commit", "--only", "-m", f"Promote {service} to version {version}", "--", str(path))
        except ServingError:
            self._git("checkout", "--", str(path))
            raise
        return True

    def _git(self, *arguments: str) -> str:
        who = [
            "-c",
            "user.name=rampgate",
            "-c",
            "user.email=rampgate@localhost",
            "-c",
            "commit.gpgsign=false",
        ]
        command = ["git", "-C", str(self.folder), *who, *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ServingError(f"commit back: {error}") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip()[:500]
            raise ServingError(f"commit back: git {arguments[0]} in {self.folder}: {said}")
        return done.stdout


def with_version(text: str, predictor: Mapping[str, Any]) -> str | None:
    """The YAML with the promoted predictor's version in it, None where it is there already."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    document: Any = yaml.load(text)
    written = document["spec"]["predictor"]
    before = _bound(written)
    written["model"]["storageUri"] = predictor["model"]["storageUri"]
    if predictor.get("name"):
        written["name"] = predictor["name"]
    ours = {
        key: value for key, value in (predictor.get("annotations") or {}).items() if key.startswith(PREFIX)
    }
    if written.get("annotations") is None:
        written["annotations"] = {}
    written["annotations"].update(ours)
    if _bound(written) == before:
        return None
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def commit_quietly(target: CommitBack | None, service: str, isvc: Mapping[str, Any] | None) -> None:
    """After a promotion: what is in the way is logged, because traffic has moved and must not be reported as if not."""
    if target is None or isvc is None:
        return
    try:
        target.promoted(service, isvc)
    except ServingError as error:
        _LOG.error("%s: %s", service, error)


def _bound(predictor: Mapping[str, Any]) -> tuple[Any, ...]:
    annotations = dict(predictor.get("annotations") or {})
    return (predictor["model"].get("storageUri"), predictor.get("name"), annotations)
