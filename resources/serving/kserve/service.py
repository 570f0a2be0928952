"""The InferenceService that a first rollout creates, from the model's folder."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import ServingError
from resources.serving.kserve.identity import MANAGED, Identity, owned
from resources.serving.kserve.mode import Mode

TAG_ROUTING = "serving.kserve.io/enable-tag-routing"
Manifests = Callable[[str], Mapping[str, Any]]
"""Service name -> its InferenceService as the team wrote it."""


def from_folder(manifests: Path) -> Manifests:
    """Read `<manifests>/<service>/inferenceservice.yaml`."""

    def read(service: str) -> Mapping[str, Any]:
        from ruamel.yaml import YAML

        path = manifests / service / "inferenceservice.yaml"
        if not path.is_file():
            raise ServingError(
                f"{service}: no InferenceService in the cluster, and no {path} to create it from"
            )
        return YAML(typ="safe").load(path.read_text(encoding="utf-8"))

    return read


def build(
    manifest: Mapping[str, Any],
    service: str,
    namespace: str,
    mode: Mode,
    identity: Identity,
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest with the version-bound fields filled in; everything else passes through untouched.

    Its pods get no token of the API server, unless the manifest says `automountServiceAccountToken`.
    """
    body: dict[str, Any] = copy.deepcopy(dict(manifest))
    predictor = checked_predictor(body, service)
    fields = owned(service, identity)
    predictor["model"] = {**predictor["model"], **fields["model"]}
    predictor["annotations"] = {**(predictor.get("annotations") or {}), **fields["annotations"]}
    predictor.update(extra)
    predictor.setdefault("automountServiceAccountToken", False)
    annotations = {**(body["metadata"].get("annotations") or {}), MANAGED: "true"}
    if mode is Mode.KNATIVE:
        annotations.setdefault(TAG_ROUTING, "true")
        predictor["canaryTrafficPercent"] = 100
    else:
        predictor["name"] = identity.label
    body["metadata"] = {
        **body["metadata"],
        "name": service,
        "namespace": namespace,
        "annotations": annotations,
    }
    body.pop("status", None)
    return body


def checked_predictor(isvc: Mapping[str, Any], service: str) -> dict[str, Any]:
    """`spec.predictor`, if rollouts can drive it. Raises ServingError naming what is missing."""
    predictor = (isvc.get("spec") or {}).get("predictor")
    if not isinstance(predictor, dict) or not isinstance(predictor.get("model"), dict):
        raise ServingError(
            f"{service}: spec.predictor.model is missing; a rollout sets spec.predictor.model.storageUri, so "
            "predictors of another kind (containers, sklearn, ...) cannot be rolled out"
        )
    if predictor["model"].get("storage"):
        raise ServingError(
            f"{service}: spec.predictor.model.storage and storageUri exclude each other; drop storage"
        )
    return predictor
