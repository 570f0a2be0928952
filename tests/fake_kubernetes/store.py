"""The objects of the fake cluster: versions, generations, ownership, and one tick per request."""

import copy
import uuid
from dataclasses import dataclass, field
from typing import Any

from tests.fake_kubernetes import knative, knative_objects, standard
from tests.fake_kubernetes.status import already_exists, conflict, invalid, not_found
from tests.fake_kubernetes.webhook import deployment_mode, validate
from tests.fake_kubernetes.world import World

Key = tuple[str, str, str]
"""Resource (plural.group), namespace, name."""

ISVC = "inferenceservices.serving.kserve.io"

CONFIG = "configmaps"

STORED = (ISVC, CONFIG, "services", "events")

DERIVED = (
    "pods",
    "deployments.apps",
    "revisions.serving.knative.dev",
    "httproutes.gateway.networking.k8s.io",
)


@dataclass
class Store:
    """Everything in etcd, and the controllers' own state."""

    world: World = field(default_factory=World)
    objects: dict[Key, dict[str, Any]] = field(default_factory=dict)
    serverless: dict[tuple[str, str], knative.KnativeState] = field(default_factory=dict)
    raw: dict[tuple[str, str], standard.StandardState] = field(default_factory=dict)
    events: list[tuple[int, str, Key, dict[str, Any]]] = field(default_factory=list)
    """(resourceVersion, ADDED | MODIFIED | DELETED, key, object), for watches."""
    version: int = 1

    def get(self, key: Key) -> dict[str, Any]:
        """One object, as a copy."""
        found = self.objects.get(key) if key[0] in STORED else self._derived(key)
        if found is None:
            raise not_found(key[0], key[2])
        return copy.deepcopy(found)

    def list_all(self, resource: str, namespace: str) -> list[dict[str, Any]]:
        """All objects of a kind in a namespace."""
        if resource in STORED:
            found = [o for k, o in self.objects.items() if k[0] == resource and k[1] == namespace]
        else:
            found = self._derived_list(resource, namespace)
        return copy.deepcopy(found)

    def create(self, key: Key, body: dict[str, Any], manager: str) -> dict[str, Any]:
        """A new object; what the client says of `status` is dropped."""
        if key in self.objects:
            raise already_exists(key[0], key[2])
        body = copy.deepcopy(body)
        body.pop("status", None)
        body.setdefault("metadata", {}).update(
            name=key[2], namespace=key[1], uid=str(uuid.uuid4()), generation=1
        )
        body["metadata"]["creationTimestamp"] = self.world.time()
        self._admit(key, body)
        self._own(body, manager)
        return self._write(key, body, "ADDED")

    def update(
        self, key: Key, body: dict[str, Any], manager: str, *, status_only: bool = False
    ) -> dict[str, Any]:
        """A new state of an object. 409 unless its resourceVersion, where given, is the current one."""
        current = self.get(key)
        wanted = body.get("metadata", {}).get("resourceVersion")
        if wanted is not None and wanted != current["metadata"]["resourceVersion"]:
            raise conflict(key[0], key[2])
        if body.get("metadata", {}).get("name", key[2]) != key[2]:
            raise invalid("metadata.name: field is immutable")
        new = copy.deepcopy(current if status_only else body)
        new.pop("status", None)
        status = body.get("status") if status_only else current.get("status")
        if status is not None:
            new["status"] = copy.deepcopy(status)
        changed = new.get("spec") != current.get("spec")
        for owned in ("uid", "creationTimestamp", "resourceVersion", "managedFields"):
            new["metadata"].pop(owned, None)
            if owned in current["metadata"]:
                new["metadata"][owned] = copy.deepcopy(current["metadata"][owned])
        new["metadata"]["generation"] = current["metadata"]["generation"] + int(changed)
        self._admit(key, new)
        if new == current:
            return current
        self._own(new, manager)
        return self._write(key, new, "MODIFIED")

    def delete(self, key: Key) -> dict[str, Any]:
        """Remove an object with all that the controllers made for it."""
        gone = self.get(key)
        del self.objects[key]
        self.serverless.pop(key[1:], None)
        self.raw.pop(key[1:], None)
        self.version += 1
        self.events.append((self.version, "DELETED", key, gone))
        return gone

    def tick(self) -> None:
        """Let the controllers work once."""
        self.world.now += 1
        for key in [key for key in self.objects if key[0] == ISVC]:
            self._reconcile(key)

    def _reconcile(self, key: Key) -> None:
        isvc = self.objects[key]
        mode = deployment_mode(isvc, self.world.default_mode)
        if mode == "Knative":
            state = self.serverless.setdefault(key[1:], knative.KnativeState())
            status = knative.reconcile(isvc, state, self.world)
        elif mode == "Standard":
            raw = self.raw.setdefault(key[1:], standard.StandardState())
            status = standard.reconcile(isvc, raw, self.world)
        else:
            return
        if status != isvc.get("status"):
            self._write(key, {**isvc, "status": status}, "MODIFIED")

    def _admit(self, key: Key, body: dict[str, Any]) -> None:
        if key[0] == ISVC:
            validate(body, self.world.default_mode)

    def _own(self, body: dict[str, Any], manager: str) -> None:
        managers = body["metadata"].setdefault("managedFields", [])
        if all(entry["manager"] != manager for entry in managers):
            managers.append({"manager": manager, "operation": "Update"})

    def _write(self, key: Key, body: dict[str, Any], event: str) -> dict[str, Any]:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[key] = body
        self.events.append((self.version, event, key, copy.deepcopy(body)))
        return copy.deepcopy(body)

    def _derived(self, key: Key) -> dict[str, Any] | None:
        found = self._derived_list(key[0], key[1])
        return next((each for each in found if each["metadata"]["name"] == key[2]), None)

    def _derived_list(self, resource: str, namespace: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for key, isvc in self.objects.items():
            if key[0] == ISVC and key[1] == namespace:
                found.extend(self._made_for(resource, key[1:], isvc))
        return found

    def _made_for(self, resource: str, owner: tuple[str, str], isvc: dict[str, Any]) -> list[dict[str, Any]]:
        serverless, raw = self.serverless.get(owner), self.raw.get(owner)
        made: list[dict[str, Any]] = []
        if serverless is not None and resource.startswith("revisions"):
            made = knative_objects.revisions(isvc, serverless, self.world)
        elif serverless is not None and resource == "pods":
            made = knative_objects.pods(isvc, serverless, self.world)
        elif raw is not None and resource == "pods":
            made = standard.pods(isvc, raw, self.world)
        elif raw is not None and resource.startswith("deployments"):
            made = standard.deployments(isvc, raw, self.world)
        elif raw is not None and resource.startswith("httproutes"):
            made = standard.http_routes(isvc, raw)
        return made
