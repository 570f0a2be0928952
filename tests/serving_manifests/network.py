"""Which connection NetworkPolicies allow, by the rules of the API: what selects a pod isolates it in that direction, and
then some policy must allow the connection, on the side of the caller and on the side of who is called."""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pod:
    """Something that connects, or is connected to."""

    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    namespace_labels: Mapping[str, str] = field(default_factory=dict[str, str])
    address: str = "10.1.2.3"

    @property
    def of_namespace(self) -> dict[str, str]:
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


def allowed(
    policies: Sequence[Mapping[str, Any]], caller: Pod, called: Pod, port: int, protocol: str = "TCP"
) -> bool:
    """Whether `caller` reaches `called` at this port."""
    return _direction("Egress", policies, caller, called, port, protocol) and _direction(
        "Ingress", policies, called, caller, port, protocol
    )


def _direction(
    kind: str, policies: Sequence[Mapping[str, Any]], pod: Pod, other: Pod, port: int, protocol: str
) -> bool:
    mine = [
        each["spec"]
        for each in policies
        if each["metadata"]["namespace"] == pod.namespace
        and kind in each["spec"]["policyTypes"]
        and _selects(each["spec"]["podSelector"], pod.labels)
    ]
    rules = [rule for spec in mine for rule in spec.get(kind.lower(), [])]
    peers = "to" if kind == "Egress" else "from"
    return not mine or any(
        _port(rule.get("ports"), port, protocol) and _peer(rule.get(peers), pod, other) for rule in rules
    )


def _port(ports: Sequence[Mapping[str, Any]] | None, port: int, protocol: str) -> bool:
    return ports is None or any((each["protocol"], each["port"]) == (protocol, port) for each in ports)


def _peer(peers: Sequence[Mapping[str, Any]] | None, pod: Pod, other: Pod) -> bool:
    return peers is None or any(_one_peer(each, pod, other) for each in peers)


def _one_peer(peer: Mapping[str, Any], pod: Pod, other: Pod) -> bool:
    if "ipBlock" in peer:
        address = ipaddress.ip_address(other.address)
        inside = address in ipaddress.ip_network(peer["ipBlock"]["cidr"])
        return inside and not any(
            address in ipaddress.ip_network(n) for n in peer["ipBlock"].get("except", [])
        )
    if "namespaceSelector" not in peer:
        return other.namespace == pod.namespace and _selects(peer["podSelector"], other.labels)
    return _selects(peer["namespaceSelector"], other.of_namespace) and _selects(
        peer.get("podSelector", {}), other.labels
    )


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    exact = selector.get("matchLabels", {}).items() <= labels.items()
    return exact and all(_expression(each, labels) for each in selector.get("matchExpressions", []))


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    there = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return there in expression["values"]
        case "NotIn":
            return there not in expression["values"]
        case "Exists":
            return there is not None
        case "DoesNotExist":
            return there is None
        case operator:
            raise AssertionError(f"no operator of the API: {operator}")
