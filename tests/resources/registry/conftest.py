"""A real MLflow server with a handful of versions, started once."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.platform.configuration import TELEMETRY_OFF
from resources.registry.registry import Registry
from resources.settings import ROOT
from tests.support.ports import free_base


@pytest.fixture(scope="session")
def mlflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its database and artefacts."""
    home = tmp_path_factory.mktemp("mlflow-server") / "mlflow"
    home.mkdir()
    return home


@pytest.fixture(scope="session")
def mlflow_uri(mlflow_home: Path) -> Iterator[str]:
    """The platform's own part, alone: one process, where `mlflow server` imports everything in two."""
    home, port = mlflow_home.parent, free_base(1)
    env = os.environ | TELEMETRY_OFF | {"RAMPGATE_HOME": str(home), "RAMPGATE_MLFLOW_PORT": str(port)}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "pipelines.platform.web", "mlflow"],
            cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield _when_up(f"http://127.0.0.1:{port}", server, home / "log")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.fixture(scope="session")
def publish(mlflow_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Registers a version through the mlflow library, in a process of its own, and returns its number."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env = inherited | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": mlflow_uri}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", str(Path(__file__).with_name("publisher.py"))],
        cwd=tmp_path_factory.mktemp("publisher"), env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as publisher:  # fmt: skip
        assert publisher.stdin is not None
        assert publisher.stdout is not None
        send, receive = publisher.stdin, publisher.stdout

        def publish(model: str, **options: Any) -> str:
            send.write(json.dumps({"model": model, **options}) + "\n")
            send.flush()
            return json.loads(receive.readline())["version"]

        yield publish
        send.close()


@pytest.fixture(scope="session")
def good_version(publish: Callable[..., str]) -> str:
    """A version of `churn` with signature and example, stored with skops."""
    return publish("churn", described=True)


@pytest.fixture
def registry(mlflow_uri: str, tmp_path: Path) -> Registry:
    return Registry(mlflow_uri, tmp_path / "models-cache")


def _when_up(uri: str, server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{uri}/health").is_success:
                return uri
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"the MLflow server did not start:\n{log.read_text()[-2000:]}")
