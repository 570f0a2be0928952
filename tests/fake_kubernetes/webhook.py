"""KServe's validating webhook, as far as canaries go."""

from typing import Any

from tests.fake_kubernetes.status import denied

_NOT_ON_A_CANARY = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling", "workerSpec")


def deployment_mode(isvc: dict[str, Any], default: str) -> str:
    """`Knative`, `Standard` or `ModelMesh`: recorded status, then annotation, then default."""
    recorded = isvc.get("status", {}).get("deploymentMode", "")
    annotated = isvc["metadata"].get("annotations", {}).get("serving.kserve.io/deploymentMode", "")
    mode = recorded or annotated or default
    return {"Serverless": "Knative", "RawDeployment": "Standard"}.get(mode, mode)


def validate(isvc: dict[str, Any], default_mode: str) -> None:
    """Raise what the webhook would answer."""
    predictor = isvc["spec"].get("predictor")
    if not predictor:
        raise denied("spec.predictor is required")
    percent = predictor.get("canaryTrafficPercent")
    if percent is not None and not (isinstance(percent, int) and 0 <= percent <= 100):
        raise denied("canaryTrafficPercent must be between 0 and 100")
    canaries = isvc["spec"].get("canary", [])
    if canaries and deployment_mode(isvc, default_mode) != "Standard":
        raise denied("canary is only supported in Standard deployment mode")
    names = [predictor.get("name", "")]
    for canary in canaries:
        _validate_canary(canary, predictor, names)
        names.append(canary["predictor"]["name"])
    total = sum(canary.get("trafficPercent", 0) for canary in canaries)
    if total > 100:
        raise denied(f"sum of canary trafficPercent values ({total}) must be <= 100")


def _validate_canary(canary: dict[str, Any], stable: dict[str, Any], names: list[str]) -> None:
    predictor = canary["predictor"]
    name = predictor.get("name", "")
    percent = canary.get("trafficPercent", 0)
    if not name:
        raise denied("canary[0] predictor.name is required")
    if name in names:
        raise denied(f'canary predictor.name "{name}" conflicts with another predictor')
    if not (isinstance(percent, int) and 0 <= percent <= 100):
        raise denied(f'canary "{name}" trafficPercent must be between 0 and 100, got {percent}')
    if "model" not in predictor:
        raise denied(f'canary "{name}" predictor: exactly one implementation is required')
    for key in _NOT_ON_A_CANARY:
        if key in predictor:
            raise denied(f'canary "{name}" must not set {key} (canary uses fixed replicas)')
    if predictor.get("minReplicas", 0) > stable.get("minReplicas", 1):
        raise denied(f'canary "{name}" minReplicas must not exceed stable predictor minReplicas')
