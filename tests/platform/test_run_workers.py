"""The host that runs are forked from, with a run that says what it was given."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Process
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin

from pipelines.platform.run_workers.client import RunHostError, ask
from pipelines.platform.run_workers.host import Host
from pipelines.platform.run_workers.launcher import ForkingRunLauncher
from pipelines.rollouts.naming import MODEL_TAG
from resources.serving.embedded.supervisor import wait_until
from resources.settings import ROOT


def host(path: Path, written: Path) -> None:
    """Serves; a run writes down its process and its arguments, and sleeps if these say so."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        arguments = Host(listening).serve(["no_such_library", "colorsys"])
    with written.open("a") as file:
        file.write(f"{os.getpid()} {arguments}\n")
    if arguments == "sleep":
        time.sleep(600)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "written"


@pytest.fixture
def asked(tmp_path: Path, written: Path) -> Iterator[Callable[..., dict[str, object]]]:
    path = tmp_path / "runs.sock"
    process = Process(target=host, args=(path, written))
    process.start()
    yield lambda **question: ask(path, question, patience=10)
    process.kill()
    process.join()
    process.close()


def runs(written: Path) -> list[list[str]]:
    return [line.split() for line in written.read_text().splitlines()] if written.exists() else []


def test_a_run_is_a_process_of_its_own_with_its_arguments(asked, written: Path) -> None:
    answer = asked(do="launch", run_id="a", arguments="first")
    assert wait_until(lambda: runs(written) == [[str(answer["pid"]), "first"]], seconds=10, every=0.02)
    assert wait_until(lambda: asked(do="state", run_id="a")["state"] == "ended", seconds=10, every=0.02)
    assert asked(do="state", run_id="a") == {"state": "ended", "how": "exited with 0"}


FORKED = """
import os, sys, duckdb
from pipelines.platform.run_workers.host import work_and_end

def compute():
    duckdb.connect().execute("SET threads = 2; SELECT sum(i % 7) FROM range(5000000) t(i)").fetchall()

def fail():
    sys.exit(3)

def break_off():
    raise ValueError("an error of the run")

pid = os.fork()
if not pid:
    work_and_end({work})
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize(("work", "code"), [("compute", 0), ("fail", 3), ("break_off", 1)])
def test_a_run_ends_as_its_work_has_ended_whatever_its_libraries_do_at_exit(work: str, code: int) -> None:
    """In an interpreter of its own: what multiprocessing forks ends without it."""
    script = [sys.executable, "-c", FORKED.format(work=work)]
    done = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == [str(code)], done.stderr


def test_no_run_is_started_twice(asked, written: Path) -> None:
    answer = asked(do="launch", run_id="a", arguments="sleep")
    assert answer["state"] == "running"
    assert asked(do="launch", run_id="a", arguments="sleep") == answer
    assert asked(do="stop", run_id="a")["state"] == "running"
    assert wait_until(lambda: asked(do="state", run_id="a")["state"] == "ended", seconds=10, every=0.02)
    assert asked(do="state", run_id="a")["how"] == "was ended by signal 15 (Terminated)"
    assert asked(do="launch", run_id="a", arguments="sleep")["state"] == "ended"
    assert len(runs(written)) <= 1


def test_what_cannot_be_answered_stops_nothing(asked, tmp_path: Path, written: Path) -> None:
    assert asked(do="state", run_id="nobody") == {"state": "unknown"}
    for nonsense in ({"do": "launch", "run_id": "a"}, {"run_id": "a"}):
        with pytest.raises(RunHostError, match=r"runs\.sock"):
            ask(tmp_path / "runs.sock", nonsense)
    with socket.socket(socket.AF_UNIX) as looks_only:
        looks_only.connect(str(tmp_path / "runs.sock"))
    assert runs(written) == [], "nothing was forked for it"
    assert asked(do="launch", run_id="b", arguments="second")["state"] == "running"


def test_a_host_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunHostError, match=r"the host of the runs does not answer on .*none\.sock"):
        ask(tmp_path / "none.sock", {"do": "state", "run_id": "a"})


def test_a_run_is_launched_with_the_model_whose_definitions_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, str]] = []
    monkeypatch.setattr(
        "pipelines.platform.run_workers.launcher.ask", lambda _, question, **__: asked.append(question)
    )
    origin = JobPythonOrigin("start", RepositoryPythonOrigin("python", ModuleCodePointer("m", "defs")))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        launcher = ForkingRunLauncher(str(tmp_path / "runs.sock"))
        launcher.register_instance(instance)
        for tags in ({MODEL_TAG: "churn"}, {}):
            run = dg.DagsterRun(job_name="start", run_id="a", tags=tags, job_code_origin=origin)
            launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    assert [json.loads(each["arguments"])["model"] for each in asked] == ["churn", ""]
    assert "run_id" in json.loads(asked[0]["arguments"])["run"]
