"""Why a model does not become ready, in the cluster's own words."""

from collections.abc import Iterable, Mapping
from typing import Any

_STUCK = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "CreateContainerError",
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
}


def failed_condition(conditions: Iterable[Mapping[str, Any]], kind: str, *, status: str = "False") -> str:
    """`reason: message` of a condition in this status, empty where it is in another."""
    for condition in conditions:
        if condition.get("type") == kind and condition.get("status") == status:
            return _sentence(condition.get("reason"), condition.get("message"))
    return ""


def load_failure(isvc: Mapping[str, Any], revision: str) -> str:
    """`status.modelStatus.lastFailureInfo`, if it is about this revision."""
    info = ((isvc.get("status") or {}).get("modelStatus") or {}).get("lastFailureInfo") or {}
    if info.get("modelRevisionName", revision) != revision:
        return ""
    return _sentence(info.get("reason"), info.get("message"))


def pod_failure(pods: Iterable[Mapping[str, Any]], owner: str) -> str:
    """What a container of this revision or Deployment is stuck on."""
    for pod in pods:
        if pod["metadata"]["name"].startswith(f"{owner}-"):
            found = _stuck(pod.get("status") or {})
            if found:
                return f"pod {pod['metadata']['name']}: {found}"
    return ""


def joined(*parts: str) -> str:
    """The distinct, non-empty parts as one text."""
    return "; ".join(dict.fromkeys(part for part in parts if part))


def _stuck(status: Mapping[str, Any]) -> str:
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _STUCK:
            last = (container.get("lastState") or {}).get("terminated") or {}
            return _sentence(waiting["reason"], last.get("message") or waiting.get("message"))
    return ""


def _sentence(reason: str | None, message: str | None) -> str:
    return ": ".join(part for part in (reason, message) if part)
