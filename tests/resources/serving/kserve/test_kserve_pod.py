"""The predictor in a pod: its identity comes from the pod, and it loads what was pinned or nothing."""

import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import httpx
import pytest

from pipelines.core.errors import VersionRefused
from pipelines.core.manifest.model import PredictionLog
from resources.prediction_log.segments import closed_segments
from resources.registry.digest import digest_of, verify
from resources.serving.kserve.pod import Pod, sweep
from tests.support.ports import free_base

ROOT = Path(__file__).resolve().parents[4]

ENV = {
    "RAMPGATE_SERVICE": "m",
    "RAMPGATE_VERSION": "2",
    "RAMPGATE_REVISION": "m-v2-0a1b2c",
    "RAMPGATE_DIGEST": "",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model with a signature of named columns, saved by MLflow."""
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    path = tmp_path_factory.mktemp("artefact") / "model"
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    fitted = LinearRegression().fit(frame, [0.0, 2.0, 4.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature = infer_signature(frame, fitted.predict(frame))
        mlflow.sklearn.save_model(fitted, path, signature=signature, pip_requirements=["scikit-learn"])
    return path


def start(model: Path, port: int, **changes: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "resources.serving.kserve.pod", "--host=127.0.0.1"]
    command += [f"--model-dir={model}", f"--port={port}"]
    env = {**os.environ, **ENV, "RAMPGATE_DIGEST": digest_of(model), **changes}
    return subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE)


def test_it_serves_the_pinned_artefact_under_the_pods_identity(model: Path, tmp_path: Path):
    port = free_base(1)
    process = start(model, port, RAMPGATE_PREDICTION_LOG=str(tmp_path))
    try:
        answer = _infer(f"http://127.0.0.1:{port}/v2/models/m/infer", process)
        assert answer["outputs"][0]["data"] == pytest.approx([6.0])
        assert answer["model_version"] == "2"
    finally:
        process.terminate()
        process.communicate(timeout=20)
    text = "".join(path.read_text() for path in closed_segments(tmp_path / "m"))
    assert '"rampgate.io/revision":"m-v2-0a1b2c"' in text


def _infer(url: str, process: subprocess.Popen[bytes]) -> dict[str, object]:
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP64", "data": [3.0]}]}
    deadline = time.monotonic() + 90
    while True:
        try:
            return httpx.post(url, json=body, trust_env=False, timeout=20).raise_for_status().json()
        except httpx.ConnectError:
            assert process.poll() is None and time.monotonic() < deadline, "the predictor did not start"
            time.sleep(0.2)


def test_another_artefact_is_refused_before_it_is_loaded(model: Path):
    process = start(model, 1, RAMPGATE_DIGEST="sha256:0000")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"the rollout pinned sha256:0000" in errors


def test_a_digest_may_carry_its_algorithm(model: Path):
    verify(model, digest_of(model))
    verify(model, f"sha256:{digest_of(model)}")
    with pytest.raises(VersionRefused, match="pinned none"):
        verify(model, "")


def test_a_pod_without_a_rollout_is_refused():
    with pytest.raises(VersionRefused, match="RAMPGATE_VERSION"):
        Pod.from_environment({**ENV, "RAMPGATE_VERSION": "none"})


@pytest.mark.parametrize(
    ("said", "allow"),
    [
        (None, ()),
        ("", ()),
        ("none", ()),
        ("pickle", ("pickle",)),
        ("pickle,custom_code", ("pickle", "custom_code")),
    ],
)
def test_nothing_may_run_code_unless_the_pod_is_told_so(said: str | None, allow: tuple[str, ...]):
    told = {} if said is None else {"RAMPGATE_ALLOW": said}
    assert Pod.from_environment(ENV | told).allow == allow


@pytest.mark.parametrize("said", ["everything", "pickle,", "pickle, custom_code", "PICKLE"])
def test_an_allowance_that_is_not_known_is_refused(said: str):
    with pytest.raises(VersionRefused, match="must be none or some of pickle, cloudpickle, custom_code"):
        Pod.from_environment(ENV | {"RAMPGATE_ALLOW": said})


def test_what_one_request_may_hold_is_bounded_unless_the_pod_is_told_otherwise():
    told = {"RAMPGATE_MAX_ROWS": "20000"}
    assert Pod.from_environment(ENV).limits == PredictionLog()
    assert Pod.from_environment(ENV | told).limits == PredictionLog(max_rows=20_000)
    with pytest.raises(VersionRefused, match="RAMPGATE_MAX_ROWS"):
        Pod.from_environment(ENV | {"RAMPGATE_MAX_ROWS": "none"})


def test_only_closed_segments_are_swept(tmp_path: Path):
    (tmp_path / "m.w.1.jsonl").write_text("{}\n")
    (tmp_path / "m.w.2.open").write_text("{}\n")
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["m.w.2.open"]
