"""What `inferenceservice.yaml` must be: a KServe InferenceService without the fields that a rollout fills in."""

from collections.abc import Iterator
from typing import Any, cast

from pipelines.manifest.document import Document
from pipelines.manifest.problem import Finding, Location, shown

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
