"""How a predictor waits, ends, and refuses to start."""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

Start = Callable[..., Any]

QUICK, SLOW = pd.DataFrame({"seconds": [0.0]}), pd.DataFrame({"seconds": [3.0]})


def test_a_full_log_answers_503_and_a_slow_model_stays_healthy_and_sigterm_finishes_it(
    start: Start, sleeper: Path
) -> None:
    predictor = start(sleeper, allow=("custom_code",))
    _limit_file_size(predictor.process.pid, 10)
    refused = predictor.infer(QUICK)
    assert refused.status_code == 503
    assert "could not be logged" in refused.json()["error"]
    _limit_file_size(predictor.process.pid, resource.RLIM_INFINITY)
    assert predictor.infer(QUICK).json()["outputs"][0]["name"] == "seconds"

    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(predictor.infer(SLOW, x_request_id="in-flight")))
    asking.start()
    time.sleep(0.3)
    assert httpx.get(predictor.client.base_url.join("/v2/health/ready")).status_code == 200
    assert answers == [], "health did not wait for the model"

    predictor.process.send_signal(signal.SIGTERM)
    asking.join()
    assert predictor.process.wait(timeout=15) == 0
    assert answers[0].status_code == 200
    assert list(predictor.log.glob("*.open")) == []
    assert [event["status"] for event in predictor.logged("in-flight") if "status" in event] == [200]


def _limit_file_size(process: int, limit: int) -> None:
    """Let the kernel refuse what the process writes, as a full disk does."""
    _, hard = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (limit, hard))


def test_a_directory_without_a_model_is_refused_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "resources.serving.predictor", "--model-dir", str(tmp_path)]
    command += ["--model-name", "m", "--model-version", "1", "--revision", "m-00001", "--port", "1"]
    command += ["--log-dir", str(tmp_path / "log"), "--digest", "0" * 64]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."}, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr.endswith(
        f"predictor m-00001: {tmp_path} is no MLflow model: it has no file MLmodel\n"
    )
