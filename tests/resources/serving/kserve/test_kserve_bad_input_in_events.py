"""What a cluster refuses is in the rollout's own events, in the cluster's words, and the champion keeps the traffic.

The real controller and ledger, the KServe backend, the fake API server.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.core.rollout.events import End, Failed
from pipelines.core.rollout.state import RolloutState
from pipelines.rollouts.controller import Controller
from resources.ledger.ledger import Ledger
from resources.serving.contract import ModelArtefact
from resources.serving.kserve.backend import KServeBackend
from tests.fake_kubernetes.backends import MANIFEST, backend
from tests.fake_kubernetes.faults import webhook_denies
from tests.fake_kubernetes.server import FakeKubernetes
from tests.fake_kubernetes.world import Behaviour, Failure
from tests.support.memory_backend import MemoryRegistry, World
from tests.support.rollouts import MODEL, Clock, good, manifest

GOOD, BAD = f"s3://{MODEL}/1", f"s3://{MODEL}/2"

Trouble = Callable[[FakeKubernetes], None]


def deny(fake: FakeKubernetes) -> None:
    fake.faults.append(webhook_denies("models must be signed"))


def forbid(fake: FakeKubernetes) -> None:
    fake.allowed = {
        ("get", "serving.kserve.io", "inferenceservices"),
        ("list", "serving.knative.dev", "revisions"),
        ("list", "apps", "deployments"),
        ("list", "", "pods"),
        ("get", "gateway.networking.k8s.io", "httproutes"),
        ("get", "", "configmaps"),
    }


def lose_the_crd(fake: FakeKubernetes) -> None:
    fake.missing_groups.add("serving.kserve.io")


def change_the_mode(fake: FakeKubernetes) -> None:
    """Somebody moves the service to a mode that cannot split."""
    isvc = fake.isvc(MODEL)
    with fake.lock:
        key = ("inferenceservices.serving.kserve.io", "default", MODEL)
        status = {**isvc["status"], "deploymentMode": "ModelMesh"}
        fake.store.update(key, {**isvc, "status": status}, "kubectl", status_only=True)
        fake.store.tick = lambda: None  # type: ignore[method-assign]


def fails(kind: str, message: str) -> Trouble:
    def plan(fake: FakeKubernetes) -> None:
        fake.world.models[BAD] = Behaviour(failure=Failure(kind, message))

    return plan


QUOTA = 'pods "flight-delay-2" is forbidden: exceeded quota: compute, requested: cpu=2, used: cpu=8'

PULL = 'Back-off pulling image "registry.example.com/rampgate:9"'

TROUBLE: dict[str, tuple[Trouble, str]] = {
    "webhook": (deny, 'admission webhook "policy.example.com" denied the request: models must be signed'),
    "rbac": (forbid, 'User "rampgate" cannot patch resource "inferenceservices"'),
    "crd": (lose_the_crd, "KServe is not installed in this cluster"),
    "mode": (change_the_mode, "deployment mode 'ModelMesh' cannot split traffic"),
    "quota": (fails("quota", QUOTA), QUOTA),
    "image": (fails("image", PULL), PULL),
    "load": (
        fails("load", "ModelLoadError: column dep_hour is not in the signature"),
        "ModelLoadError: column dep_hour is not in the signature",
    ),
}


@dataclass
class Rollout:
    """Version 2 beside a champion that serves."""

    fake: FakeKubernetes
    folder: Path
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.backend: KServeBackend = backend(self.fake, manifests=lambda service: MANIFEST)
        self.backend.deploy_canary(MODEL, artefact("1"), percent=0, salt="first")
        self.backend.promote(MODEL, "1")
        self.ledger = Ledger(f"sqlite:///{self.folder / 'ledger.db'}")
        world = World(aliases={(MODEL, "champion"): "1", (MODEL, "challenger"): "2"})
        self.controller = Controller(
            self.ledger, self.backend, MemoryRegistry(world), home=self.folder, clock=self.clock
        )

    def start(self) -> str:
        return self.controller.start(manifest(), "2", "1", artefact("2"))

    def drive(self, rollout: str, times: int) -> RolloutState:
        for _ in range(times):
            self.controller.drive(rollout, good(self.clock.now))
            if self.controller.state(rollout).end is not None:
                break
            self.clock.tick()
        return self.controller.state(rollout)

    def messages(self, rollout: str) -> str:
        return "\n".join(event.message for event in self.ledger.events(rollout) if isinstance(event, Failed))


def artefact(version: str) -> ModelArtefact:
    return ModelArtefact(
        model=MODEL, version=version, uri=f"s3://{MODEL}/{version}", digest=f"sha256:{version}"
    )


@pytest.fixture
def rollout(cluster: FakeKubernetes, tmp_path: Path) -> Rollout:
    return Rollout(cluster, tmp_path)


@pytest.mark.parametrize("name", TROUBLE)
def test_it_is_named_in_the_events_and_the_champion_serves(rollout: Rollout, name: str):
    trouble, words = TROUBLE[name]
    started = rollout.start()
    since = rollout.fake.world.now
    trouble(rollout.fake)
    state = rollout.drive(started, 12)
    assert words in rollout.messages(started)
    assert state.end is not End.PROMOTED
    assert rollout.fake.world.leaked(BAD, since=since) == []
    assert rollout.fake.world.outages(since=since) == []
    latest = rollout.fake.world.history[-1].shares
    assert [(share.model, share.percent) for share in latest] == [(GOOD, 100)]


def test_once_the_trouble_is_over_the_next_version_starts_clean(rollout: Rollout):
    trouble, _ = TROUBLE["load"]
    started = rollout.start()
    trouble(rollout.fake)
    assert rollout.drive(started, 30).end is not None
    third = rollout.controller.start(manifest(), "3", "1", artefact("3"))
    assert rollout.drive(third, 30).end is End.PROMOTED
    status = rollout.backend.status(MODEL)
    assert status.stable is not None and (status.stable.version, status.stable.percent) == ("3", 100)
