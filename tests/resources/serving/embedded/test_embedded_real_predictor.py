"""The whole path with nothing light in it: MLflow model, KServe model server, Envoy, prediction log."""

import os
import signal
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pandas as pd
import pytest

from pipelines.core.vocabulary import OnFail
from pipelines.rollouts.guardrails import GuardrailWatch
from pipelines.rollouts.serving_metrics import REQUEST_FAULTS
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.windows import window
from resources.prediction_log.segments import closed_segments
from resources.registry.digest import digest_of
from resources.registry.signature import Column, ModelSchema
from resources.serving.contract import ModelArtefact
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lifecycle import pinned_path
from resources.serving.embedded.supervisor import Supervisor
from resources.settings import HOST, Settings
from tests.resources.serving.embedded.test_embedded_gateway import eventually
from tests.support.rollouts import START, Rig, manifest

REQUEST = {"inputs": [{"name": "distance", "shape": [1], "datatype": "FP64", "data": [719.0]}]}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtefact:
    frame = pd.DataFrame({"distance": [1.0, 2.0, 900.0, 950.0]})
    return saved(tmp_path_factory.mktemp("artefact") / "model", "1", frame)


@pytest.fixture(scope="module")
def stricter(tmp_path_factory: pytest.TempPathFactory) -> ModelArtefact:
    """A version with a new required column, which no caller sends."""
    frame = pd.DataFrame({"distance": [1.0, 2.0, 900.0, 950.0], "wind": [1.0, 2.0, 3.0, 4.0]})
    return saved(tmp_path_factory.mktemp("stricter") / "model", "2", frame)


def saved(folder: Path, version: str, frame: pd.DataFrame) -> ModelArtefact:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.sklearn
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression().fit(frame, [0, 0, 1, 1])
        mlflow.sklearn.save_model(model, folder, input_example=frame[:1], serialization_format="cloudpickle")
    return ModelArtefact(model="real", version=version, uri=str(folder), digest=digest_of(folder))


@pytest.fixture(scope="module")
def backend(gateway: Settings, artefact: ModelArtefact) -> EmbeddedBackend:
    """With the artefact as the stable version of `real`, which its canary's probe has answered for."""
    service = {"spec": {"predictor": {"minReplicas": 1, "timeout": 10}}}
    backend = EmbeddedBackend(gateway, {"real": service}, allow={"real": ("cloudpickle",)})
    backend.deploy_canary("real", artefact, percent=0, salt="s")
    assert backend.predict("real", "1", REQUEST)["outputs"][0]["data"] == [1]
    stable = backend.promote("real", "1").stable
    assert stable is not None
    assert stable.ready
    return backend


@pytest.mark.usefixtures("backend")
def test_a_registered_model_is_served_and_its_predictions_are_logged(gateway: Settings) -> None:
    url = f"http://{HOST}:{gateway.ports.gateway}/v2/models/real/infer"
    headers = {"x-unit-id": "me", "x-probe-token": Layout(gateway.home).probe_token()}
    answer = httpx.post(url, json=REQUEST, headers=headers, trust_env=False, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-served-revision"] == "real-00001"
    assert "model_version" not in answer.json()
    log = gateway.prediction_log / "real"
    eventually(lambda: answer.headers["x-request-id"] in _logged(log))
    assert '"x-assignment":["weighted"]' in _logged(log)


def test_a_version_that_refuses_what_the_champion_takes_is_harm_and_what_both_refuse_counts_for_none(
    gateway: Settings, backend: EmbeddedBackend, stricter: ModelArtefact, tmp_path: Path
) -> None:
    backend.deploy_canary("real", stricter, percent=50, salt="s")
    rig = Rig(tmp_path)
    state = rig.controller().state(rig.start())
    watch = GuardrailWatch(
        store=rig.ledger.counters, manifest=manifest(), state=state, save_every=timedelta(0)
    )
    watch.observe(backend.counters("real"))
    begun = datetime.now(UTC)
    wrong = {"inputs": [{"name": "distance", "shape": [1], "datatype": "BYTES", "data": ["far"]}]}
    assert ask(gateway, wrong, 60) == {400}
    watch.observe(backend.counters("real"))
    both = watch.totals[REQUEST_FAULTS]
    assert 0 < both.canary_events == both.canary_trials
    assert 0 < both.champion_events == both.champion_trials
    assert watch.totals["errors"] == (0, 0, 0, 0)
    assert watch.evidence(START) == (), "bad requests are no harm, and make no champion unhealthy"

    for _ in range(10):
        assert ask(gateway, REQUEST, 20) == {200}, "the champion answers in the canary's place"
        watch.observe(backend.counters("real"))
        if watch.evidence(START):
            break
    (harm,) = watch.evidence(START)
    assert (harm.name, harm.on_fail) == ("errors", OnFail.ROLL_BACK)

    lake = Lake(f"sqlite:{tmp_path}/catalog.db", str(tmp_path / "data"), tmp_path)
    schema = ModelSchema((Column("distance", "double"),), (Column("late", "long"),))
    asked, harmed = watch.totals[REQUEST_FAULTS], watch.totals["errors"].canary_events
    # Whatever failed was asked again, of version 1; what that one had failed itself counts once.
    again = asked.canary_events
    expected = {
        "1": (asked.champion_trials + again + harmed, asked.champion_events + again),
        "2": (asked.canary_trials, asked.canary_events + harmed),
    }

    def in_lake() -> dict[str, tuple[int, int]]:
        ingest_predictions(lake, "real", schema, gateway.prediction_log / "real")
        found: dict[str, tuple[int, int]] = {}
        for version in ("1", "2"):
            rows = window(lake, "real", begun, datetime.now(UTC), version=version)
            statuses = rows.loc[rows["row"] == 0, "status"]
            found[version] = len(statuses), int((~statuses.between(200, 299)).sum())
        return found

    eventually(lambda: in_lake() == expected)
    backend.roll_back("real", "2")


def ask(gateway: Settings, request: object, times: int) -> set[int]:
    """The statuses that callers get."""
    url = f"http://{HOST}:{gateway.ports.gateway}/v2/models/real/infer"
    with httpx.Client(trust_env=False, timeout=20) as client:
        return {client.post(url, json=request).status_code for _ in range(times)}


def test_files_that_changed_since_they_were_pinned_are_not_loaded_by_a_restart_and_the_status_says_so(
    gateway: Settings, backend: EmbeddedBackend, artefact: ModelArtefact
) -> None:
    layout = Layout(gateway.home)
    pinned = pinned_path(layout.models, model="real", version="1", digest=artefact.digest) / "model.pkl"
    content = pinned.read_bytes()
    pinned.write_bytes(b"something else")
    processes = Supervisor(layout.socket).processes().values()
    [process] = [each for each in processes if each.name.startswith("real-")]
    os.kill(process.pid, signal.SIGKILL)
    eventually(
        lambda: f"the rollout pinned {artefact.digest}; not loaded" in _stable_message(backend), seconds=60
    )
    pinned.write_bytes(content)


def _stable_message(backend: EmbeddedBackend) -> str:
    stable = backend.status("real").stable
    return stable.message if stable else ""


def _logged(folder: Path) -> str:
    return "".join(path.read_text() for path in closed_segments(folder))
