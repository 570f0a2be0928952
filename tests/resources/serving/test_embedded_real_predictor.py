"""The whole path with nothing light in it: MLflow model, KServe model server, Envoy, prediction log."""

import warnings
from pathlib import Path

import httpx
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from resources.artefact_digest import digest_of
from resources.prediction_log import closed_segments
from resources.serving.backend import ModelArtefact
from resources.serving.embedded import EmbeddedBackend
from resources.settings import HOST, Settings
from tests.resources.serving.test_embedded_gateway import eventually

REQUEST = {"inputs": [{"name": "distance", "shape": [1], "datatype": "FP64", "data": [719.0]}]}


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> ModelArtefact:
    folder = tmp_path_factory.mktemp("artefact") / "model"
    frame = pd.DataFrame({"distance": [1.0, 2.0, 900.0, 950.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.sklearn

        model = LogisticRegression().fit(frame, [0, 0, 1, 1])
        mlflow.sklearn.save_model(model, folder, input_example=frame[:1], serialization_format="cloudpickle")
    return ModelArtefact(model="real", version="1", uri=str(folder), digest=digest_of(folder))


def test_a_registered_model_is_served_and_its_predictions_are_logged(
    gateway: Settings, artefact: ModelArtefact
) -> None:
    service = {"spec": {"predictor": {"minReplicas": 1, "timeout": 10}}}
    backend = EmbeddedBackend(gateway, {"real": service})
    backend.deploy_canary("real", artefact, percent=0, salt="s")
    assert backend.predict("real", "1", REQUEST)["outputs"][0]["data"] == [1]
    stable = backend.promote("real", "1").stable
    assert stable is not None
    assert stable.ready
    url = f"http://{HOST}:{gateway.ports.gateway}/v2/models/real/infer"
    answer = httpx.post(url, json=REQUEST, headers={"x-unit-id": "me"}, trust_env=False, timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-served-revision"] == "real-00001"
    log = gateway.prediction_log / "real"
    eventually(lambda: answer.headers["x-request-id"] in _logged(log))
    assert '"x-assignment":["weighted"]' in _logged(log)


def _logged(folder: Path) -> str:
    return "".join(path.read_text() for path in closed_segments(folder))
