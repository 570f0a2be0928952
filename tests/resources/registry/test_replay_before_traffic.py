"""What callers send is replayed to a new version through real MLflow, Envoy and predictor before any traffic."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest

from pipelines.core.rollout.events import End
from pipelines.core.rollout.policy import VALIDATION
from pipelines.core.vocabulary import Verdict
from pipelines.platform.systems import Systems
from pipelines.rollouts import open_rollout
from pipelines.rollouts.start import carry_on, start
from resources.lake.ingest import ingest_predictions
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.predictors import Launch, model_server
from resources.serving.embedded.supervisor import Supervisor
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone, light_command
from tests.resources.lake.segments_by_hand import prediction
from tests.support.memory_systems import write_model

NAME = "replayed"


class Embedded(Systems):
    """A light predictor stands for the champion, whose log is written by hand; the challenger's is the real one."""

    @cached_property
    def backend(self) -> EmbeddedBackend:  # type: ignore[override]
        def command(launch: Launch) -> Sequence[str]:
            return light_command(launch) if launch.version == "1" else model_server(launch)

        services = {model.name: model.service for model in self.catalogue.models}
        return EmbeddedBackend(self.settings, services, predictor_command=command)


def logged(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True)
    inputs = {"age": [41.0], "plan": [1]}
    lines = [prediction(f"r-{i}", inputs=inputs, outputs={"score": [0.5]}) for i in range(rows)]
    (folder / f"{NAME}-00001.writer.1.jsonl").write_text("".join(line for pair in lines for line in pair))


def test_a_new_required_column_is_refused_before_traffic_and_an_outage_of_the_gateway_is_not_held_against_it(
    mlflow_uri: str, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_rollout, "_FIRST_PAUSE", open_rollout._FIRST_PAUSE * 0)
    assert [publish(NAME, described=True), publish(NAME, described=True, more=("wind",))] == ["1", "2"]
    with gateway_alone() as settings:
        write_model(settings.home / "own", NAME, flights=False)
        systems = Embedded(replace(settings, mlflow_uri=mlflow_uri, manifests=settings.home / "own"))
        model = systems.catalogue.model(NAME)
        establish(EmbeddedArena(settings, NAME, replicas=1), "1")
        logged(settings.prediction_log / NAME, rows=60)
        schema = systems.registry.signature(NAME, "1")
        ingest_predictions(systems.lake, NAME, schema, settings.prediction_log / NAME)
        systems.registry.set_alias(NAME, "champion", "1")
        rollout = start(systems, model, "2").rollout_id
        systems.controller.drive(rollout)
        supervisor = Supervisor(Layout(settings.home).socket)
        supervisor.stop("gateway", seconds=20)
        carry_on(systems, model, rollout)
        asked = systems.controller.state(rollout)
        assert asked.end is None
        assert asked.evidence[VALIDATION].verdict is Verdict.UNKNOWN, asked.evidence[VALIDATION].reason
        supervisor.start("gateway")
        for _ in range(200):
            carry_on(systems, model, rollout)
            if systems.controller.state(rollout).end is not None:
                break
            time.sleep(0.1)
        ended = systems.controller.state(rollout)
        assert ended.end is End.REFUSED, ended.end_reason
        assert "cannot answer 1 of 1 logged requests that version 1 answered" in ended.end_reason
        assert "column 'wind' is missing" in ended.end_reason
        assert {weight.percent for weight in ended.weights} <= {0.0}
        systems.ledger.close()
