"""Pinned copies of model artefacts: what was validated is what is loaded."""

import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipelines.errors import ServingError
from resources.artefact_digest import digest_of
from resources.files import move
from resources.serving.backend import ModelArtefact


def pinned_path(models: Path, *, model: str, version: str, digest: str) -> Path:
    """Where the copy of a version lies."""
    return models / model / f"{version}-{digest[:12]}"


def pin(models: Path, artefact: ModelArtefact) -> Path:
    """Copy the artefact below `models` unless it is there, and verify its digest either way."""
    for name in (artefact.model, artefact.version):
        if not name or name.startswith(".") or "/" in name or "\0" in name:
            raise ServingError(f"{name!r} of {artefact.model!r} cannot be the name of a folder")
    target = pinned_path(models, model=artefact.model, version=artefact.version, digest=artefact.digest)
    if not target.exists():
        _copy(_source(artefact), target, artefact)
    _verify(target, artefact)
    return target


def drop_bytecode(place: Path, digest: str) -> None:
    """Remove what Python compiled into a pinned copy, where the files are no longer those that were pinned."""
    if place.is_dir() and digest_of(place) != digest:
        for folder in list(place.rglob("__pycache__")):
            shutil.rmtree(folder)


def _copy(source: Path, target: Path, artefact: ModelArtefact) -> None:
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, draft)
    try:
        _verify(draft, artefact)
        if not target.exists():
            move(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _source(artefact: ModelArtefact) -> Path:
    parts = urlsplit(artefact.uri)
    if parts.scheme not in ("", "file"):
        raise ServingError(
            f"{artefact.model} version {artefact.version}: cannot load {artefact.uri!r};"
            " embedded serving takes a local directory or a file:// address"
        )
    path = Path(unquote(parts.path) if parts.scheme else artefact.uri)
    if not path.is_dir():
        raise ServingError(f"{artefact.model} version {artefact.version}: {path} is not a directory")
    return path


def _verify(directory: Path, artefact: ModelArtefact) -> None:
    found = digest_of(directory)
    if found != artefact.digest:
        raise ServingError(
            f"{artefact.model} version {artefact.version}: the files in {directory} have digest {found[:12]},"
            f" pinned was {artefact.digest[:12]}"
        )
