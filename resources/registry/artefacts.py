"""Artefacts on this machine: downloaded once, complete or not there at all."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlparse

from pipelines.errors import RegistryError
from resources.artefact_digest import digest_of
from resources.registry.mlflow_client import mlflow_calls


@dataclass(frozen=True)
class ArtefactCache:
    """`<root>/<model>/<version>-<8 hex of where it came from>`: a deleted and reused number is another folder."""

    root: Path
    uri: str
    """The MLflow server, for artefacts that it keeps itself."""

    def directory(self, model: str, version: str, source: str) -> Path:
        """The artefact's files, downloaded from `source` if they are not here. Raises `RegistryError`."""
        place = self.root / _safe("model", model) / f"{_safe('version', version)}-{_short(source)}"
        if not place.is_dir():
            self._download(f"{model} version {version}", source, place)
        return place

    def digest(self, directory: Path) -> str:
        """The digest of the files as they are now."""
        try:
            return digest_of(directory)
        except OSError as error:
            raise RegistryError(f"the artefact in {directory} cannot be read: {error}") from error

    def _download(self, what: str, source: str, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=place.parent) as scratch:
            files = self._fetch(what, source, Path(scratch))
            # Another process may have finished first; the two copies are the same.
            if not place.is_dir():
                files.rename(place)

    def _fetch(self, what: str, source: str, scratch: Path) -> Path:
        local = _local_path(source)
        if local is None:
            import mlflow.artifacts

            with mlflow_calls(self.uri, f"downloading {what} from {source}"):
                found = mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(scratch))
            return Path(found)
        try:
            return Path(shutil.copytree(local, scratch / "files"))
        except OSError as error:
            raise RegistryError(f"{what} cannot be copied from {local}: {error}") from error


def _local_path(source: str) -> Path | None:
    parsed = urlparse(source)
    if parsed.scheme in ("", "file"):
        return Path(unquote(parsed.path))
    return None


def _safe(what: str, name: str) -> str:
    """Names become folder names; the registry allows more in them than a folder may hold."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise RegistryError(f"{what} == {name!r}, must be usable as a folder's name")
    return name


def _short(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:8]
