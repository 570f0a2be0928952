"""Every part, as the command line and Dagster's UI use them. The tests share one platform; the last one stops it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest

from pipelines.demo.dagster_api import DagsterApi
from pipelines.platform.parts import parts
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Supervisor, wait_until
from resources.settings import HOST, Settings
from tests.support.own_home import own_home

DEFINITIONS = "tests.platform.small_definitions"
_LOCATIONS = "{ locationStatusesOrError { ... on WorkspaceLocationStatusEntries { entries { name } } } }"
_TERMINATE = """mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"""


@dataclass(frozen=True)
class Whole:
    """A platform, its command line and its Dagster."""

    settings: Settings
    instance: dg.DagsterInstance

    @property
    def supervisor(self) -> Supervisor:
        return Supervisor(Layout(self.settings.home).socket)

    def graphql(self, query: str, **variables: Any) -> Any:
        url = f"http://{HOST}:{self.settings.ports.dagster}/graphql"
        answer = httpx.post(url, json={"query": query, "variables": variables}, trust_env=False, timeout=30)
        return answer.json()["data"]

    def nap(self, seconds: float) -> str:
        """A run that has begun."""
        with closing(DagsterApi(f"http://{HOST}:{self.settings.ports.dagster}")) as api:
            run = api.launch("napping", {"ops": {"nap": {"config": {"seconds": seconds}}}})
        self.until(run, lambda: "niceness" in self.messages(run))
        return run

    def until(self, run: str, reached: Callable[[], bool]) -> None:
        assert wait_until(reached, seconds=60, every=0.2), self.messages(run)

    def status(self, run: str) -> dg.DagsterRunStatus:
        found = self.instance.get_run_by_id(run)
        assert found is not None
        return found.status

    def ends(self, run: str) -> dg.DagsterRunStatus:
        """How the run ended."""
        self.until(run, lambda: self.status(run).value in {"SUCCESS", "FAILURE", "CANCELED"})
        return self.status(run)

    def messages(self, run: str) -> str:
        return "\n".join(entry.message for entry in self.instance.all_logs(run))

    def process(self, run: str) -> int:
        found = re.search(r"Started process for run \(pid: (\d+)\)", self.messages(run))
        assert found, self.messages(run)
        return int(found[1])


def command_line(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    ports = {f"RAMPGATE_{name.upper()}_PORT": str(port) for name, port in vars(settings.ports).items()}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.platform", *arguments, "--definitions", DEFINITIONS],
        env=os.environ | ports | {"RAMPGATE_HOME": str(settings.home)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    with own_home() as settings:
        first = command_line(settings, "up")
        assert first.returncode == 0, first.stderr
        names = [part.name for part in parts(settings)]
        assert sorted(line.split()[0] for line in first.stdout.splitlines()[:-1]) == sorted(names)
        with dg.DagsterInstance.from_config(str(settings.home / "dagster")) as instance:
            yield Whole(settings, instance)


def test_parts_that_are_up_are_left_alone(whole: Whole) -> None:
    before = {name: process.pid for name, process in whole.supervisor.processes().items()}
    assert command_line(whole.settings, "up").returncode == 0
    assert {name: process.pid for name, process in whole.supervisor.processes().items()} == before
    status = command_line(whole.settings, "status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count(" ok ") + status.stdout.count(" ok\n") == len(parts(whole.settings))


def test_the_code_location_is_there(whole: Whole) -> None:
    assert whole.graphql(_LOCATIONS) == {"locationStatusesOrError": {"entries": [{"name": "rampgate"}]}}


def test_reports_are_served(whole: Whole) -> None:
    folder = whole.settings.home / "reports" / "model"
    folder.mkdir()
    (folder / "index.html").write_text("<h1>drift</h1>")
    url = f"http://{HOST}:{whole.settings.ports.reports}"
    assert httpx.get(f"{url}/model/", trust_env=False).text == "<h1>drift</h1>"
    assert httpx.get(f"{url}/%2e%2e/serving/probe-token", trust_env=False).status_code == 404
    assert httpx.put(f"{url}/model/index.html", trust_env=False).status_code == 405


def test_a_run_gives_way_to_what_serves(whole: Whole) -> None:
    run = whole.nap(0)
    assert whole.ends(run) == dg.DagsterRunStatus.SUCCESS
    assert f"niceness {min(os.nice(0) + 10, 19)}" in whole.messages(run)


def test_a_run_can_be_ended_in_the_ui(whole: Whole) -> None:
    run = whole.nap(600)
    assert whole.graphql(_TERMINATE, run=run)["terminateRun"]["__typename"] == "TerminateRunSuccess"
    assert whole.ends(run) == dg.DagsterRunStatus.CANCELED


def test_a_run_whose_process_was_killed_has_failed(whole: Whole) -> None:
    run = whole.nap(600)
    os.kill(whole.process(run), signal.SIGKILL)
    assert whole.ends(run) == dg.DagsterRunStatus.FAILURE
    assert "the run's process was ended by signal 9 (Killed)" in whole.messages(run)


def test_a_host_that_was_killed_comes_back_without_its_runs(whole: Whole) -> None:
    """A run that nobody can end any more would do its work beside the one that takes its place."""
    run = whole.nap(600)
    process = whole.process(run)
    os.kill(whole.supervisor.processes()["runs"].pid, signal.SIGKILL)
    assert whole.ends(whole.nap(0)) == dg.DagsterRunStatus.SUCCESS
    assert whole.ends(run) == dg.DagsterRunStatus.FAILURE
    assert "the host of the runs was started anew" in whole.messages(run)
    assert not Path(f"/proc/{process}").exists()


def test_everything_goes_down_with_a_run_in_progress(whole: Whole) -> None:
    run = whole.nap(600)
    processes = descendants(whole.supervisor.pid())
    assert whole.process(run) in processes
    assert command_line(whole.settings, "down").returncode == 0
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    assert whole.status(run) in {dg.DagsterRunStatus.CANCELED, dg.DagsterRunStatus.FAILURE}
    assert (whole.settings.home / "mlflow" / "mlflow.db").exists()
    assert "has left a thread" not in (whole.settings.home / "log" / "runs.log").read_text()
    assert command_line(whole.settings, "status").returncode == 1
    assert command_line(whole.settings, "down").returncode == 0


def descendants(pid: int) -> set[int]:
    """A process and all that it started."""
    children = {
        int(child)
        for tasks in Path(f"/proc/{pid}/task").glob("*/children")
        for child in tasks.read_text().split()
    }
    return {pid}.union(*(descendants(child) for child in children))
