"""A real code server that is reloaded while a canary has a share: one process watches it or two do, never none."""

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import grpc
import psutil
import pytest
from dagster._core.definitions.run_request import InstigatorType

from pipelines.platform.configuration import environment, write_configuration
from pipelines.platform.parts import code_socket, parts
from resources.serving.contract import LEASE
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lease import Leases
from resources.serving.embedded.state import Deployed, DesiredCanary, ServiceState, StateStore
from resources.settings import ROOT, Settings
from tests.sensors.test_alerting_sensors import off
from tests.support.memory_systems import memory_systems, start_rollout, write_model
from tests.support.rollouts import MODEL

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

START_SECONDS = 240.0


@dataclass
class CodeServer:
    """The part `code`, and every word of whoever watches. Nobody evaluates its sensors."""

    settings: Settings
    process: psutil.Process
    words: list[float] = field(default_factory=list[float])
    """When the share was renewed."""

    def holders(self) -> set[int]:
        """The processes that have the definitions."""
        return {child.pid for child in self.process.children()}

    def reload(self) -> None:
        """What *Reload* in the UI does; returns with the new definitions there, and the old process still about to end."""
        self.call("ReloadCode")

    def call(self, method: str) -> bytes:
        """The answer to an empty request."""
        with grpc.insecure_channel(f"unix:{code_socket(self.settings)}") as channel:
            return channel.unary_unary(f"/api.DagsterApi/{method}")(b"", timeout=START_SECONDS)

    def listen(self, seconds: float, *, gone: set[int] | None = None) -> None:
        """For so long, after these processes have gone."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            word = Leases(Layout(self.settings.home).leases).last_word(MODEL)
            if word is not None and word / 1e9 not in self.words[-1:]:
                self.words.append(word / 1e9)
            if gone and gone & self.holders():
                until = time.monotonic() + seconds
            time.sleep(0.02)

    def longest_silence(self, since: float) -> float:
        """Seconds between two words, up to now."""
        words = [*(word for word in self.words if word > since), time.time()]
        return max(after - before for before, after in zip(words, words[1:], strict=False))


@pytest.fixture(scope="module")
def settings() -> Iterator[Settings]:
    """A home with an open rollout whose canary has 10 %, without anything that would take it away."""
    home = Path(tempfile.mkdtemp(prefix="rg-", dir="/tmp"))
    for systems in memory_systems(home):
        start_rollout(systems)
        layout = Layout(home)
        layout.create()
        one, two = (
            Deployed(name=f"{MODEL}-0000{n}", model=MODEL, version=str(n), digest=f"sha-{n}", ports=(n,))
            for n in (1, 2)
        )
        canary = DesiredCanary(revision=two, salt="s", percent=10)
        StateStore(layout.states).write(ServiceState(service=MODEL, serial=2, stable=one, canary=canary))
        write_configuration(systems.settings, parts(systems.settings))
        yield systems.settings
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[CodeServer]:
    every = parts(settings, definitions="tests.platform.breakable_definitions")
    part = next(part for part in every if part.name == "code")
    with (settings.home / "code.log").open("wb") as log:
        started = subprocess.Popen(
            shlex.split(part.command), cwd=ROOT, env=os.environ | environment(settings) | part.environment,
            stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    server = CodeServer(settings, psutil.Process(started.pid))
    try:
        until = time.monotonic() + START_SECONDS
        while part.trouble() is not None:
            assert started.poll() is None and time.monotonic() < until, (
                settings.home / "code.log"
            ).read_text()
            server.listen(0.2)
        yield server
    finally:
        children = server.process.children(recursive=True)
        for process in (server.process, *children):
            process.kill()
        started.wait(20)


def test_a_code_server_that_has_just_been_loaded_watches_before_anybody_evaluates_the_sensor(
    server: CodeServer,
) -> None:
    server.listen(3)
    assert len(server.words) >= 2
    assert server.words[-1] > time.time() - LEASE.total_seconds() / 2


def as_it_was(server: CodeServer) -> None:
    """Nothing has changed."""


def another_model(server: CodeServer) -> None:
    write_model(server.settings.manifests, "churn")


def broken(server: CodeServer) -> None:
    (server.settings.home / "broken").touch()


@pytest.mark.parametrize("change", [as_it_was, another_model, broken])
def test_a_reload_leaves_no_time_in_which_nobody_watches(
    server: CodeServer, change: Callable[[CodeServer], None]
) -> None:
    change(server)
    before, begun = server.holders(), time.time()
    server.reload()
    server.listen(5, gone=before)
    silence = server.longest_silence(begun)
    print(f"{change.__name__}: longest silence {silence:.2f} s, load {os.getloadavg()[0]:.0f}")
    assert silence < LEASE.total_seconds()
    assert not before & server.holders()
    assert (b"broken on purpose" in server.call("ListRepositories")) == (change is broken)
    (server.settings.home / "broken").unlink(missing_ok=True)


def test_a_reload_while_the_sensor_is_off_keeps_no_lease_alive(server: CodeServer) -> None:
    with dg.DagsterInstance.from_config(str(server.settings.home / "dagster")) as instance:
        off(instance, "guardrail_sensor", InstigatorType.SENSOR)
    for _ in range(2):
        before = server.holders()
        server.reload()
        server.listen(1, gone=before)
    heard = len(server.words)
    server.listen(4)
    assert len(server.words) == heard
