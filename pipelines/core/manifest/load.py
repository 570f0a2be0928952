"""Reading `serving_manifests/`: every model that can be read, and every mistake in those that cannot."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.document import (
    Document,
    Finding,
    Location,
    ManifestProblem,
    dotted,
    findings,
    line_of,
    parse,
    read_document,
    shown,
)
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.manifest.rules import meaning_findings

API_VERSION = "serving.kserve.io/v1beta1"

KIND = "InferenceService"

BOUND_KEYS = ("canaryTrafficPercent", "storageUri", "storage")
"""Keys that a rollout writes, or that exclude what it writes: of `spec.predictor`, and of the model in it.

Of the model alone: `storage` is also what a volume claim asks for, and may be a label.
"""

BOUND_ANNOTATIONS = tuple(
    f"rampgate.io/{name}" for name in ("version", "revision", "digest", "allow", "salt")
)

_NOT_MODELS = (
    "affinity",
    "annotations",
    "dnsConfig",
    "labels",
    "logger",
    "nodeSelector",
    "overhead",
    "securityContext",
)
"""Mappings of a predictor with keys of their owner's choice, or with a `storage` of another meaning."""

_WRITTEN = "is written by rollouts, for each version; remove it"


def service_findings(document: Document, name: str) -> Iterator[Finding]:
    """What is wrong with the InferenceService of the model called `name`."""
    yield from _expected(document, ("apiVersion",), API_VERSION)
    yield from _expected(document, ("kind",), KIND)
    yield from _expected(document, ("metadata", "name"), name)
    predictor = document.get("spec", "predictor")
    if not isinstance(predictor, dict) or not predictor:
        yield ("spec", "predictor"), f"{shown(predictor)}: expected a mapping with at least one key"
    if document.get("spec", "canary") is not None:
        yield ("spec", "canary"), _WRITTEN
    yield from _bound_keys(predictor, ("spec", "predictor"))
    for place in (("metadata", "annotations"), ("spec", "predictor", "annotations")):
        yield from _bound_annotations(document, place)


def _expected(document: Document, place: Location, value: str) -> Iterator[Finding]:
    found = document.get(*place)
    if found is None:
        yield place, f"required key is missing: expected {value!r}"
    elif found != value:
        yield place, f"{shown(found)}: expected {value!r}"


def _bound_keys(predictor: object, place: Location) -> Iterator[Finding]:
    """The model is `model`, or a key named after its framework as in older manifests (`sklearn`)."""
    if not isinstance(predictor, dict):
        return
    for key, inner in cast(dict[str, Any], predictor).items():
        if key in BOUND_KEYS:
            yield (*place, key), _WRITTEN
        elif key not in _NOT_MODELS and isinstance(inner, dict):
            yield from (((*place, key, bound), _WRITTEN) for bound in BOUND_KEYS if bound in inner)


def _bound_annotations(document: Document, place: Location) -> Iterator[Finding]:
    found = document.get(*place)
    for key in cast(dict[str, Any], found) if isinstance(found, dict) else ():
        if key in BOUND_ANNOTATIONS:
            yield (*place, key), _WRITTEN


# Reading `serving_manifests/`: every model that can be read, and every mistake in those that cannot.


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
