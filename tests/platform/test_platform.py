"""The platform comes up and goes down, or says why not."""

import json
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.core.errors import ServingError
from pipelines.platform.__main__ import main
from pipelines.platform.control import LONGEST_HOME, PlatformError, down, holder, up
from pipelines.platform.parts import Part, parts
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.predictors import Predictors
from resources.serving.embedded.state import Deployed
from resources.serving.embedded.supervisor import Supervisor
from resources.settings import HOST, Settings
from tests.conformance.arena import EmbeddedArena, establish
from tests.support.own_home import own_home


@pytest.fixture
def settings() -> Iterator[Settings]:
    with own_home() as settings:
        yield settings


def gateway(settings: Settings) -> list[Part]:
    return [part for part in parts(settings) if part.name == "gateway"]


def test_a_taken_port_is_named_with_its_holder_and_its_setting(settings: Settings) -> None:
    with socket.create_server((HOST, settings.ports.gateway)):
        with pytest.raises(PlatformError) as refused:
            up(settings, gateway(settings))
        assert f"port {settings.ports.gateway} for gateway" in str(refused.value)
        assert f"process {os.getpid()}" in str(refused.value)
        assert "RAMPGATE_GATEWAY_PORT" in str(refused.value)
    assert not Supervisor(Layout(settings.home).socket).alive()


@pytest.mark.parametrize(
    "name",
    [
        "c#",
        "what?",
        "50%",
        'a"b',
        "a ;b",
        "a[1]",
        "a*",
        "a\\b",
        "a\nb",
        "x" * (LONGEST_HOME - len("/tmp/rg-/") + 1),
    ],
)
def test_a_home_that_cannot_hold_the_platform_is_refused_in_words_before_it_is_made(name: str) -> None:
    home = Path("/tmp/rg-") / name
    with pytest.raises(PlatformError, match=r"^RAMPGATE_HOME (?s:.)*: choose a"):
        up(Settings.from_environment({"RAMPGATE_HOME": str(home)}), [])
    assert not home.exists()


def test_a_home_of_the_greatest_length_and_any_other_name_runs_predictors() -> None:
    with tempfile.TemporaryDirectory(prefix="rg ", dir="/tmp") as folder:
        name = "it's a hömé, with;(all) & $more ~ "
        rest = LONGEST_HOME - len(os.fsencode(f"{folder}/{name}"))
        with own_home(Path(folder) / (name + "x" * rest)) as settings:
            up(settings, [])
            revision = Deployed(name="m-1", model="m", version="1", digest="d", ports=(1,))
            supervisor = Supervisor(Layout(settings.home).socket)
            Predictors(Layout(settings.home), supervisor).start(revision, {1: ["/bin/sleep", "60"]}, {})
            assert supervisor.processes()["m-1.1"].state in ("STARTING", "RUNNING")
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(gateway_of(settings).admin))
            assert len(os.fsencode(settings.home)) == LONGEST_HOME


def test_nobody_holds_a_free_port() -> None:
    assert holder(1) == "another process"


def test_a_part_that_does_not_work_is_named_with_its_last_words(settings: Settings) -> None:
    broken = Part(
        name="broken",
        command="/bin/sh -c 'echo the database is locked; exit 1'",
        url="",
        trouble=lambda: "it does not answer",
    )
    with pytest.raises(
        PlatformError, match=r"broken does not work.*it does not answer\n.*\n.*database is locked"
    ):
        up(settings, [*gateway(settings), broken], seconds=3)


def test_a_home_too_deep_for_a_socket_is_refused() -> None:
    settings = Settings.from_environment({"RAMPGATE_HOME": "/tmp/" + "d" * 100})
    with pytest.raises(ServingError, match=r"RAMPGATE_HOME.*121 bytes, must be at most 107"):
        down(settings)


def test_serving_continues_after_a_reboot_and_predictors_find_no_secret(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    up(settings, gateway(settings))
    arena = EmbeddedArena(settings, service="model", replicas=1)
    establish(arena, "1")
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    units = [f"u{number}" for number in range(40)]
    before = [arena.send(unit).version for unit in units]
    arena.client.close()
    down(settings)
    for program in Layout(settings.home).programs.glob("*.conf"):  # as they were before parts had lists
        program.write_text(re.sub("^command=.*? -- ", "command=", program.read_text(), flags=re.MULTILINE))
    orphan = Layout(settings.home).programs / "model-00099.1.conf"
    orphan.write_text("[program:model-00099.1]\ncommand=/bin/false\n")

    up(settings, gateway(settings))
    again = EmbeddedArena(settings, service="model", replicas=1)
    stable = again.backend.status("model").stable
    assert stable is not None
    assert stable.ready
    again.backend.set_canary_percent("model", "2", 50)
    assert [again.send(unit).version for unit in units] == before
    processes = Supervisor(Layout(settings.home).socket).processes()
    assert len(processes) == 3
    for process in processes.values():
        assert b"a-secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    again.client.close()


def test_telemetry_is_off_for_every_part(settings: Settings) -> None:
    up(settings, gateway(settings))
    pid = Supervisor(Layout(settings.home).socket).processes()["gateway"].pid
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert {"DAGSTER_DISABLE_TELEMETRY=1", "DO_NOT_TRACK=true", "GX_ANALYTICS_ENABLED=false"} <= set(
        environment
    )
    bootstrap = json.loads((settings.home / "gateway" / "envoy.json").read_text())
    assert bootstrap["static_resources"]["listeners"][0]["address"]["socket_address"]["address"] == HOST


def test_a_home_that_cannot_be_written_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAMPGATE_HOME", "/proc/nowhere")
    monkeypatch.setattr("sys.argv", ["pipelines.platform", "up"])
    assert main() == 1
    assert "/proc/nowhere" in capsys.readouterr().err


def test_the_daemon_does_not_fetch_all_definitions_every_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster has no setting for it: the constant must be there, and the daemon's loop must read it."""
    from dagster._daemon import controller

    from pipelines.platform import daemon

    assert controller.RELOAD_WORKSPACE_INTERVAL == 60
    assert (
        "RELOAD_WORKSPACE_INTERVAL"
        in controller.DagsterDaemonController.check_workspace_freshness.__code__.co_names
    )
    monkeypatch.setattr(controller, "RELOAD_WORKSPACE_INTERVAL", 60)  # put back afterwards
    monkeypatch.setattr("sys.argv", ["daemon"])
    began: list[int] = []
    monkeypatch.setattr(daemon, "daemon_main", lambda: began.append(controller.RELOAD_WORKSPACE_INTERVAL))
    daemon.main()
    assert began == [daemon.FETCH_SECONDS]
