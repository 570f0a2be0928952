"""Which of KServe's deployment modes a service runs in, and whether it can split traffic there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipelines.errors import ServingError

ANNOTATION = "serving.kserve.io/deploymentMode"
_OLD_NAMES = {"Serverless": "Knative", "RawDeployment": "Standard"}


class Mode(StrEnum):
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


def detect(isvc: Mapping[str, Any], installation: Installation) -> Mode:
    """The mode of a service: the recorded one, else the annotation, else the installation's default.

    Raises ServingError for ModelMesh and for modes that are not known.
    """
    meta = isvc["metadata"]
    recorded = (isvc.get("status") or {}).get("deploymentMode", "")
    annotated = (meta.get("annotations") or {}).get(ANNOTATION, "")
    name = recorded or annotated or installation.default_mode
    name = _OLD_NAMES.get(name, name)
    if name not in tuple(Mode):
        raise ServingError(
            f"{meta.get('namespace', 'default')}/{meta['name']}: deployment mode {name!r} cannot split traffic "
            f"between two versions; allowed: {', '.join(Mode)}"
        )
    return Mode(name)


def check_split(service: str, mode: Mode, installation: Installation) -> None:
    """Raise ServingError where a canary would run and never get a request."""
    if mode is Mode.STANDARD and not installation.gateway_api:
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
