"""A Dagster UI on a home of its own, showing a rollout that ended in a rollback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx

from assets.rollout import rollout
from pipelines.platform.configuration import TELEMETRY_OFF
from pipelines.rollouts.start import start
from resources.settings import ROOT
from sensors.guardrail import guardrail_sensor
from tests.support.memory_systems import MemorySystems, counters, given, memory_systems
from tests.support.ports import free_base

_INSTANCE = "telemetry: {enabled: false}\nnux: {enabled: false}\n"

_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"""

_SECONDS = 180


def tell_a_story(systems: MemorySystems, instance: dg.DagsterInstance) -> None:
    """Version 2 gets ten percent, fails, and is rolled back by the sensor."""
    systems.challenge()
    start(systems, systems.model, "2")
    dg.materialize([rollout(systems.model)], instance=instance, resources=given(systems))
    sensor = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=5))
    systems.backend.show(counters(v1=(0, 0), v2=(0, 0)), counters(v1=(900, 2), v2=(100, 30)))
    result = sensor(dg.build_sensor_context(instance=instance, resources=given(systems)))
    assert isinstance(result, dg.SensorResult)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    dg.materialize([rollout(systems.model)], instance=instance, resources=given(systems))


@contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of a webserver with this project's code location, while the block runs."""
    folder = home / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text(_INSTANCE)
    with dg.DagsterInstance.from_config(str(folder)) as instance:
        for systems in memory_systems(home):
            tell_a_story(systems, instance)
    port = free_base(1)
    command = [
        str(Path(sys.executable).with_name("dagster-webserver")), "-h", "127.0.0.1", "-p", str(port),
        "-m", "pipelines.definitions", "-d", str(ROOT),
    ]  # fmt: skip
    environment = os.environ | TELEMETRY_OFF | {
        "DAGSTER_HOME": str(folder),
        "RAMPGATE_HOME": str(home),
        "RAMPGATE_MANIFESTS": str(home / "manifests"),
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    with (home / "webserver.log").open("wb") as log:
        server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, server, home / "webserver.log")
        yield url
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(20)


def location(url: str) -> str | None:
    """The name of the first code location that is loaded."""
    answer = httpx.post(f"{url}/graphql", json={"query": _LOCATIONS}, timeout=30, trust_env=False)
    entries = answer.json()["data"]["workspaceOrError"]["locationEntries"]
    return next((entry["name"] for entry in entries if entry["loadStatus"] == "LOADED"), None)


def rollout_asset(url: str) -> str:
    """The path of the first model's `rollout` asset, `<model>/rollout`."""
    query = {"query": "{ assetNodes { assetKey { path } } }"}
    nodes = httpx.post(f"{url}/graphql", json=query, timeout=30, trust_env=False).json()["data"]["assetNodes"]
    paths = sorted("/".join(node["assetKey"]["path"]) for node in nodes)
    return next(path for path in paths if path.endswith("/rollout"))


def _await(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            if location(url) is not None:
                return
        except (httpx.TransportError, json.JSONDecodeError):
            pass
        time.sleep(0.5)
    raise RuntimeError(f"the webserver shows no code location:\n{log.read_text()[-3000:]}")
