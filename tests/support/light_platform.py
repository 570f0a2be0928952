"""The whole platform in a home of its own, serving light predictors: real rollouts in seconds.

Light versions have no features, so that looks, data checks and drift are not asked for here.
"""

import json
import shutil
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import RolloutState
from pipelines.platform.control import Say, down, up
from pipelines.platform.parts import parts
from pipelines.platform.systems import Systems
from pipelines.rollouts.controller import Controller
from resources.registry.client import RegistryApi
from resources.registry.digest import digest_of
from resources.serving.contract import ModelArtefact
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.predictors import Launch, options
from resources.settings import Settings
from tests.conformance.arena import LIGHT_PREDICTOR
from tests.support.ports import free_base

_ROLLOUT = """\
model: {model}
steps: [10, 100]
bake: {bake}
tier: low
experiment:
  primary: {{name: cost, type: mean, source: outcomes.cost, mde: 5%}}
guardrails:
  - {{name: errors, type: proportion, source: serving.errors, margin: 0.5pp}}
step: {{min_duration: 1h, min_units: 0}}
"""

_SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {{name: {model}}}
spec:
  predictor:
    minReplicas: {replicas}
    timeout: 5
    model: {{modelFormat: {{name: mlflow}}, protocolVersion: v2}}
"""

_SENSORS = """{ sensorsOrError(repositorySelector: {repositoryLocationName: "rampgate",
  repositoryName: "__repository__"}) { ... on Sensors { results { name sensorState { id } } } } }"""

_STOP = "mutation($id: String!) { stopSensor(id: $id) { __typename } }"


@dataclass(frozen=True)
class LightPlatform:
    """A running platform, and what a model team and a person in the UI would do on it."""

    settings: Settings

    @cached_property
    def systems(self) -> Systems:
        return Systems(self.settings)

    @cached_property
    def backend(self) -> EmbeddedBackend:
        services = {model.name: model.service for model in self.systems.catalogue.models}
        return EmbeddedBackend(
            self.settings, services, predictor_command=logging_command, start_seconds=60, drain_seconds=5
        )

    @cached_property
    def controller(self) -> Controller:
        """One whose deployments start light predictors; the platform's own would start model servers."""
        return Controller(
            self.systems.ledger, self.backend, self.systems.registry, home=self.settings.home, by="bench"
        )

    def register(self, model: str, version: str, **behaviour: Any) -> ModelArtefact:
        """A version in MLflow, and its artefact."""
        api = RegistryApi(self.settings.mlflow_uri)
        if version == "1":
            api.call("POST", "registered-models/create", name=model)
        answer = api.call("POST", "model-versions/create", name=model, source="s3://light/model")
        assert answer["model_version"]["version"] == version, answer
        folder = self.settings.home / "light" / model / version
        folder.mkdir(parents=True)
        (folder / "behaviour.json").write_text(json.dumps({"log": True, "name": version} | behaviour))
        return ModelArtefact(model=model, version=version, uri=str(folder), digest=digest_of(folder))

    def register_logged(self, model: str, **logged: str) -> None:
        """Version 1 in MLflow, of a model that has none: `source` and `model_id` of what was logged."""
        RegistryApi(self.settings.mlflow_uri).call("POST", "registered-models/create", name=model)
        self.register_next(model, **logged)

    def register_next(self, model: str, **logged: str) -> str:
        """The next version in MLflow, of the same."""
        api = RegistryApi(self.settings.mlflow_uri)
        answer = api.call("POST", "model-versions/create", name=model, **logged)
        return str(answer["model_version"]["version"])

    def serve(self, model: str, **behaviour: Any) -> None:
        """Version 1 becomes the champion."""
        artefact = self.register(model, "1", **behaviour)
        self.backend.deploy_canary(model, artefact, percent=0, salt="first")
        self.backend.promote(model, "1")
        self.systems.registry.set_alias(model, "champion", "1")

    def open(self, model: str, artefact: ModelArtefact, *, champion: str = "1", **policy: Any) -> str:
        """A rollout, driven to its one step."""
        manifest = self.systems.catalogue.model(model).rollout
        changed = replace(Policy.of(manifest), **({"validate": False} | policy))
        rollout_id = self.controller.start(manifest, artefact.version, champion, artefact, policy=changed)
        self.controller.drive(rollout_id)
        return rollout_id

    def state(self, rollout_id: str) -> RolloutState:
        return self.controller.state(rollout_id)

    def stop_looking(self) -> None:
        """Turn the evidence sensor off, as a person does in the UI."""
        with httpx.Client(base_url=self.systems.links.dagster, timeout=30, trust_env=False) as client:
            found = client.post("/graphql", json={"query": _SENSORS}).json()["data"]["sensorsOrError"]
            for sensor in found["results"]:
                if sensor["name"] == "evidence_sensor":
                    variables = {"id": sensor["sensorState"]["id"]}
                    answer = client.post("/graphql", json={"query": _STOP, "variables": variables}).json()
                    assert answer["data"]["stopSensor"]["__typename"] == "StopSensorMutationResult", answer


@contextmanager
def light_platform(
    models: Sequence[str],
    *,
    idle: Sequence[str] = (),
    serve: bool = True,
    replicas: int = 1,
    bake: str = "0s",
    say: Say = print,
) -> Generator[LightPlatform]:
    """Every part, up; stopped and removed afterwards. `idle` models have a folder, and are in no registry yet.

    Without `serve`, `models` are like them, and looks are asked for until somebody stops that.
    """
    home = Path(tempfile.mkdtemp(prefix="rg-", dir="/tmp"))
    for model in (*models, *idle):
        folder = home / "manifests" / model
        folder.mkdir(parents=True)
        (folder / "rollout.yaml").write_text(_ROLLOUT.format(model=model, bake=bake))
        (folder / "inferenceservice.yaml").write_text(_SERVICE.format(model=model, replicas=replicas))
    settings = Settings.from_environment(
        {
            "RAMPGATE_HOME": str(home),
            "RAMPGATE_PORT_BASE": str(free_base()),
            "RAMPGATE_MANIFESTS": str(home / "manifests"),
        }
    )
    platform = LightPlatform(settings)
    try:
        up(settings, parts(settings), say=say)
        if serve:
            platform.stop_looking()
            for model in models:
                platform.serve(model)
        yield platform
    finally:
        down(settings, say=say, seconds=120)
        shutil.rmtree(home)


def logging_command(launch: Launch) -> list[str]:
    """The light predictor, with the packages that it needs to write the real log."""
    return [sys.executable, str(LIGHT_PREDICTOR), *options(launch)]
