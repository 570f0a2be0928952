"""Artefacts on this machine: complete or not there at all, and taken anew when a version is started."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from pipelines.core.errors import RegistryError
from resources.files import move
from resources.registry.client import RegistryApi, mlflow_calls
from resources.registry.digest import digest_of


@dataclass(frozen=True)
class ArtefactCache:
    """`<root>/<model>/<version>-<8 hex of where it came from>-<12 hex of the digest>`.

    A deleted and reused number is another folder, and so is an artefact that was changed where it lies.
    """

    root: Path
    api: RegistryApi
    """The MLflow server, for artefacts that it keeps itself."""

    def directory(self, model: str, version: str, source: str) -> Path:
        """The artefact's files as they were last taken from `source`; taken now if they never were.

        Raises `RegistryError`.
        """
        folder, name = self._folder(model), f"{_safe('version', version)}-{_short(source)}"
        try:
            newest = max(
                (copy for copy in folder.glob(f"{name}*") if copy.is_dir()), key=_taken, default=None
            )
        except OSError as error:
            raise RegistryError(f"the artefacts in {folder} cannot be listed: {error}") from error
        return self.take(model, version, source) if newest is None else newest

    def take(self, model: str, version: str, source: str) -> Path:
        """The artefact's files as they lie at `source` now. Raises `RegistryError`.

        A copy of other content stays: a rollout that is open may still need it.
        """
        folder, name = self._folder(model), f"{_safe('version', version)}-{_short(source)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as scratch:
                files = self._fetch(f"{model} version {version}", source, Path(scratch))
                return _put(files, folder / f"{name}-{digest_of(files)[:12]}")
        except OSError as error:
            raise RegistryError(f"{model} version {version} cannot be kept in {folder}: {error}") from error

    def digest(self, directory: Path) -> str:
        """The digest of the files as they are now."""
        try:
            return digest_of(directory)
        except OSError as error:
            raise RegistryError(f"the artefact in {directory} cannot be read: {error}") from error

    def _folder(self, model: str) -> Path:
        return self.root / _safe("model", model)

    def _fetch(self, what: str, source: str, scratch: Path) -> Path:
        parsed = urlparse(source)
        if parsed.scheme in ("", "file"):
            return _copy(what, Path(unquote(parsed.path)), scratch / "files")
        if parsed.scheme == "mlflow-artifacts" and not parsed.netloc:
            return _mirror(self.api, parsed.path.strip("/"), scratch / "files")
        return _download(what, source, scratch, self.api.uri)


def _put(files: Path, place: Path) -> Path:
    """Make `files` the newest copy, in its place; one of the same content is taken unless it was damaged since."""
    if place.is_dir() and digest_of(place) == digest_of(files):
        os.utime(place)
        return place
    if place.is_dir():
        move(place, files.with_name("damaged"))
    try:
        move(files, place)
    except OSError:
        # Another process may have finished first; the two copies are the same.
        if not place.is_dir():
            raise
    os.utime(place)
    return place


def _taken(copy: Path) -> int:
    return copy.stat().st_mtime_ns


def _copy(what: str, local: Path, place: Path) -> Path:
    try:
        # Links stay links, which the policy refuses: what they lead to is not the artefact's, and may have no end.
        return Path(shutil.copytree(local, place, symlinks=True))
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
