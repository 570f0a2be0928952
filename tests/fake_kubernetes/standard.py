"""KServe's Standard mode as a state machine: Deployments, `spec.canary[]`, and the HTTPRoute's weights."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

from tests.fake_kubernetes.knative_objects import pod
from tests.fake_kubernetes.merge import merged
from tests.fake_kubernetes.world import Failure, Share, World, condition, storage_uri

_AUTOSCALING = ("maxReplicas", "scaleTarget", "scaleMetric", "autoScaling")


@dataclass
class Deployment:
    """One Deployment with the moment at which its pods are ready."""

    name: str
    predictor: dict[str, Any]
    replicas: int
    ready_at: int
    failure: Failure | None

    def available(self, now: int) -> int:
        return self.replicas if self.failure is None and now >= self.ready_at else 0


@dataclass
class StandardState:
    """What the cluster holds for one service, between ticks."""

    deployments: dict[str, Deployment] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    """Backend name -> weight in the HTTPRoute; empty where the Gateway API is off."""


def reconcile(isvc: dict[str, Any], state: StandardState, world: World) -> dict[str, Any]:
    """One tick of the controller; returns the new `status` and records where traffic went."""
    stable = backend_name(isvc, isvc["spec"]["predictor"])
    wanted = _wanted(isvc)
    _deploy(state, world, wanted)
    for name in set(state.deployments) - set(wanted):
        del state.deployments[name]
    statuses = [_canary_status(isvc, canary, state, world) for canary in isvc["spec"].get("canary", [])]
    state.weights = _weights(isvc, statuses, world, stable)
    _record(isvc, state, world, stable)
    return _status(isvc, state, world, stable, statuses)


def backend_name(isvc: dict[str, Any], predictor: dict[str, Any]) -> str:
    """The Deployment and Service of a predictor: `{isvc}-{name}-predictor`."""
    name = predictor.get("name", "")
    return f"{isvc['metadata']['name']}-{name}-predictor" if name else f"{isvc['metadata']['name']}-predictor"


def replicas_of(isvc: dict[str, Any], canary: dict[str, Any]) -> int:
    """Fixed replicas of a canary: its own minReplicas, or its share of the stable ones."""
    if "minReplicas" in canary["predictor"]:
        return int(canary["predictor"]["minReplicas"])
    stable = isvc["spec"]["predictor"].get("minReplicas", 1)
    return math.ceil(stable * canary.get("trafficPercent", 0) / 100)


def _wanted(isvc: dict[str, Any]) -> dict[str, tuple[dict[str, Any], int]]:
    predictor = isvc["spec"]["predictor"]
    wanted = {backend_name(isvc, predictor): (predictor, int(predictor.get("minReplicas", 1)))}
    for canary in isvc["spec"].get("canary", []):
        built = merged(copy.deepcopy(predictor), canary["predictor"])
        wanted[backend_name(isvc, canary["predictor"])] = (built, replicas_of(isvc, canary))
    return wanted


def _deploy(state: StandardState, world: World, wanted: dict[str, tuple[dict[str, Any], int]]) -> None:
    for name, (predictor, replicas) in wanted.items():
        known = state.deployments.get(name)
        if known is not None and pod_template(known.predictor) == pod_template(predictor):
            known.replicas, known.predictor = replicas, predictor
            continue
        behaviour = world.behaviour(storage_uri(predictor))
        ready_at = world.now + behaviour.ready_after
        state.deployments[name] = Deployment(name, predictor, replicas, ready_at, behaviour.failure)


def pod_template(predictor: dict[str, Any]) -> dict[str, Any]:
    """What restarts pods when it changes: everything but scaling."""
    skipped = (*_AUTOSCALING, "minReplicas", "canaryTrafficPercent")
    return {key: value for key, value in predictor.items() if key not in skipped}


def _canary_status(
    isvc: dict[str, Any], canary: dict[str, Any], state: StandardState, world: World
) -> dict[str, Any]:
    deployment = state.deployments[backend_name(isvc, canary["predictor"])]
    return {
        "name": canary["predictor"]["name"],
        "ready": deployment.available(world.now) > 0,
        "trafficPercent": canary.get("trafficPercent", 0),
    }


def _weights(
    isvc: dict[str, Any], statuses: list[dict[str, Any]], world: World, stable: str
) -> dict[str, int]:
    if not world.gateway_api:
        return {}
    given = [status for status in statuses if status["ready"] or not world.readiness_gate]
    weights = {backend_name(isvc, {"name": entry["name"]}): entry["trafficPercent"] for entry in given}
    return {stable: 100 - sum(weights.values()), **weights}


def _record(isvc: dict[str, Any], state: StandardState, world: World, stable: str) -> None:
    shares: list[Share] = []
    for name, weight in (state.weights or {stable: 100}).items():
        deployment = state.deployments[name]
        ready = deployment.available(world.now) > 0
        shares.append(Share(name, storage_uri(deployment.predictor), weight, ready))
    world.record(isvc["metadata"]["name"], shares)


def _status(
    isvc: dict[str, Any],
    state: StandardState,
    world: World,
    stable: str,
    canaries: list[dict[str, Any]],
) -> dict[str, Any]:
    available = state.deployments[stable].available(world.now) > 0
    ready = "True" if available else "False"
    conditions = [condition("PredictorReady", ready), condition("Ready", ready)]
    if canaries:
        all_ready = all(entry["ready"] for entry in canaries)
        reason = "AllCanariesReady" if all_ready else "CanariesNotReady"
        conditions.append(condition("CanaryPredictorReady", "True" if all_ready else "False", reason=reason))
    status: dict[str, Any] = {"deploymentMode": "Standard", "conditions": conditions}
    status["components"] = {"predictor": {}}
    status["url"] = f"http://{isvc['metadata']['name']}.{isvc['metadata']['namespace']}.example.com"
    if canaries:
        status["canaryStatuses"] = canaries
    return status


def deployments(isvc: dict[str, Any], state: StandardState, world: World) -> list[dict[str, Any]]:
    """`apps/v1 Deployment` objects of one service."""
    return [_deployment(isvc, deployment, world) for deployment in state.deployments.values()]


def _deployment(isvc: dict[str, Any], deployment: Deployment, world: World) -> dict[str, Any]:
    conditions: list[dict[str, str]] = []
    failure = deployment.failure
    if failure is not None and failure.kind == "quota":
        conditions.append(condition("ReplicaFailure", "True", reason="FailedCreate", message=failure.message))
    service = isvc["metadata"]["name"]
    return {
        "metadata": {
            "name": deployment.name,
            "namespace": isvc["metadata"]["namespace"],
            "labels": {"serving.kserve.io/inferenceservice": service, "component": "predictor"},
        },
        "spec": {
            "replicas": deployment.replicas,
            "template": {"metadata": {"annotations": deployment.predictor.get("annotations", {})}},
        },
        "status": {"availableReplicas": deployment.available(world.now), "conditions": conditions},
    }


def pods(isvc: dict[str, Any], state: StandardState, world: World) -> list[dict[str, Any]]:
    """One pod per Deployment; a quota keeps the pod from existing at all."""
    return [
        pod(isvc, f"{each.name}-0", each.failure, ready=each.available(world.now) > 0)
        for each in state.deployments.values()
        if not (each.failure and each.failure.kind == "quota")
    ]


def http_routes(isvc: dict[str, Any], state: StandardState) -> list[dict[str, Any]]:
    """The two HTTPRoutes that KServe makes: the service's own and the predictor's."""
    if not state.weights:
        return []
    backends = [{"kind": "Service", "name": name, "weight": weight} for name, weight in state.weights.items()]
    if len(backends) == 1:
        backends[0].pop("weight")
    service = isvc["metadata"]["name"]
    return [
        {
            "metadata": {"name": name, "namespace": isvc["metadata"]["namespace"]},
            "spec": {"rules": [{"backendRefs": copy.deepcopy(backends)}]},
        }
        for name in (service, f"{service}-predictor")
    ]
