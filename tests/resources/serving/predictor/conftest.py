"""Real models saved by MLflow, and real predictor processes that serve them."""

import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pytest

from resources.prediction_log.segments import closed_segments, seal_abandoned
from resources.registry.digest import digest_of
from tests.support.ports import free_base

ROOT = Path(__file__).resolve().parents[4]

NAME, VERSION, REVISION = "flight-delay", "2", "flight-delay-00002"

DATATYPES = {"object": "BYTES", "float64": "FP64", "int64": "INT64"}


@dataclass
class Predictor:
    """One running process."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    log: Path
    stderr: Path

    def infer(self, frame: pd.DataFrame, *more: dict[str, Any], **headers: str) -> httpx.Response:
        """POST the frame's rows and `more` tensors as one request; `x_unit_id` becomes the header `x-unit-id`."""
        return self.post({"inputs": [*v2_inputs(frame), *more]}, **headers)

    def post(self, body: Any, **headers: str) -> httpx.Response:
        """POST any body to the infer route."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/v2/models/{NAME}/infer", json=body, headers=named)

    def logged(self, request_id: str) -> list[dict[str, Any]]:
        """The events of one request, once their segment is closed."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = [event for event in self.events() if named(event) == request_id]
            if found:
                return found
            time.sleep(0.05)
        raise AssertionError(f"{request_id} is not in the prediction log")

    def events(self) -> list[dict[str, Any]]:
        """Every event of every closed segment."""
        return [
            orjson.loads(line)
            for path in closed_segments(self.log)
            for line in path.read_bytes().splitlines()
        ]

    def kill(self) -> None:
        """Die without warning, as for lack of memory; what was open is sealed by somebody else."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        seal_abandoned(self.log)


def named(event: dict[str, Any]) -> str:
    """What the caller called the request of an event, or was told."""
    return event["metadata"].get("x-request-id", [event["id"]])[0]


def v2_inputs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """One v2 tensor per column."""
    return [
        {
            "name": name,
            "shape": [len(frame)],
            "datatype": DATATYPES[str(frame[name].dtype)],
            "data": frame[name].tolist(),
        }
        for name in frame
    ]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Predictor]]:
    """Start a predictor on a model directory and wait until it is ready; all are stopped with the module."""
    running: list[Predictor] = []

    def run(model: Path, durability: str = "process", allow: tuple[str, ...] = ()) -> Predictor:
        directory = tmp_path_factory.mktemp("predictor")
        port = free_base(1)
        command = [
            sys.executable,
            "-m",
            "resources.serving.predictor",
            "--model-dir",
            model,
            "--model-name",
            NAME,
        ]
        command += ["--model-version", VERSION, "--revision", REVISION, "--port", str(port)]
        command += ["--log-dir", directory / "log", "--durability", durability, "--digest", digest_of(model)]
        command += [word for kind in allow for word in ("--allow", kind)]
        with (directory / "stderr").open("wb") as stderr:
            process = subprocess.Popen(command, cwd=ROOT, stderr=stderr)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        predictor = Predictor(process, client, directory / "log", directory / "stderr")
        running.append(predictor)
        wait_until_ready(predictor)
        return predictor

    yield run
    for predictor in running:
        predictor.client.close()
        predictor.process.kill()
        predictor.process.wait()


def wait_until_ready(predictor: Predictor) -> None:
    """Poll the readiness route."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert predictor.process.poll() is None, predictor.stderr.read_text()
        try:
            if predictor.client.get("/v2/health/ready").status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.05)
    raise AssertionError(predictor.stderr.read_text())


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """Mixed columns: strings, floats with gaps, integers."""
    random = np.random.default_rng(13)
    rows = 400
    return pd.DataFrame(
        {
            "carrier": random.choice(["AA", "UA", "DL"], rows),
            "distance": random.uniform(100, 3000, rows),
            "hour": random.integers(5, 24, rows),
            "wind": np.where(random.random(rows) < 0.1, np.nan, random.normal(10, 4, rows)),
        }
    )


@pytest.fixture(scope="session")
def save_pipeline(flights: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save a scikit-learn pipeline that fails on a carrier it has not seen."""

    def save(serialization: str) -> Path:
        import mlflow.sklearn
        from mlflow.models import infer_signature
        from sklearn.compose import make_column_transformer
        from sklearn.impute import SimpleImputer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder

        late = (flights["hour"] + flights["distance"] / 300) > 20
        encode = make_column_transformer(
            (OneHotEncoder(handle_unknown="error"), ["carrier"]),
            (SimpleImputer(), ["distance", "hour", "wind"]),
        )
        pipeline = make_pipeline(encode, LogisticRegression(max_iter=1000)).fit(flights, late)
        directory = tmp_path_factory.mktemp("model") / serialization
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow's advice on integer columns and pickles
            mlflow.sklearn.save_model(
                pipeline,
                str(directory),
                signature=infer_signature(flights, pipeline.predict_proba(flights)),
                serialization_format=serialization,
                skops_trusted_types=["numpy.dtype"] if serialization == "skops" else None,  # SimpleImputer's
                pyfunc_predict_fn="predict_proba",
                pip_requirements=["scikit-learn"],
            )
        return directory

    return save


SLEEPER = """
import time
import mlflow
import pandas as pd

class Sleeper(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        time.sleep(model_input["seconds"].max())
        return model_input[["seconds"]]

mlflow.models.set_model(Sleeper())
"""


@pytest.fixture(scope="session")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes as long as it is told to."""
    directory = tmp_path_factory.mktemp("sleeper")
    (directory / "code.py").write_text(SLEEPER)
    example = pd.DataFrame({"seconds": [0.5]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow's own import
        import mlflow.pyfunc
        from mlflow.models import infer_signature

        mlflow.pyfunc.save_model(
            str(directory / "model"),
            python_model=str(directory / "code.py"),
            signature=infer_signature(example, example),
            pip_requirements=[],
        )
    return directory / "model"
