"""The sticky gateway of a fake cluster: real Envoy, real sidecar, light predictors in place of pods."""

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from resources.serving.embedded.supervisor import wait_until
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.description import Endpoint, Gateway
from resources.serving.gateway.envoy import prepare
from resources.serving.gateway.following import Follower
from resources.serving.gateway.leases import PodLeases
from resources.serving.gateway.publishing import Publisher
from resources.serving.gateway.sidecar import Control, Sidecar
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.gateways import Gateways
from resources.serving.kserve.service import Installation
from resources.serving.kserve.split import Split, SplitPart
from resources.serving.lease import Keeper
from tests.conformance.arena import LIGHT_PREDICTOR
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import World, storage_uri
from tests.support.ports import free_base, listens

TOKEN = "gateway-secret"

NEVER = timedelta(days=1)
"""The lease of shares that a test does not renew."""

_NOBODY = 1
"""A port that nothing listens on."""


@dataclass
class StickyGateway:
    """A fake cluster with a gateway pod in front of it."""

    fake: FakeKubernetes
    home: Path
    ports: int
    predictors: dict[str, tuple[int, subprocess.Popen[bytes]]] = field(default_factory=dict)
    """By storageUri."""
    sidecar: Sidecar | None = None
    """The one that runs now."""
    _ports_of: dict[str, int] = field(default_factory=dict)

    @property
    def gateways(self) -> Gateways:
        return Gateways(
            control=f"http://127.0.0.1:{self.ports + 2}",
            traffic=f"http://127.0.0.1:{self.ports}",
            token=TOKEN,
        )

    def run_model(self, uri: str, version: str, behaviour: dict[str, Any]) -> None:
        """Start what serves this artefact, wherever a revision of it runs."""
        if uri in self.predictors:
            return
        folder = self.home / uri.replace("/", "_")
        folder.mkdir()
        (folder / "behaviour.json").write_text(
            json.dumps({name: value for name, value in behaviour.items() if name != "start_delay"})
        )
        port = free_base(1)
        command = [sys.executable, "-S", str(LIGHT_PREDICTOR), "--model-dir", str(folder)]
        command += ["--model-version", version, "--port", str(port)]
        process = subprocess.Popen(command)
        self.predictors[uri] = (port, process)
        _await_listening(port, process)

    def forget(self, service: str) -> None:
        """Remove a service and what served it."""
        with self.fake.lock:
            key = ("inferenceservices.serving.kserve.io", "default", service)
            if key in self.fake.store.objects:
                self.fake.store.delete(key)
        for uri in [uri for uri in self.predictors if f"/{service}/" in uri]:
            _, process = self.predictors.pop(uri)
            process.kill()
            process.wait()

    def address(self, split: Split, part: SplitPart) -> Endpoint:
        """In place of the cluster's DNS: where the light predictor of this revision's model listens."""
        port = self._port(split.service, part.name)
        return Endpoint(host="127.0.0.1", port=port, hostname=f"{part.name}.default.svc.cluster.local")

    def _port(self, service: str, revision: str) -> int:
        if revision not in self._ports_of:
            found = self._predictor(service, revision)
            running = self.predictors.get(storage_uri(found)) if found else None
            if running is None:
                return _NOBODY
            self._ports_of[revision] = running[0]
        return self._ports_of[revision]

    def _predictor(self, service: str, revision: str) -> dict[str, Any] | None:
        with self.fake.lock:
            knative = self.fake.store.serverless.get(("default", service))
            standard = self.fake.store.raw.get(("default", service))
            if knative is not None:
                return knative.find(revision).template["predictor"]
            found = standard.deployments.get(revision) if standard else None
            return found.predictor if found else None


def _await_listening(port: int, process: subprocess.Popen[bytes]) -> None:
    """The fake cluster's clock says when a pod is ready: by then its predictor has to listen."""
    wait_until(lambda: listens(port) or process.poll() is not None, seconds=30, every=0.01)
    assert process.poll() is None and listens(port), f"no predictor listens at {port}"


@contextmanager
def sticky_gateway(mode: str) -> Generator[StickyGateway]:
    """A fake cluster whose services are in this mode, with its gateway running."""
    home = Path(tempfile.mkdtemp(prefix="rg-sticky-", dir="/tmp"))
    with serving(World(default_mode=mode)) as fake:
        made = StickyGateway(fake, home, free_base(3))
        try:
            with running(made):
                yield made
        finally:
            for _, process in made.predictors.values():
                process.kill()
                process.wait()
            shutil.rmtree(home)


@contextmanager
def running(made: StickyGateway) -> Generator[Sidecar]:
    """Envoy and the sidecar of `made`, until the end of the block."""
    gateway = Gateway(
        host="127.0.0.1",
        port=made.ports,
        discovery=made.home / "gateway",
        access_log=made.home / "access.jsonl",
    )
    with (made.home / "envoy.log").open("ab") as log:
        envoy = subprocess.Popen(prepare(gateway), stderr=log)
    installation = Installation(default_mode=made.fake.world.default_mode, gateway_api=True)
    follower = Follower(Cluster.at(made.fake.url), lambda: installation)
    publisher = Publisher(gateway, Admin(gateway.admin), made.address, TOKEN)
    sidecar = Sidecar(follower, publisher, PodLeases(gateway.discovery / "leases.json", Keeper(lease=NEVER)))
    made.sidecar = sidecar
    control = Control("127.0.0.1", made.ports + 2, TOKEN, sidecar.answer, sidecar.command)
    threading.Thread(target=control.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        sidecar.start()
        _await(sidecar)
        yield sidecar
    finally:
        sidecar.stop()
        control.shutdown()
        control.server_close()
        envoy.kill()
        envoy.wait()


def _await(sidecar: Sidecar) -> None:
    deadline = time.monotonic() + 30
    while sidecar.answer("/healthz")[0] != 200:
        assert time.monotonic() < deadline, sidecar.trouble or sidecar.follower.trouble
        time.sleep(0.02)
