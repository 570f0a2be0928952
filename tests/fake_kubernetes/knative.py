"""KServe on Knative as a state machine: what the two controllers do to one InferenceService per tick.

Each tick: KServe turns the spec and its own last status into a Knative service, Knative makes revisions and
routes, and KServe copies the outcome back. The rules for `latestRolledoutRevision` are KServe's
`PropagateStatus`, the traffic targets its Knative reconciler.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

from tests.fake_kubernetes.world import Failure, Share, World, condition, storage_uri

_NOT_ON_THE_TEMPLATE = {"kubectl.kubernetes.io/last-applied-configuration"}

TAG_ROUTING = "serving.kserve.io/enable-tag-routing"


@dataclass
class Revision:
    """One immutable Knative revision."""

    name: str
    template: dict[str, Any]
    created: int
    ready_at: int
    failure: Failure | None

    def ready(self, now: int) -> bool:
        return self.failure is None and now >= self.ready_at

    def failed(self, now: int) -> bool:
        return self.failure is not None and now >= self.ready_at


@dataclass
class KnativeState:
    """What Knative holds for one service, between ticks."""

    revisions: list[Revision] = field(default_factory=list)
    template: dict[str, Any] = field(default_factory=dict)
    """The template of the newest revision."""
    traffic: list[dict[str, Any]] = field(default_factory=list)

    def find(self, name: str) -> Revision:
        return next(revision for revision in self.revisions if revision.name == name)


def reconcile(isvc: dict[str, Any], state: KnativeState, world: World) -> dict[str, Any]:
    """One tick of both controllers; returns the new `status` and records where traffic went."""
    old = isvc.get("status", {}).get("components", {}).get("predictor", {})
    state.traffic = targets(isvc, old)
    _new_revision(isvc, state, world)
    created = _reported_created(state, world, old)
    ready = latest_ready(state, world)
    traffic = _resolve(isvc, state, ready)
    _record(isvc, state, world, traffic)
    predictor = propagate(old, created, ready, traffic)
    return _status(isvc, state, world, predictor)


def targets(isvc: dict[str, Any], component: dict[str, Any]) -> list[dict[str, Any]]:
    """The traffic block that KServe writes into the Knative service."""
    percent = isvc["spec"]["predictor"].get("canaryTrafficPercent")
    rolledout = component.get("latestRolledoutRevision", "")
    tagged = isvc["metadata"].get("annotations", {}).get(TAG_ROUTING) == "true"
    split = percent is not None and rolledout != ""
    latest: dict[str, Any] = {"latestRevision": True, "percent": percent if split else 100}
    if tagged:
        latest["tag"] = "latest"
    if not split or percent >= 100:
        return [latest]
    previous = {"latestRevision": False, "revisionName": rolledout, "percent": 100 - percent, "tag": "prev"}
    return [latest, previous]


def propagate(old: dict[str, Any], created: str, ready: str, traffic: list[dict[str, Any]]) -> dict[str, Any]:
    """KServe's bookkeeping of what is rolled out; memory is one revision deep."""
    new = copy.deepcopy(old)
    new["latestCreatedRevision"] = created
    total: dict[str, int] = {}
    for entry in traffic:
        total[entry["revisionName"]] = total.get(entry["revisionName"], 0) + entry["percent"]
    for entry in traffic:
        if entry["latestRevision"] and entry["revisionName"] == ready:
            _roll(new, entry, total, created=created, ready=ready)
    new["latestReadyRevision"] = ready
    new["traffic"] = traffic
    return new


def _roll(
    component: dict[str, Any], entry: dict[str, Any], total: dict[str, int], *, created: str, ready: str
) -> None:
    if component.get("latestRolledoutRevision", "") != ready:
        if entry["percent"] == 100:
            component["previousRolledoutRevision"] = component.get("latestRolledoutRevision", "")
            component["latestRolledoutRevision"] = ready
        return
    previous = component.get("previousRolledoutRevision", "")
    if ready == created and entry["percent"] < 100 and total[ready] == 100 and previous:
        component["latestRolledoutRevision"] = previous


def latest_ready(state: KnativeState, world: World) -> str:
    """The newest revision that is ready: `latest` in a traffic target means this one."""
    ready = [revision.name for revision in state.revisions if revision.ready(world.now)]
    return ready[-1] if ready else ""


def template_of(isvc: dict[str, Any]) -> dict[str, Any]:
    """What ends up in the revision template: any change of it makes a new revision."""
    predictor = copy.deepcopy(isvc["spec"]["predictor"])
    predictor.pop("canaryTrafficPercent", None)
    annotations = {
        key: value
        for key, value in isvc["metadata"].get("annotations", {}).items()
        if key not in _NOT_ON_THE_TEMPLATE
    }
    annotations.update(predictor.pop("annotations", {}))
    labels = {**isvc["metadata"].get("labels", {}), **predictor.pop("labels", {})}
    return {"annotations": annotations, "labels": labels, "predictor": predictor}


def _new_revision(isvc: dict[str, Any], state: KnativeState, world: World) -> None:
    template = template_of(isvc)
    if state.revisions and template == state.template:
        return
    state.template = template
    behaviour = world.behaviour(storage_uri(template["predictor"]))
    name = f"{isvc['metadata']['name']}-predictor-{len(state.revisions) + 1:05d}"
    ready_at = world.now + behaviour.ready_after
    state.revisions.append(Revision(name, template, world.now, ready_at, behaviour.failure))


def _reported_created(state: KnativeState, world: World, old: dict[str, Any]) -> str:
    newest = state.revisions[-1]
    late = world.now < newest.created + world.created_lag
    return str(old.get("latestCreatedRevision", newest.name)) if late else newest.name


def _resolve(isvc: dict[str, Any], state: KnativeState, ready: str) -> list[dict[str, Any]]:
    meta = isvc["metadata"]
    resolved: list[dict[str, Any]] = []
    for target in state.traffic:
        name = ready if target["latestRevision"] else target["revisionName"]
        if not name:
            continue
        entry = {**target, "revisionName": name}
        if "tag" in target:
            entry["url"] = f"http://{target['tag']}-{meta['name']}-predictor.{meta['namespace']}.example.com"
        resolved.append(entry)
    return resolved


def _record(isvc: dict[str, Any], state: KnativeState, world: World, traffic: list[dict[str, Any]]) -> None:
    shares: list[Share] = []
    for entry in traffic:
        revision = state.find(entry["revisionName"])
        uri = storage_uri(revision.template["predictor"])
        shares.append(Share(revision.name, uri, entry["percent"], revision.ready(world.now)))
    world.record(isvc["metadata"]["name"], shares)


def _status(
    isvc: dict[str, Any], state: KnativeState, world: World, predictor: dict[str, Any]
) -> dict[str, Any]:
    newest = state.revisions[-1]
    ready = _ready_condition(newest, world)
    status: dict[str, Any] = {
        "deploymentMode": "Knative",
        "components": {"predictor": predictor},
        "conditions": [
            condition("PredictorReady", ready, reason=_reason(newest, ready)),
            condition("Ready", ready, reason=_reason(newest, ready)),
        ],
        "modelStatus": model_status(newest, world),
        "observedGeneration": len(state.revisions),
    }
    meta = isvc["metadata"]
    status["url"] = f"http://{meta['name']}.{meta['namespace']}.example.com"
    return status


def _ready_condition(newest: Revision, world: World) -> str:
    if newest.ready(world.now):
        return "True"
    return "False" if newest.failed(world.now) else "Unknown"


def _reason(newest: Revision, ready: str) -> str:
    return "RevisionFailed" if ready == "False" and newest.failure else ""


def model_status(newest: Revision, world: World) -> dict[str, Any]:
    """`status.modelStatus`, with `lastFailureInfo` where a model could not be loaded."""
    if newest.ready(world.now):
        return {"transitionStatus": "UpToDate"}
    if not newest.failed(world.now) or newest.failure is None or newest.failure.kind != "load":
        return {"transitionStatus": "InProgress"}
    info = {"reason": "ModelLoadFailed", "message": newest.failure.message, "modelRevisionName": newest.name}
    return {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": info}
