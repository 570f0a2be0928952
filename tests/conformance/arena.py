"""Where a backend is put to the test: a service of its own, versions that behave as told, traffic."""

import json
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import httpx

from pipelines.platform.control import up
from pipelines.platform.parts import parts
from resources.registry.digest import digest_of
from resources.serving.contract import ModelArtefact, ServingBackend
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.lease import LeaseGuard
from resources.serving.embedded.predictors import Launch, options
from resources.serving.lease import Keeper
from resources.settings import HOST, Settings, certificates
from tests.support.memory_backend import MemoryBackend, World
from tests.support.own_home import own_home

LIGHT_PREDICTOR = Path(__file__).with_name("light_predictor.py")


@dataclass(frozen=True)
class Answer:
    """What a client got."""

    status: int
    version: str
    """Version that answered."""
    revision: str = ""
    request_id: str = ""


class Arena(Protocol):
    """What the conformance tests need around a backend."""

    service: str

    @property
    def backend(self) -> ServingBackend: ...

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact: ...

    def send(self, unit: str | None = None, **headers: str) -> Answer: ...

    def keeping_leases(self) -> AbstractContextManager[object]:
        """For as long as it lasts, what nobody watches for `SHORT_LEASE` is taken away by the serving side."""
        ...


SHORT_LEASE = timedelta(seconds=1)

SHORT_LOOK = timedelta(seconds=0.1)


@dataclass
class EmbeddedArena:
    """Real supervisord, real Envoy, predictor processes that start at once."""

    settings: Settings
    service: str
    models: dict[str, Any] = field(default_factory=dict)
    start_seconds: float = 20.0
    replicas: int = 2
    command: Callable[[Launch], list[str]] | None = None
    """How predictors are started; the light one, without the project's packages, if not told."""

    def __post_init__(self) -> None:
        self.models[self.service] = {"spec": {"predictor": {"minReplicas": self.replicas, "timeout": 4}}}
        self.backend = self.another_backend()
        self.client = httpx.Client(trust_env=False, timeout=10, verify=certificates())

    def another_backend(self) -> EmbeddedBackend:
        """A second controller, as another process would have it."""
        return EmbeddedBackend(
            self.settings,
            self.models,
            predictor_command=self.command or light_command,
            start_seconds=self.start_seconds,
            drain_seconds=5,
        )

    @contextmanager
    def keeping_leases(self) -> Generator[LeaseGuard]:
        """As the platform's watch does."""
        guard = LeaseGuard(self.settings, lease=SHORT_LEASE, every=SHORT_LOOK)
        ended = threading.Event()

        def keep() -> None:
            while not ended.wait(SHORT_LOOK.total_seconds()):
                guard.look()

        thread = threading.Thread(target=keep)
        thread.start()
        try:
            yield guard
        finally:
            ended.set()
            thread.join()

    def retire(self) -> None:
        """Free its processors for the next test: the canary goes, the stable processes stay."""
        self.client.close()
        canary = self.backend.status(self.service).canary
        if canary is not None:
            self.backend.roll_back(self.service, canary.version)

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact:
        folder = self.settings.home / "registry" / self.service / version
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "behaviour.json").write_text(json.dumps(behaviour))
        return ModelArtefact(
            model=self.service, version=version, uri=folder.as_uri(), digest=digest_of(folder)
        )

    def send(self, unit: str | None = None, **headers: str) -> Answer:
        return ask(self.client, f"http://{HOST}:{self.settings.ports.gateway}", self.service, unit, headers)


@dataclass
class MemoryArena:
    """The serving side of the controller's tests, which answers no request."""

    service: str
    starting: dict[str, float] = field(default_factory=dict[str, float])
    """Seconds that an artefact takes to start, by its URI."""

    def __post_init__(self) -> None:
        self.backend: ServingBackend = MemoryBackend(
            World(), start=lambda uri: time.sleep(self.starting.get(uri, 0))
        )

    def artefact(self, version: str, **behaviour: Any) -> ModelArtefact:
        uri = f"memory://{self.service}/{version}"
        self.starting[uri] = behaviour.get("start_delay", 0) / 20
        return ModelArtefact(model=self.service, version=version, uri=uri, digest=f"sha256:{version}")

    def send(self, unit: str | None = None, **headers: str) -> Answer:
        raise NotImplementedError("nothing answers in memory")

    @contextmanager
    def keeping_leases(self) -> Generator[None]:
        assert isinstance(self.backend, MemoryBackend)
        self.backend.keeper = Keeper(lease=SHORT_LEASE, every=SHORT_LOOK)
        try:
            yield
        finally:
            self.backend.keeper = None


def ask(
    client: httpx.Client, gateway: str, service: str, unit: str | None, headers: dict[str, str]
) -> Answer:
    """What a client gets from a gateway."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    if unit is not None:
        names["x-unit-id"] = unit
    answer = client.post(f"{gateway}/v2/models/{service}/infer", json={"inputs": []}, headers=names)
    revision = answer.headers.get("x-served-revision", "")
    version = answer.json()["model_version"] if answer.is_success and answer.content else ""
    return Answer(answer.status_code, version, revision, answer.headers.get("x-request-id", ""))


def establish(arena: Arena, version: str, **behaviour: Any) -> None:
    """Make a version the stable one of a new service."""
    artefact = arena.artefact(version, **behaviour)
    arena.backend.deploy_canary(arena.service, artefact, percent=0, salt="first")
    arena.backend.promote(arena.service, version)


def light_command(launch: Launch) -> list[str]:
    """The light predictor with the real one's arguments."""
    return [sys.executable, "-S", str(LIGHT_PREDICTOR), *options(launch)]


@contextmanager
def gateway_alone(home: Path | None = None) -> Generator[Settings]:
    """A home of its own with supervisord and Envoy, stopped afterwards, and removed unless `home` is the caller's."""
    with own_home(home) as settings:
        up(settings, [part for part in parts(settings) if part.name == "gateway"], seconds=30)
        yield settings
