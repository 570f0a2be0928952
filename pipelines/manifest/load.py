"""Reading `serving_manifests/`: every model that can be read, and every mistake in those that cannot."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipelines.errors import ManifestError
from pipelines.manifest.document import Document, read_document
from pipelines.manifest.meaning import meaning_findings
from pipelines.manifest.model import RolloutManifest
from pipelines.manifest.problem import Finding, Location, ManifestProblem, dotted, line_of, shown
from pipelines.manifest.service import service_findings
from pipelines.manifest.shape import findings, parse

ROLLOUT_FILE = "rollout.yaml"
SERVICE_FILE = "inferenceservice.yaml"


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model's folder, read and checked."""

    name: str
    folder: Path
    rollout: RolloutManifest
    service: Mapping[str, Any]
    """`inferenceservice.yaml` as plain data."""
    digest: str
    """sha256 over both files: which manifest a rollout was started with."""
    lines: Mapping[Location, int] = field(default_factory=dict[Location, int])
    """Of the keys of `rollout.yaml`."""

    def problem(self, location: Location, message: str) -> ManifestProblem:
        """What is wrong at that place of `rollout.yaml`, where only something outside of it shows that."""
        line = line_of(self.lines, location)
        return ManifestProblem(message, file=self.folder / ROLLOUT_FILE, line=line, key=dotted(location))


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All models that can be read, by name, and all mistakes in the others."""

    models: tuple[Model, ...]
    errors: tuple[ManifestError, ...]

    def model(self, name: str) -> Model:
        """The model of that name. Raises `ManifestError`, which names the models there are."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models) or "none"
        raise ManifestError(f"no model {name!r} in the manifests; readable models: {known}")


def load_models(folder: Path, *, only: str = "") -> Catalogue:
    """Read every sub-folder that has a `rollout.yaml`; one broken model never hides the others.

    `only` the folder of this name, where there is one.
    """
    models: list[Model] = []
    errors: list[ManifestError] = []
    if not folder.is_dir():
        errors.append(ManifestProblem("not a folder; expected one folder per model", file=folder, line=1))
        return Catalogue(models=(), errors=tuple(errors))
    paths = sorted(folder.glob(f"*/{ROLLOUT_FILE}"))
    for path in [path for path in paths if path.parent.name == only] or paths:
        loaded = load_model(path.parent)
        if isinstance(loaded, Model):
            models.append(loaded)
        else:
            errors.extend(loaded)
    return Catalogue(models=tuple(models), errors=tuple(errors))


def load_model(folder: Path) -> Model | tuple[ManifestProblem, ...]:
    """One model's folder, or everything that is wrong with it."""
    rollout, problems = _read(folder / ROLLOUT_FILE)
    service, service_problems = _read(folder / SERVICE_FILE)
    problems += service_problems
    manifest = None
    if rollout is not None:
        manifest, found = _manifest(rollout, folder.name)
        problems += [rollout.problem(place, message) for place, message in found]
    if service is not None:
        problems += [service.problem(place, m) for place, m in service_findings(service, folder.name)]
    if problems or manifest is None or rollout is None or service is None:
        return tuple(sorted(problems, key=lambda problem: (problem.file, problem.line)))
    digest = hashlib.sha256(rollout.content + b"\0" + service.content).hexdigest()
    return Model(
        name=manifest.model,
        folder=folder,
        rollout=manifest,
        service=service.data,
        digest=digest,
        lines=rollout.lines,
    )


def _read(path: Path) -> tuple[Document | None, list[ManifestProblem]]:
    try:
        return read_document(path), []
    except ManifestProblem as problem:
        return None, [problem]


def _manifest(document: Document, folder: str) -> tuple[RolloutManifest | None, list[Finding]]:
    found = [*_folder_findings(document, folder), *meaning_findings(document)]
    try:
        return parse(RolloutManifest, document.data), found
    except ValidationError as error:
        return None, [*findings(RolloutManifest, document.data, error), *found]


def _folder_findings(document: Document, folder: str) -> Iterator[Finding]:
    name = document.get("model")
    if isinstance(name, str) and name != folder:
        yield ("model",), f"{shown(name)}: expected {folder!r}, the name of its folder"
