"""Standard mode: what is in force for a service, and what to do next to it. Pure: an observation in, one
step out.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from resources.serving.contract import RevisionStatus, ServiceStatus
from resources.serving.kserve.driver import (
    Create,
    Delete,
    Patch,
    Patience,
    Reached,
    Refuse,
    Step,
    Wait,
    Wanted,
)
from resources.serving.kserve.identity import (
    MANAGED,
    NOBODY,
    Identity,
    Restore,
    failed_condition,
    is_ours,
    joined,
    owned,
    pod_failure,
    read_identity,
    read_restore,
    timeout_ms,
)


@dataclass(frozen=True, kw_only=True)
class StandardCanary:
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
    canary: StandardCanary | None = None
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


def _canary(entry: Mapping[str, Any]) -> StandardCanary:
    predictor = entry["predictor"]
    return StandardCanary(
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


# What to do next to a service in Standard mode. Pure: an observation in, one step out.
#
# A canary is a Deployment of its own, started at 0 % with its replicas set (at 0 % KServe would start none), given
# replicas before weight, and promoted by taking over its name, so that its pods never restart. After a
# promotion the old Deployment is gone: going back means starting the old version as a canary first.


def deploy(view: StandardView, wanted: Wanted) -> Step:
    """Towards: the version is the canary, ready, at the wanted percent."""
    if not view.exists:
        return Create()
    if view.spec.version == wanted.version:
        return _ready(view, view.stable_backend, 1) or Reached()
    if view.foreign:
        return Refuse(
            f"{view.service}: spec.canary holds entries of somebody else: {', '.join(view.foreign)}"
        )
    identity = wanted.identity
    if not view.spec.uri:
        predictor = {**owned(view.service, identity), **wanted.predictor, "name": identity.label}
        return Patch(spec={"predictor": predictor}, why=f"start {wanted.version}")
    if view.canary is None:
        restore = Restore(identity=view.spec, revision=view.stable_backend)
        return _add(view, identity, restore, wanted.predictor)
    if view.canary.identity.key != identity.key:
        return Refuse(
            f"{view.service}: version {view.canary.identity.version} is the canary of another rollout; "
            "promote it or roll it back first"
        )
    return _ready(view, view.canary_backend, 1) or _weigh(view, view.canary, wanted.percent)


def set_percent(view: StandardView, version: str, percent: int) -> Step:
    """Towards: the canary has this share. 0 is patched whatever state the model is in."""
    if view.canary is None or view.canary.identity.version != version:
        gone = view.spec.version != version
        if percent == 0 and gone:
            return Reached()
        if gone:
            return Refuse(f"{view.service}: version {version} is not the canary")
        return Refuse(f"{view.service}: version {version} is promoted; roll it back instead")
    return _weigh(view, view.canary, percent)


def hold(view: StandardView, version: str, percent: float) -> Step:
    """Towards: the canary can take this share from a gateway. KServe's own weights stay as they are."""
    if view.canary is None or view.canary.identity.version != version:
        promoted = view.spec.version == version
        why = "is promoted; roll it back instead" if promoted else "is not the canary"
        return Refuse(f"{view.service}: version {version} {why}")
    needed = max(1, math.ceil(view.replicas * percent / 100))
    if view.canary.replicas < needed:
        return _change(view.canary, percent=view.canary.percent, replicas=needed)
    return _ready(view, view.canary_backend, needed) or Reached()


def promote(view: StandardView, version: str) -> Step:
    """Towards: the version is the stable predictor, alone."""
    if view.exists and view.spec.version == version:
        return _alone(view)
    if view.canary is None or view.canary.identity.version != version:
        return Refuse(f"{view.service}: version {version} is not the canary")
    step = _weigh(view, view.canary, 100)
    return step if not isinstance(step, Reached) else _swap(view.canary, f"promote {version}")


def roll_back(view: StandardView, version: str) -> Step:
    """Towards: no traffic on the version, then the version before it alone."""
    if not view.exists:
        return Reached()
    if view.canary is not None and view.canary.identity.version == version:
        return _withdraw(view, view.canary)
    if view.spec.version != version:
        return _gone(view, version)
    if view.restore is None:
        return _remove(view, version)
    return _take_back(view, view.restore)


def _add(
    view: StandardView, identity: Identity, restore: Restore | None, extra: Mapping[str, Any], after: str = ""
) -> Step:
    fields = owned(view.service, identity, restore=restore, restored_after=after)
    predictor = {
        **extra,
        "name": identity.label,
        "model": {**view.model, "storageUri": identity.uri},
        "annotations": fields["annotations"],
        "minReplicas": 1,
    }
    entry = {"trafficPercent": 0, "predictor": predictor}
    return Patch(spec={"canary": [entry]}, why=f"start {identity.version}")


def _weigh(view: StandardView, canary: StandardCanary, percent: int) -> Step:
    needed = max(1, math.ceil(view.replicas * percent / 100))
    if percent > 0 and canary.replicas < needed:
        return _change(canary, percent=canary.percent, replicas=needed)
    if percent > 0:
        waiting = _ready(view, view.canary_backend, needed)
        if waiting is not None:
            return waiting
    if canary.percent != percent:
        return _change(canary, percent=percent, replicas=canary.replicas)
    if not view.routed({view.canary_backend: percent, view.stable_backend: 100 - percent}):
        return Wait(patience=Patience.TRAFFIC, reason=f"the routes do not give {canary.name} {percent} %")
    return Reached()


def _change(canary: StandardCanary, *, percent: int, replicas: int) -> Step:
    predictor = {**canary.predictor, "minReplicas": replicas}
    entry = {"trafficPercent": percent, "predictor": predictor}
    return Patch(spec={"canary": [entry]}, why=f"{canary.name}: {percent} %, {replicas} replicas")


def _swap(canary: StandardCanary, why: str) -> Step:
    """The canary's name and pod fields become the stable ones; its pods keep running."""
    kept = {key: value for key, value in canary.predictor.items() if key != "minReplicas"}
    return Patch(spec={"predictor": kept, "canary": None}, why=why)


def _alone(view: StandardView) -> Step:
    waiting = _ready(view, view.stable_backend, 1)
    if waiting is not None:
        return waiting
    if view.canary is None and set(view.available) != {view.stable_backend}:
        return Wait(patience=Patience.TRAFFIC, reason="the retired Deployment is still there")
    if view.canary is None and not view.routed({view.stable_backend: 100}):
        return Wait(patience=Patience.TRAFFIC, reason=f"{view.stable_backend} is not at 100 %")
    return Reached()


def _withdraw(view: StandardView, canary: StandardCanary) -> Step:
    """Weight first, so that the gateway has let go of the pods before they are deleted."""
    if canary.percent != 0:
        return _change(canary, percent=0, replicas=canary.replicas)
    if view.weight(view.canary_backend) > 0:
        return Wait(patience=Patience.TRAFFIC, reason=f"traffic still reaches {canary.name}")
    return Patch(spec={"canary": None}, why=f"remove {canary.name}")


def _gone(view: StandardView, version: str) -> Step:
    """The version is not in the spec: its pods may still be going."""
    if view.canary is not None:
        return Reached()
    if set(view.available) - {view.stable_backend}:
        return Wait(patience=Patience.TRAFFIC, reason=f"the Deployment of {version} is still there")
    return Reached()


def _take_back(view: StandardView, restore: Restore) -> Step:
    identity = restore.identity
    if view.canary is None:
        return _add(view, identity, None, {}, after=view.spec.version)
    if view.canary.identity.key != identity.key:
        other = view.canary.identity.version
        return Refuse(
            f"{view.service}: version {other} is the canary of {view.spec.version}; roll it back first"
        )
    step = _weigh(view, view.canary, 100)
    return step if not isinstance(step, Reached) else _swap(view.canary, f"restore {identity.version}")


def _remove(view: StandardView, version: str) -> Step:
    if view.managed and not view.available.get(view.stable_backend, 0):
        return Delete()
    return Refuse(f"{view.service}: no version before {version} is recorded")


def _ready(view: StandardView, name: str, replicas: int) -> Step | None:
    available = view.available.get(name, 0)
    if available >= replicas:
        return None
    reason = f"{name} has {available} of {replicas} replicas available"
    return Wait(patience=Patience.MODEL, reason=reason, failure=view.failures.get(name, ""))
