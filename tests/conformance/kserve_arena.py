"""Arenas for the KServe backend: the fake API server in both modes, and a real cluster where there is one.

A real cluster needs KUBECONFIG and RAMPGATE_CLUSTER_MODELS: three storageUris, separated by blanks, for the
versions 1, 2 and 3 of one model; RAMPGATE_CLUSTER_NAMESPACE and RAMPGATE_CLUSTER_MANIFESTS (a folder with
`conformance/inferenceservice.yaml`) say where and what.
"""

import itertools
import os
import time
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from ruamel.yaml import YAML

from resources.serving.contract import ModelArtefact, ServingBackend
from resources.serving.kserve.assignment import Assignments
from resources.serving.kserve.backend import KServeBackend
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.driver import Timing
from resources.serving.kserve.sticky import StickyBackend
from resources.settings import certificates
from tests.conformance.arena import SHORT_LEASE, SHORT_LOOK, Answer, ask
from tests.conformance.sticky_gateway import StickyGateway, sticky_gateway
from tests.fake_kubernetes.backends import MANIFEST
from tests.fake_kubernetes.server import FakeKubernetes, serving
from tests.fake_kubernetes.world import Behaviour, World

_names = itertools.count(1)

_TICKS_PER_SECOND = 50


@dataclass
class FakeClusterArena:
    """The fake API server; its controllers work once per request and once per look of the backend."""

    fake: FakeKubernetes
    service: str

    def __post_init__(self) -> None:
        def sleep(seconds: float) -> None:
            time.sleep(seconds)
            with self.fake.lock:
                self.fake.run(1)

        self.backend: ServingBackend = KServeBackend(
            cluster=Cluster.at(self.fake.url),
            manifests=lambda service: MANIFEST,
            timing=Timing(model=20, traffic=10, api=5, failing=2, poll=1 / _TICKS_PER_SECOND),
            sleep=sleep,
        )

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact:
        uri = f"s3://models/{self.service}/{version}"
        ticks = 1 + int(behaviour.get("start_delay", 0) * _TICKS_PER_SECOND)
        self.fake.world.models[uri] = Behaviour(ready_after=ticks)
        return ModelArtefact(model=self.service, version=version, uri=uri, digest=f"sha256:{version}")

    def send(self, unit: str | None = None, **headers: str) -> Answer:
        raise NotImplementedError("a fake cluster has an API, but no network")

    def keeping_leases(self) -> AbstractContextManager[object]:
        return nullcontext()


@dataclass
class StickyArena(FakeClusterArena):
    """The fake API server with the sticky gateway in front: real Envoy, real sidecar, light predictors."""

    gateway: StickyGateway = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        kserve = cast(KServeBackend, self.backend)
        assignments = Assignments(kserve.cluster, pause=0.01)
        self.backend = StickyBackend(
            kserve=kserve, assignments=assignments, gateways=self.gateway.gateways, patience=10
        )
        self.client = httpx.Client(trust_env=False, timeout=10, verify=certificates())

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact:
        made = super().artefact(version, **behaviour)
        self.gateway.run_model(made.uri, version, behaviour)
        return made

    @contextmanager
    def keeping_leases(self) -> Generator[None]:
        assert self.gateway.sidecar is not None
        keeper = self.gateway.sidecar.leases.keeper
        before = keeper.lease, keeper.every
        keeper.lease, keeper.every = SHORT_LEASE, SHORT_LOOK
        try:
            yield
        finally:
            keeper.lease, keeper.every = before

    def send(self, unit: str | None = None, **headers: str) -> Answer:
        return ask(self.client, self.gateway.gateways.traffic, self.service, unit, headers)


@dataclass
class RealClusterArena:
    """A real KServe. Splits are per request there, so that only the state is looked at."""

    cluster: Cluster
    service: str
    uris: list[str]

    def __post_init__(self) -> None:
        manifest = Path(os.environ["RAMPGATE_CLUSTER_MANIFESTS"]) / "conformance" / "inferenceservice.yaml"
        self.backend: ServingBackend = KServeBackend(
            cluster=self.cluster,
            manifests=lambda service: YAML(typ="safe").load(manifest.read_text(encoding="utf-8")),
        )

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact:
        if behaviour:
            pytest.skip("a real model does not behave as told")
        uri = self.uris[(int(version) - 1) % len(self.uris)]
        return ModelArtefact(model=self.service, version=version, uri=uri, digest=f"sha256:{version}")

    def send(self, unit: str | None = None, **headers: str) -> Answer:
        raise NotImplementedError("the split on a real cluster is per request")

    def keeping_leases(self) -> AbstractContextManager[object]:
        return nullcontext()


@pytest.fixture
def kserve_knative_arena() -> Iterator[FakeClusterArena]:
    with serving(World(default_mode="Serverless")) as fake:
        yield FakeClusterArena(fake, f"model-{next(_names)}")


@pytest.fixture
def kserve_standard_arena() -> Iterator[FakeClusterArena]:
    with serving(World(default_mode="Standard")) as fake:
        yield FakeClusterArena(fake, f"model-{next(_names)}")


@pytest.fixture(scope="session")
def knative_gateway() -> Iterator[StickyGateway]:
    with sticky_gateway("Serverless") as made:
        yield made


@pytest.fixture(scope="session")
def standard_gateway() -> Iterator[StickyGateway]:
    with sticky_gateway("Standard") as made:
        yield made


@pytest.fixture
def sticky_knative_arena(knative_gateway: StickyGateway) -> Iterator[StickyArena]:
    yield from _sticky(knative_gateway)


@pytest.fixture
def sticky_standard_arena(standard_gateway: StickyGateway) -> Iterator[StickyArena]:
    yield from _sticky(standard_gateway)


def _sticky(gateway: StickyGateway) -> Iterator[StickyArena]:
    arena = StickyArena(gateway.fake, f"model-{next(_names)}", gateway=gateway)
    yield arena
    arena.client.close()
    gateway.forget(arena.service)


@pytest.fixture
def kserve_cluster_arena() -> Iterator[RealClusterArena]:
    if not os.environ.get("KUBECONFIG") or not os.environ.get("RAMPGATE_CLUSTER_MODELS"):
        pytest.skip("needs KUBECONFIG and RAMPGATE_CLUSTER_MODELS")
    namespace = os.environ.get("RAMPGATE_CLUSTER_NAMESPACE", "default")
    cluster = Cluster.connect(namespace=namespace)
    arena = RealClusterArena(
        cluster, f"conformance-{next(_names)}", os.environ["RAMPGATE_CLUSTER_MODELS"].split()
    )
    try:
        yield arena
    finally:
        cluster.delete(arena.service)
