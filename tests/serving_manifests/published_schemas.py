"""Objects against the OpenAPI types that Kubernetes and KServe publish in their Python packages, strictly.

The packages' own deserialisers ignore what they do not know; a field that no version of the API has must fail.
"""

import importlib
import re
from collections.abc import Iterator
from typing import Any

_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "object": (object,),
    "datetime": (str,),
    "ResourceQuantity": (str, int),
    "V1ResourceRequirements": (dict,),
}

KINDS = {
    ("v1", "ConfigMap"): "V1ConfigMap",
    ("v1", "Namespace"): "V1Namespace",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("v1", "Service"): "V1Service",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("apps/v1", "Deployment"): "V1Deployment",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("rbac.authorization.k8s.io/v1", "ClusterRole"): "V1ClusterRole",
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"): "V1ClusterRoleBinding",
    ("rbac.authorization.k8s.io/v1", "Role"): "V1Role",
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): "V1RoleBinding",
    ("serving.kserve.io/v1alpha1", "ClusterServingRuntime"): "V1alpha1ClusterServingRuntime",
    ("serving.kserve.io/v1beta1", "InferenceService"): "V1beta1InferenceService",
}


def problems(document: dict[str, Any]) -> list[str]:
    """What is wrong with an object, each with its place; empty for a good one."""
    kind = (document.get("apiVersion", ""), document.get("kind", ""))
    if kind not in KINDS:
        return [f"{kind} is no kind that is known here; allowed: {sorted(KINDS)}"]
    return list(_object(KINDS[kind], document, document["metadata"].get("name", "?")))


def _class(name: str) -> Any:
    for package in ("kubernetes.client", "kserve.models"):
        found = getattr(importlib.import_module(package), name, None)
        if found is not None:
            return found
    short = re.sub(r"^K8sIoApi(Apps|Core)", "", name)
    return _class(short) if short != name else None


def _object(name: str, value: Any, place: str) -> Iterator[str]:
    kind = _class(name)
    if kind is None:
        yield f"{place}: no published type {name}"
        return
    if not isinstance(value, dict):
        yield f"{place}: is {type(value).__name__}, must be an object ({name})"
        return
    fields = {wire: kind.openapi_types[field] for field, wire in kind.attribute_map.items()}
    for key, held in value.items():
        if key not in fields:
            yield f"{place}.{key}: not a field of {name}; allowed: {', '.join(sorted(fields))}"
        else:
            yield from _value(fields[key], held, f"{place}.{key}")
    yield from _incomplete(kind, value, place)


def _incomplete(kind: Any, value: dict[str, Any], place: str) -> Iterator[str]:
    """What the type itself refuses: required fields, enumerations."""
    given = {field: value.get(wire) for field, wire in kind.attribute_map.items()}
    try:
        kind(**given)
    except ValueError as error:
        yield f"{place}: {error}"


def _value(kind: str, value: Any, place: str) -> Iterator[str]:
    if value is None:
        return
    if kind in _PLAIN:
        wrong = not isinstance(value, _PLAIN[kind]) or (isinstance(value, bool) and kind in ("int", "str"))
        if wrong:
            yield f"{place}: {value!r} is {type(value).__name__}, must be {kind}"
    elif match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place}: is {type(value).__name__}, must be a list"
            return
        for number, item in enumerate(value):
            yield from _value(match[1], item, f"{place}[{number}]")
    elif match := re.fullmatch(r"dict[(\[](.+), (.+)[)\]]", kind):
        for key, item in value.items():
            yield from _value(match[2], item, f"{place}.{key}")
    else:
        yield from _object(kind, value, place)
