"""A fake Kubernetes API server over real HTTP, on loopback, with KServe's rules behind it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

from tests.fake_kubernetes.faults import Fault
from tests.fake_kubernetes.handler import Handler
from tests.fake_kubernetes.store import CONFIG, ISVC, Store
from tests.fake_kubernetes.world import World


@dataclass(frozen=True, order=True)
class Call:
    """One authorised request, as RBAC sees it."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str = ""


@dataclass
class FakeKubernetes:
    """The server with its store; every request is one tick of the controllers."""

    store: Store = field(default_factory=Store)
    faults: list[Fault] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    allowed: set[tuple[str, str, str]] | None = None
    """(verb, group, resource) that RBAC allows; None allows everything."""
    missing_groups: set[str] = field(default_factory=set)
    """API groups whose CRDs are not installed."""
    token: str = ""
    """Where set, the bearer token that requests must carry."""
    predictions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """(host, body) of predictions sent to the ingress, which is the same port."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    url: str = ""
    closing: bool = False
    """Set when the server ends: watches end with it."""

    @property
    def world(self) -> World:
        return self.store.world

    def configure(self) -> None:
        """Write KServe's config map as the world says."""
        data = {
            "deploy": json.dumps({"defaultDeploymentMode": self.world.default_mode}),
            "ingress": json.dumps({"enableGatewayApi": self.world.gateway_api}),
        }
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data}
        key = (CONFIG, "kserve", "inferenceservice-config")
        self.store.objects.pop(key, None)
        self.store.create(key, body, "helm")
        assignments = (CONFIG, "default", "rampgate-assignments")
        if assignments not in self.store.objects:
            self.store.create(
                assignments, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}, "kustomize"
            )

    def apply(self, isvc: dict[str, Any], *, manager: str = "kubectl") -> None:
        """Create an InferenceService as somebody else would."""
        meta = isvc["metadata"]
        self.store.create((ISVC, meta["namespace"], meta["name"]), isvc, manager)

    def patch(self, name: str, body: dict[str, Any], *, namespace: str = "default") -> None:
        """Merge-patch an InferenceService as somebody else would."""
        from tests.fake_kubernetes.merge import merged

        key = (ISVC, namespace, name)
        self.store.update(key, merged(self.store.get(key), body), "kubectl")

    def isvc(self, name: str, *, namespace: str = "default") -> dict[str, Any]:
        """The object as it is now, without a tick."""
        return self.store.get((ISVC, namespace, name))

    def run(self, ticks: int) -> None:
        """Let time pass."""
        with self.lock:
            for _ in range(ticks):
                self.store.tick()


@contextmanager
def serving(world: World | None = None) -> Iterator[FakeKubernetes]:
    """A running server on a free loopback port."""
    fake = FakeKubernetes(store=Store(world=world or World()))
    fake.configure()
    handler = type("BoundHandler", (Handler,), {"fake": fake})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        fake.closing = True
        server.shutdown()
        server.server_close()
        thread.join()
