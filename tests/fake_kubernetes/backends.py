"""A KServe backend against the fake API server, with time that costs nothing."""

from dataclasses import replace
from typing import Any

from resources.serving.contract import ModelArtefact
from resources.serving.kserve.backend import KServeBackend, Probe
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.driver import Timing
from tests.fake_kubernetes.server import FakeKubernetes

MANIFEST: dict[str, Any] = {
    "apiVersion": "serving.kserve.io/v1beta1",
    "kind": "InferenceService",
    "metadata": {"name": "m", "labels": {"team": "flights"}},
    "spec": {
        "predictor": {
            "minReplicas": 2,
            "timeout": 30,
            "model": {"modelFormat": {"name": "mlflow"}, "protocolVersion": "v2"},
        }
    },
}


class Clock:
    """Seconds that pass only when somebody sleeps; each second is some ticks of the cluster."""

    def __init__(self, fake: FakeKubernetes, *, ticks: int = 1) -> None:
        self.fake, self.ticks, self.now = fake, ticks, 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.fake.run(self.ticks)


def backend(fake: FakeKubernetes, **changes: Any) -> KServeBackend:
    """A backend for the `default` namespace of the fake cluster."""
    clock = Clock(fake)
    made = KServeBackend(
        cluster=Cluster.at(fake.url, token=fake.token, timeout=5.0),
        manifests=lambda service: MANIFEST,
        probe=Probe(ingress=fake.url),
        timing=Timing(model=60, traffic=30, api=20, failing=5, poll=1),
        clock=clock,
        sleep=clock.sleep,
    )
    return replace(made, **changes)


def artefact(version: str, *, uri: str = "") -> ModelArtefact:
    """Version n of model m, at s3://m/n."""
    return ModelArtefact(
        model="m", version=version, uri=uri or f"s3://m/{version}", digest=f"sha256:{version}"
    )


def applied(mode: str, *, uri: str = "s3://m/0", **predictor: Any) -> dict[str, Any]:
    """An InferenceService that somebody applied by hand, with no rollout in it."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": "m",
            "namespace": "default",
            "annotations": {"serving.kserve.io/deploymentMode": mode},
        },
        "spec": {"predictor": {"model": {"modelFormat": {"name": "mlflow"}, "storageUri": uri}, **predictor}},
    }
