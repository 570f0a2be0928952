"""Artefacts on this machine: downloaded once, complete or not there at all."""

import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from pipelines.errors import RegistryError
from resources.artefact_digest import digest_of
from resources.registry.mlflow_client import mlflow_calls
from resources.registry.rest import RegistryApi


@dataclass(frozen=True)
class ArtefactCache:
    """`<root>/<model>/<version>-<8 hex of where it came from>`: a deleted and reused number is another folder."""

    root: Path
    api: RegistryApi
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
        parsed = urlparse(source)
        if parsed.scheme in ("", "file"):
            return _copy(what, Path(unquote(parsed.path)), scratch / "files")
        if parsed.scheme == "mlflow-artifacts" and not parsed.netloc:
            return _mirror(self.api, parsed.path.strip("/"), scratch / "files")
        return _download(what, source, scratch, self.api.uri)


def _copy(what: str, local: Path, place: Path) -> Path:
    try:
        return Path(shutil.copytree(local, place))
    except OSError as error:
        raise RegistryError(f"{what} cannot be copied from {local}: {error}") from error


def _mirror(api: RegistryApi, path: str, place: Path) -> Path:
    """A folder that the MLflow server keeps itself: over HTTP, without the mlflow library."""
    place.mkdir()
    for item in api.files(path):
        # Listings name entries relative to the folder or to the root, depending on the store behind.
        name = _safe("artefact file", PurePosixPath(item["path"]).name)
        if item.get("is_dir"):
            _mirror(api, f"{path}/{name}", place / name)
        else:
            api.download(f"{path}/{name}", place / name)
    return place


def _download(what: str, source: str, scratch: Path, uri: str) -> Path:
    """From a store that only the mlflow library knows: s3, gs, abfss and so on."""
    import mlflow.artifacts

    with mlflow_calls(uri, f"downloading {what} from {source}"):
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(scratch)))


def _safe(what: str, name: str) -> str:
    """Names become folder names; the registry allows more in them than a folder may hold."""
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise RegistryError(f"{what} == {name!r}, must be usable as a folder's name")
    return name


def _short(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()[:8]
