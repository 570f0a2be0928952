"""Which of KServe's deployment modes a service runs in, and the InferenceService that a first rollout
creates.
"""

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.core.errors import ServingError
from resources.serving.kserve.identity import MANAGED, Identity, owned

ANNOTATION = "serving.kserve.io/deploymentMode"

_OLD_NAMES = {"Serverless": "Knative", "RawDeployment": "Standard"}


class DeploymentMode(StrEnum):
    """The modes that can split traffic between two versions."""

    KNATIVE = "Knative"
    STANDARD = "Standard"


@dataclass(frozen=True)
class Installation:
    """What KServe's own config map says."""

    default_mode: str
    gateway_api: bool
    headless: bool = False
    """Whether a Standard predictor's Service has no address of its own: its name then gives the pods'."""


def read_installation(config_map: Mapping[str, Any]) -> Installation:
    """The parts of `inferenceservice-config` that decide the mode."""
    data: Mapping[str, str] = config_map.get("data") or {}
    deploy = _section(data, "deploy")
    ingress = _section(data, "ingress")
    return Installation(
        default_mode=str(deploy.get("defaultDeploymentMode", "Serverless")),
        gateway_api=bool(ingress.get("enableGatewayApi", False)),
        headless=bool(_section(data, "service").get("serviceClusterIPNone", False)),
    )


def detect(isvc: Mapping[str, Any], installation: Installation) -> DeploymentMode:
    """The mode of a service: the recorded one, else the annotation, else the installation's default.

    Raises ServingError for ModelMesh and for modes that are not known.
    """
    meta = isvc["metadata"]
    recorded = (isvc.get("status") or {}).get("deploymentMode", "")
    annotated = (meta.get("annotations") or {}).get(ANNOTATION, "")
    name = recorded or annotated or installation.default_mode
    name = _OLD_NAMES.get(name, name)
    if name not in tuple(DeploymentMode):
        raise ServingError(
            f"{meta.get('namespace', 'default')}/{meta['name']}: deployment mode {name!r} cannot split traffic "
            f"between two versions; allowed: {', '.join(DeploymentMode)}"
        )
    return DeploymentMode(name)


def check_split(service: str, mode: DeploymentMode, installation: Installation) -> None:
    """Raise ServingError where a canary would run and never get a request."""
    if mode is DeploymentMode.STANDARD and not installation.gateway_api:
        raise ServingError(
            f"{service}: Standard mode splits traffic only with the Gateway API, and inferenceservice-config has "
            "ingress.enableGatewayApi: false; set it to true, or run the service in Knative mode"
        )


def _section(data: Mapping[str, str], name: str) -> Mapping[str, Any]:
    try:
        section = json.loads(data.get(name) or "{}")
    except json.JSONDecodeError as error:
        raise ServingError(f"inferenceservice-config: data.{name} is not JSON: {error}") from error
    return section if isinstance(section, dict) else {}


# The InferenceService that a first rollout creates, from the model's folder.


TAG_ROUTING = "serving.kserve.io/enable-tag-routing"

Manifests = Callable[[str], Mapping[str, Any]]
"""Service name -> its InferenceService as the team wrote it."""


def build(
    manifest: Mapping[str, Any],
    service: str,
    namespace: str,
    mode: DeploymentMode,
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
    if mode is DeploymentMode.KNATIVE:
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
