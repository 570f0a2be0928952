"""The Knative and core objects that a test reads back: revisions and their pods."""

from typing import Any

from tests.fake_kubernetes.knative import KnativeState, Revision
from tests.fake_kubernetes.world import World, condition

_REASON = {"image": "ContainerMissing", "load": "ExitCode1", "quota": "FailedCreate"}


def revisions(isvc: dict[str, Any], state: KnativeState, world: World) -> list[dict[str, Any]]:
    """`serving.knative.dev/v1 Revision` objects of one service."""
    return [_revision(isvc, revision, world) for revision in state.revisions]


def pods(isvc: dict[str, Any], state: KnativeState, world: World) -> list[dict[str, Any]]:
    """One pod per revision; a quota keeps the pod from existing at all."""
    return [
        pod(isvc, f"{revision.name}-deployment-0", revision.failure, ready=revision.ready(world.now))
        for revision in state.revisions
        if not (revision.failure and revision.failure.kind == "quota")
    ]


def pod(isvc: dict[str, Any], name: str, failure: Any, *, ready: bool) -> dict[str, Any]:
    """A pod whose containers say why they do not run."""
    state: dict[str, Any] = {"running": {}}
    if failure is not None and failure.kind == "image":
        state = {"waiting": {"reason": "ImagePullBackOff", "message": failure.message}}
    elif failure is not None:
        state = {"waiting": {"reason": "CrashLoopBackOff", "message": failure.message}}
    return {
        "metadata": {
            "name": name,
            "namespace": isvc["metadata"]["namespace"],
            "labels": {"serving.kserve.io/inferenceservice": isvc["metadata"]["name"]},
        },
        "status": {
            "phase": "Running" if ready else "Pending",
            "containerStatuses": [{"name": "kserve-container", "ready": ready, "state": state}],
        },
    }


def _revision(isvc: dict[str, Any], revision: Revision, world: World) -> dict[str, Any]:
    meta = isvc["metadata"]
    if revision.ready(world.now):
        ready = condition("Ready", "True")
    elif revision.failed(world.now) and revision.failure is not None:
        kind = revision.failure.kind
        ready = condition("Ready", "False", reason=_REASON[kind], message=revision.failure.message)
    else:
        ready = condition("Ready", "Unknown", reason="Deploying")
    return {
        "metadata": {
            "name": revision.name,
            "namespace": meta["namespace"],
            "creationTimestamp": world.time(revision.created),
            "annotations": revision.template["annotations"],
            "labels": {
                **revision.template["labels"],
                "serving.knative.dev/service": f"{meta['name']}-predictor",
                "serving.kserve.io/inferenceservice": meta["name"],
            },
        },
        "spec": {"predictor": revision.template["predictor"]},
        "status": {"conditions": [ready]},
    }
