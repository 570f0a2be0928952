"""What is in force for a service in Standard mode: the spec, the Deployments, and the HTTPRoutes' weights."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.serving.backend import RevisionStatus, ServiceStatus
from resources.serving.kserve.failures import failed_condition, joined, pod_failure
from resources.serving.kserve.identity import (
    MANAGED,
    NOBODY,
    Identity,
    Restore,
    is_ours,
    read_identity,
    read_restore,
    timeout_ms,
)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """The one entry of `spec.canary` that rollouts own."""

    name: str
    identity: Identity
    percent: int
    replicas: int
    """Its minReplicas: canaries have fixed replicas, and at 0 % none at all unless this is set."""
    predictor: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class StandardView:
    """One observation. A backend is the name of a Deployment and its Service."""

    service: str
    exists: bool = False
    managed: bool = False
    spec: Identity = NOBODY
    restore: Restore | None = None
    name: str = ""
    """The stable predictor's name."""
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The stable predictor's `model`."""
    replicas: int = 1
    """The stable predictor's minReplicas."""
    timeout_ms: int = 60_000
    """How long one request may take."""
    canary: Canary | None = None
    foreign: tuple[str, ...] = ()
    """Names of canaries that somebody else added."""
    available: Mapping[str, int] = field(default_factory=dict[str, int])
    """Backend -> available replicas."""
    created_at: Mapping[str, str] = field(default_factory=dict[str, str])
    """Backend -> when its Deployment was created."""
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Backend -> why it is not available."""
    routes: tuple[Mapping[str, int], ...] = ()
    """Per HTTPRoute rule: backend -> weight."""

    @property
    def stable_backend(self) -> str:
        return backend(self.service, self.name)

    @property
    def canary_backend(self) -> str:
        return backend(self.service, self.canary.name) if self.canary else ""

    def weight(self, name: str) -> int:
        """The largest share that any route gives a backend."""
        return max((route.get(name, 0) for route in self.routes), default=0)

    def routed(self, shares: Mapping[str, int]) -> bool:
        """Whether every route splits traffic exactly so (a backend left out counts as 0)."""
        wanted = {name: share for name, share in shares.items() if share}
        return bool(self.routes) and all(
            {name: weight for name, weight in route.items() if weight} == wanted for route in self.routes
        )


def backend(service: str, name: str) -> str:
    """KServe's name of a predictor's Deployment and Service."""
    return f"{service}-{name}-predictor" if name else f"{service}-predictor"


def read(
    service: str,
    isvc: Mapping[str, Any] | None,
    deployments: Iterable[Mapping[str, Any]],
    pods: Iterable[Mapping[str, Any]],
    routes: Iterable[Mapping[str, Any]],
) -> StandardView:
    """The observation that these objects add up to."""
    if isvc is None:
        return StandardView(service=service)
    predictor = isvc["spec"]["predictor"]
    entries = isvc["spec"].get("canary") or []
    ours = [entry for entry in entries if is_ours(entry["predictor"])]
    found = list(deployments)
    stuck = list(pods)
    return StandardView(
        service=service,
        exists=True,
        managed=(isvc["metadata"].get("annotations") or {}).get(MANAGED) == "true",
        spec=read_identity(predictor),
        restore=read_restore(predictor),
        name=predictor.get("name") or "",
        model=predictor.get("model") or {},
        replicas=int(predictor.get("minReplicas", 1)),
        timeout_ms=timeout_ms(predictor),
        canary=_canary(ours[0]) if ours else None,
        foreign=tuple(e["predictor"].get("name", "") for e in entries if e not in ours[:1]),
        available={each["metadata"]["name"]: _available(each) for each in found},
        created_at={
            each["metadata"]["name"]: str(each["metadata"].get("creationTimestamp", "")) for each in found
        },
        failures={each["metadata"]["name"]: _failure(each, stuck) for each in found},
        routes=tuple(_weights(rule) for route in routes for rule in route["spec"].get("rules") or []),
    )


def status(view: StandardView) -> ServiceStatus:
    """The observation in the words of the serving contract."""
    if not view.exists or (not view.spec.uri and view.canary is None):
        return ServiceStatus(service=view.service, stable=None, canary=None)
    stable = _revision(view, view.stable_backend, view.spec)
    canary = _revision(view, view.canary_backend, view.canary.identity) if view.canary else None
    salt = view.canary.identity.salt if view.canary else view.spec.salt
    return ServiceStatus(service=view.service, stable=stable, canary=canary, salt=salt)


def _revision(view: StandardView, name: str, identity: Identity) -> RevisionStatus:
    ready = view.available.get(name, 0) > 0
    return RevisionStatus(
        name=name,
        version=identity.version,
        percent=float(view.weight(name)),
        ready=ready,
        message="" if ready else view.failures.get(name, "it has no Deployment yet"),
    )


def _canary(entry: Mapping[str, Any]) -> Canary:
    predictor = entry["predictor"]
    return Canary(
        name=predictor["name"],
        identity=read_identity(predictor),
        percent=int(entry.get("trafficPercent", 0)),
        replicas=int(predictor.get("minReplicas", 0)),
        predictor=predictor,
    )


def _available(deployment: Mapping[str, Any]) -> int:
    return int((deployment.get("status") or {}).get("availableReplicas") or 0)


def _failure(deployment: Mapping[str, Any], pods: list[Mapping[str, Any]]) -> str:
    if _available(deployment):
        return ""
    conditions = (deployment.get("status") or {}).get("conditions") or []
    quota = failed_condition(conditions, "ReplicaFailure", status="True")
    stalled = failed_condition(conditions, "Progressing")
    return joined(quota, stalled, pod_failure(pods, deployment["metadata"]["name"]))


def _weights(rule: Mapping[str, Any]) -> dict[str, int]:
    """Shares in percent; a backend without a weight counts as 1, as the Gateway API has it."""
    backends = rule.get("backendRefs") or []
    weights = {str(each["name"]): int(each.get("weight", 1)) for each in backends}
    total = sum(weights.values())
    return {name: round(100 * weight / total) for name, weight in weights.items()} if total else {}
