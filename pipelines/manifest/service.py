"""What `inferenceservice.yaml` must be: a KServe InferenceService without the fields that a rollout fills in."""

from collections.abc import Iterator
from typing import Any, cast

from pipelines.manifest.document import Document
from pipelines.manifest.problem import Finding, Location, shown

API_VERSION = "serving.kserve.io/v1beta1"
KIND = "InferenceService"
BOUND_KEYS = ("storageUri", "storage", "canaryTrafficPercent")
"""Keys under `spec.predictor` that a rollout writes, at any depth of it."""
BOUND_ANNOTATIONS = ("rampgate.io/version", "rampgate.io/revision", "rampgate.io/digest", "rampgate.io/salt")

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


def _bound_keys(value: object, place: Location) -> Iterator[Finding]:
    if isinstance(value, dict):
        for key, inner in cast(dict[str, Any], value).items():
            if key in BOUND_KEYS and place[-1] != "logger":
                yield (*place, key), _WRITTEN
            else:
                yield from _bound_keys(inner, (*place, key))
    elif isinstance(value, list):
        for index, inner in enumerate(cast(list[Any], value)):
            yield from _bound_keys(inner, (*place, index))


def _bound_annotations(document: Document, place: Location) -> Iterator[Finding]:
    found = document.get(*place)
    for key in cast(dict[str, Any], found) if isinstance(found, dict) else ():
        if key in BOUND_ANNOTATIONS:
            yield (*place, key), _WRITTEN
