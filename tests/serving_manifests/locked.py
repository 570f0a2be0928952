"""What the `restricted` Pod Security Standard refuses, and what we refuse beyond it, in the words of the field."""

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}

_HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")


def unlocked(spec: Mapping[str, Any]) -> list[str]:
    """Every way in which a pod is not locked, with its place; empty for one that is."""
    return [*_pod(spec), *(why for each in _containers(spec) for why in _container(each, spec))]


def _containers(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*spec.get("initContainers", []), *spec["containers"]]


def _pod(spec: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{field} is set" for field in _HOST if spec.get(field))
    for volume in spec.get("volumes", []):
        if set(volume) - {"name"} - _VOLUMES:
            yield f"volume {volume['name']}: {sorted(set(volume) - {'name'})}"
        if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
            yield f"volume {volume['name']}: no sizeLimit"


def _container(container: Mapping[str, Any], spec: Mapping[str, Any]) -> Iterator[str]:
    name, context = container["name"], container.get("securityContext") or {}
    both = {**(spec.get("securityContext") or {}), **context}
    wanted = {
        "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
        "privileged": not context.get("privileged"),
        "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
        "readOnlyRootFilesystem": context.get("readOnlyRootFilesystem") is True,
        "runAsNonRoot": both.get("runAsNonRoot") is True,
        "runAsUser": both.get("runAsUser") != 0,
        "seccompProfile": both.get("seccompProfile") == {"type": "RuntimeDefault"},
        "memory limit": "memory" in (container.get("resources") or {}).get("limits", {}),
        "hostPort": not any(port.get("hostPort") for port in container.get("ports", [])),
    }
    yield from (f"{name}: {field}" for field, holds in wanted.items() if not holds)
