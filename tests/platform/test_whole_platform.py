"""Every part, as the command line and Dagster's UI use them. The tests share one platform; the last one stops it."""

import json
import os
import re
import signal
import stat
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
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from pipelines.demo.dagster_api import DagsterApi
from pipelines.platform.control import holder
from pipelines.platform.parts import parts
from pipelines.platform.watchdog import Switches
from resources.serving.embedded.layout import Layout, is_free
from resources.serving.embedded.supervisor import Supervisor, wait_until
from resources.settings import HOST, Settings
from tests.support.own_home import own_home
from tests.ui.test_ui import CHROMIUM, FLAGS

DEFINITIONS = "tests.platform.small_definitions"

SECRET = "a-secret-of-the-installation"

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
        env=os.environ | ports | {"RAMPGATE_HOME": str(settings.home), "AWS_SECRET_ACCESS_KEY": SECRET},
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


def web(whole: Whole) -> dict[str, str]:
    """The address of every part that a browser can open."""
    ports = whole.settings.ports
    found = {
        "dagster": ports.dagster,
        "mlflow": ports.mlflow,
        "evidently": ports.evidently,
        "reports": ports.reports,
    }
    return {name: f"http://{HOST}:{port}" for name, port in found.items()}


REPOSITORY = 'repositoryLocationName: "rampgate", repositoryName: "__repository__"'

STATES = f"""{{ repositoryOrError(repositorySelector: {{{REPOSITORY}}}) {{ ... on Repository {{
  sensors {{ name sensorState {{ id status }} }} schedules {{ name scheduleState {{ id status }} }} }} }} }}"""

EVIL = {"origin": "https://evil.example"}

PLAIN = {"content-type": "text/plain"}

FORM = {"content-type": "application/x-www-form-urlencoded"}

JSON = {"content-type": "application/json"}

MODEL = '{"name": "stolen"}'

MODELS = "/api/2.0/mlflow/registered-models/create"

ARTEFACT = "/api/2.0/mlflow-artifacts/artifacts/stolen.txt"


def switches(whole: Whole) -> dict[str, dict[str, str]]:
    """Id and status of every sensor and schedule."""
    found = whole.graphql(STATES)["repositoryOrError"]
    sensors = {row["name"]: row["sensorState"] for row in found["sensors"]}
    return sensors | {row["name"]: row["scheduleState"] for row in found["schedules"]}


def stopping(whole: Whole, name: str) -> str:
    """The mutation that turns it off."""
    what = "stopSensor" if name.endswith("_sensor") else "stopRunningSchedule"
    return f'mutation {{ {what}(id: "{switches(whole)[name]["id"]}") {{ __typename }} }}'


def attacks(whole: Whole) -> list[tuple[str, str, str, dict[str, str], str, int]]:
    """What a page of another site can have a browser send: part, method, path, headers, body, and the answer."""
    stop = stopping(whole, "guardrail_sensor")
    address = httpx.QueryParams({"query": stop})
    body = json.dumps({"query": stop})
    reports = {"origin": web(whole)["reports"]}
    return [
        ("dagster", "GET", f"/graphql?{address}", {}, "", 405),
        ("dagster", "HEAD", f"/graphql?{address}", {}, "", 405),
        ("dagster", "POST", f"/graphql?{address}", {}, "", 415),
        ("dagster", "POST", f"/graphql?{address}", FORM, "a=b", 415),
        ("dagster", "POST", "/graphql", PLAIN, body, 415),
        ("dagster", "POST", "/graphql", {"content-type": "text/plain; application/json"}, body, 415),
        ("dagster", "POST", "/graphql", {"content-type": "application/graphql"}, stop, 415),
        ("dagster", "POST", "/report_asset_materialization/stolen", {}, "", 415),
        *(("dagster", "POST", "/graphql", JSON | from_, body, 403) for from_ in (EVIL, {"origin": "null"}, reports)),
        ("dagster", "POST", "/graphql", JSON | {"host": "evil.example"}, body, 421),
        ("dagster", "GET", "/graphql", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "", 403),
        ("mlflow", "POST", MODELS, PLAIN, MODEL, 415),
        ("mlflow", "POST", MODELS, JSON | EVIL, MODEL, 403),
        ("mlflow", "POST", MODELS, JSON | reports, MODEL, 403),
        ("mlflow", "POST", MODELS, JSON | {"host": "evil.example"}, MODEL, 421),
        ("mlflow", "POST", "/graphql", JSON | EVIL, "{}", 403),
        ("mlflow", "PUT", ARTEFACT, PLAIN | EVIL, "x", 403),
        ("mlflow", "DELETE", ARTEFACT, EVIL, "", 403),
        ("evidently", "POST", "/api/projects", PLAIN, MODEL, 415),
        ("evidently", "POST", "/api/projects", JSON | EVIL, MODEL, 403),
        ("evidently", "POST", "/api/projects", JSON | {"host": "evil.example"}, MODEL, 421),
        *((part, "GET", "/", {"host": f"evil.example:{url.rpartition(':')[2]}"}, "", 421) for part, url in web(whole).items()),
        *((part, "OPTIONS", "/", EVIL | {"access-control-request-method": "PUT"}, "", 403) for part in web(whole)),
    ]  # fmt: skip


def test_what_a_page_of_another_site_sends_is_refused_and_changes_nothing(whole: Whole) -> None:
    wrong = []
    for part, method, path, headers, body, expected in attacks(whole):
        answer = httpx.request(
            method, web(whole)[part] + path, headers=headers, content=body, trust_env=False, timeout=30
        )
        allowed = [name for name in answer.headers if name.startswith("access-control-allow")]
        if (answer.status_code, allowed) != (expected, []) or (
            method != "HEAD" and "Rampgate: " not in answer.text
        ):
            wrong.append((part, method, path, headers, answer.status_code, answer.text[:100]))
    assert wrong == []
    assert switches(whole)["guardrail_sensor"]["status"] == "RUNNING"
    found = httpx.get(
        f"{web(whole)['mlflow']}/api/2.0/mlflow/registered-models/get", params={"name": "stolen"}
    )
    assert found.json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_a_websocket_is_opened_for_dagsters_own_page_alone(whole: Whole) -> None:
    url = web(whole)["dagster"]
    socket = f"{url.replace('http', 'ws')}/graphql"
    for origin in ("https://evil.example", "null", web(whole)["reports"]):
        with pytest.raises(InvalidStatus, match="403"), connect(socket, origin=Origin(origin)):
            pass
    with connect(socket, origin=Origin(url), subprotocols=[Subprotocol("graphql-ws")]) as opened:
        opened.send('{"type": "connection_init"}')
        assert json.loads(opened.recv(timeout=30)) == {"type": "connection_ack"}


@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")
def test_a_browser_shows_dagster_and_no_other_page_of_it_can_stop_a_sensor(whole: Whole) -> None:
    from playwright.sync_api import sync_playwright

    url, stop = web(whole)["dagster"], stopping(whole, "guardrail_sensor")
    script = """async ([url, stop]) => {
        const query = new URLSearchParams({query: stop}), body = JSON.stringify({query: stop});
        new Image().src = `${url}/graphql?${query}`;
        const socket = new WebSocket(url.replace('http', 'ws') + '/graphql', 'graphql-ws');
        const opened = new Promise(done => { socket.onopen = () => done('opened'); socket.onerror = () => done('refused') });
        await fetch(`${url}/graphql`, {method: 'POST', mode: 'no-cors', body}).catch(() => null);
        await fetch(`${url}/graphql`, {method: 'POST', body, headers: {'content-type': 'application/json'}}).catch(() => null);
        return opened;
    }"""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page()
        page.goto(web(whole)["reports"])
        assert page.evaluate(script, [url, stop]) == "refused"
        page.set_content(f"<a href='{url}/assets'>to Dagster</a>")
        page.click("a")
        page.get_by_text("something").first.wait_for(timeout=60_000)
        browser.close()
    assert switches(whole)["guardrail_sensor"]["status"] == "RUNNING"


def test_mlflows_own_client_and_pages_go_on_working(whole: Whole) -> None:
    url = web(whole)["mlflow"]
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        assert client.post(MODELS, json={"name": "kept"}).json()["registered_model"]["name"] == "kept"
        assert client.put(ARTEFACT.replace("stolen", "kept"), content=b"x").is_success
        assert client.get(ARTEFACT.replace("stolen", "kept")).text == "x"
        assert (
            "<title>MLflow</title>"
            in client.get("/", headers={"host": f"localhost:{url.rpartition(':')[2]}"}).text
        )


def test_what_the_parts_write_is_their_owners_alone(whole: Whole) -> None:
    home = whole.settings.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    written = [path for path in home.rglob("*") if not path.is_symlink()]
    assert [str(path) for path in written if path.stat().st_mode & 0o077] == []
    assert home / "code.sock" in written


def test_a_sensor_that_is_off_is_trouble_and_alerted_once_though_the_one_that_delivers_is_off(
    whole: Whole,
) -> None:
    names = {"guardrail_sensor", "alert_sensor", "nap_schedule"}
    assert switches(whole)["optional_sensor"]["status"] == "STOPPED", "as its author ships it"
    for name in names:
        assert "Result" in str(whole.graphql(stopping(whole, name)))
    status = command_line(whole.settings, "status")
    assert status.returncode == 1
    assert {line.split()[0] for line in status.stdout.splitlines() if " off " in line} == names
    assert "until it is on, nobody does this: Watches; turn it on in Dagster" in status.stdout
    assert f"{web(whole)['dagster']}/locations/rampgate/sensors/guardrail_sensor" in status.stdout
    for _ in range(2):
        Switches(whole.settings).look()
    page = httpx.get(web(whole)["reports"], trust_env=False).text
    assert {name for name in names | {"optional_sensor"} if f"{name} is off" in page} == names
    told = (whole.settings.home / "alerts.jsonl").read_text()
    assert told.count('"title": "guardrail_sensor is off"') == 1
    assert command_line(whole.settings, "up").returncode == 0, "what is off keeps nothing from starting"


def test_only_what_is_guarded_and_the_gateway_listens(whole: Whole) -> None:
    ports = whole.settings.ports
    ours = descendants(whole.supervisor.pid())
    listening = {port for port in range(ports.dagster, ports.dagster + 120) if not is_free(port)}
    gateway = {ports.gateway}
    assert listening - gateway == {ports.dagster, ports.mlflow, ports.evidently, ports.reports}
    assert {holder(port).split()[1] for port in listening} <= set(map(str, ours))


def test_no_part_finds_a_secret_that_it_does_not_need(whole: Whole) -> None:
    finds = {
        name
        for name, process in whole.supervisor.processes().items()
        for pid in descendants(process.pid)
        if SECRET.encode() in environment(pid)
    }
    assert finds == {"code", "runs"}


def environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except FileNotFoundError:
        return b""  # it has ended meanwhile


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
