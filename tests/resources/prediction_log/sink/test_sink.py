"""The sink as a process: what it acknowledged is in the log, whatever happens to it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from resources.prediction_log.segments import closed_segments, seal_abandoned
from resources.prediction_log.sink.__main__ import main
from resources.prediction_log.sink.app import metrics
from resources.prediction_log.sink.committer import BadEvent, Committer, EventCounts, parse
from resources.prediction_log.sink.tokens import model_token
from tests.support.ports import free_base

BODY = {"inputs": [{"name": "distance", "shape": [1], "datatype": "FP64", "data": [719.0]}]}

ROOT = Path(__file__).resolve().parents[4]


def headers(request_id: str = "r-1", kind: str = "request", **changes: str) -> dict[str, str]:
    """What KServe's agent sends."""
    made = {
        "ce-id": request_id,
        "ce-specversion": "1.0",
        "ce-type": f"org.kubeflow.serving.inference.{kind}",
        "ce-source": "http://localhost:9081/",
        "ce-time": "2026-01-01T00:00:00.123456789Z",
        "ce-recordedtime": "2026-01-01T00:00:00.2Z",
        "ce-inferenceservicename": "flight-delay",
        "ce-namespace": "default",
        "ce-component": "predictor",
        "ce-metadata": '{"X-Unit-Id":["u-1"],"X-Assignment":["weighted"]}',
        "ce-annotations": '{"rampgate.io/version":"2","rampgate.io/revision":"flight-delay-v2-0a1b2c"}',
        "content-type": "application/json",
    }
    return {**made, **changes}


@dataclass
class Running:
    url: str
    log: Path
    process: subprocess.Popen[bytes]

    def lines(self) -> list[dict[str, Any]]:
        seal_abandoned(self.log)
        text = [path.read_text() for path in closed_segments(self.log)]
        return [json.loads(line) for part in text for line in part.splitlines()]

    def stop(self, how: signal.Signals) -> None:
        self.process.send_signal(how)
        self.process.wait(10)


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as sink:
        yield sink


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One for all that is refused."""
    with running(tmp_path_factory.mktemp("refusing")) as sink:
        yield sink


@contextmanager
def running(home: Path) -> Generator[Running]:
    port = free_base(1)
    env = {**os.environ, "RAMPGATE_HOME": str(home), "RAMPGATE_SINK_PORT": str(port)}
    env["RAMPGATE_SINK_TOKEN"] = "secret"
    process = subprocess.Popen([sys.executable, "-m", "resources.prediction_log.sink"], cwd=ROOT, env=env)
    sink = Running(f"http://127.0.0.1:{port}", home / "log" / "predictions" / "flight-delay", process)
    try:
        _await_health(sink.url)
        yield sink
    finally:
        process.kill()
        process.wait()


def _await_health(url: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            if httpx.get(f"{url}/healthz", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def post(sink: Running, made: dict[str, str], body: Any = BODY) -> httpx.Response:
    bearer = {"authorization": f"Bearer {model_token('secret', made['ce-inferenceservicename'])}"}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{sink.url}/", content=content, headers={**made, **bearer}, trust_env=False)


def test_request_and_response_become_lines_of_the_log(sink: Running):
    assert post(sink, headers()).status_code == 200
    answer = {"model_name": "flight-delay", "outputs": []}
    assert post(sink, headers(kind="response"), answer).status_code == 200
    sink.stop(signal.SIGTERM)
    request, response = sink.lines()
    assert (request["id"], request["type"]) == ("r-1", "org.kubeflow.serving.inference.request")
    assert request["metadata"] == {"x-unit-id": ["u-1"], "x-assignment": ["weighted"]}
    assert request["annotations"]["rampgate.io/version"] == "2"
    assert request["source"] == "flight-delay-v2-0a1b2c"
    assert (request["data"], response["data"]) == (BODY, answer)


REFUSED = "rampgate_sink_events_refused_total"


def figures(text: str) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


@pytest.mark.parametrize(
    ("changes", "body", "status"),
    [
        ({"ce-type": "another"}, BODY, 400),
        ({"ce-inferenceservicename": "../../etc"}, BODY, 400),
        ({"ce-annotations": '{"rampgate.io/revision":"../x"}'}, BODY, 400),
        ({"ce-annotations": "[]"}, BODY, 400),
        ({"ce-metadata": "{"}, BODY, 400),
        ({"ce-id": ""}, BODY, 400),
        ({}, b"\x00binary", 400),
        ({}, b"[" + b"1," * 5_000_000 + b"1]", 413),
    ],
)
def test_what_is_no_event_is_refused_and_leaves_nothing(
    refusing: Running, changes: dict[str, str], body: Any, status: int
):
    before = refused(refusing)
    answer = post(refusing, headers(**changes), body)
    assert answer.status_code == status, answer.text
    assert not list(refusing.log.parent.glob("**/*.open"))
    ((reason, times),) = (refused(refusing) - before).items()
    assert (reason in {"bad_event", "too_large"}, times) == (True, 1)


def refused(sink: Running) -> Counter[str]:
    """How many events, by reason."""
    told = httpx.get(f"{sink.url}/metrics", trust_env=False)
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Counter(
        {each.labels["reason"]: int(each.value) for each in figures(told.text) if each.name == REFUSED}
    )


def test_every_figure_is_what_prometheus_own_parser_reads(tmp_path: Path):
    committer = Committer(tmp_path, held=7)
    committer.counts = EventCounts(
        written=1, bytes=2, commits=3, failed=4, refused={"busy": 5, 'a "new"\none': 6}
    )
    assert {(each.name, each.labels.get("reason"), each.value) for each in figures(metrics(committer))} == {
        ("rampgate_sink_events_written_total", None, 1),
        ("rampgate_sink_bytes_written_total", None, 2),
        ("rampgate_sink_commits_total", None, 3),
        ("rampgate_sink_events_failed_total", None, 4),
        (REFUSED, "busy", 5),
        (REFUSED, 'a "new"\none', 6),
        ("rampgate_sink_events_pending", None, 0),
        ("rampgate_sink_bytes_held", None, 7),
    }


@pytest.mark.parametrize("token", ["", "secret", "x" * 15])
def test_an_open_address_without_a_token_that_cannot_be_guessed_is_refused(token: str):
    with pytest.raises(SystemExit, match="RAMPGATE_SINK_TOKEN must be set, to 16 characters or more"):
        main({"RAMPGATE_SINK_HOST": "0.0.0.0", "RAMPGATE_SINK_TOKEN": token})


def test_every_acknowledged_event_survives_kill_9_under_load(sink: Running):
    acknowledged = asyncio.run(_load_then_kill(sink))
    assert len(acknowledged) > 50
    assert acknowledged <= {line["id"] for line in sink.lines()}


async def _load_then_kill(sink: Running) -> set[str]:
    acknowledged: set[str] = set()
    bearer = {"authorization": f"Bearer {model_token('secret', 'flight-delay')}"}

    async def client(number: int) -> None:
        async with httpx.AsyncClient(trust_env=False, verify=False) as session:
            for event in range(10_000):
                name = f"{number}-{event}"
                try:
                    answer = await session.post(sink.url, json=BODY, headers={**headers(name), **bearer})
                except httpx.TransportError:
                    return
                if answer.status_code == 200:
                    acknowledged.add(name)

    async def killer() -> None:
        deadline = time.monotonic() + 30
        while len(acknowledged) <= 100 and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        sink.process.kill()

    await asyncio.gather(killer(), *(client(number) for number in range(8)))
    sink.process.wait()
    return acknowledged


@pytest.mark.parametrize("letters", [36, 52, 53, 54, 63])
def test_a_model_name_of_any_length_that_kubernetes_allows_is_taken(letters: int):
    model = "m" * letters
    revision = f"{model}-v{'9' * 20}-0a1b2c"
    annotations = json.dumps({"rampgate.io/version": "9" * 20, "rampgate.io/revision": revision})
    event = parse(headers(**{"ce-inferenceservicename": model, "ce-annotations": annotations}), b"{}")
    assert (event.model, event.revision) == (model, revision)


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_a_unit_id_beyond_ascii_is_logged_as_it_was_written(sink: Running, charset: str):
    made: dict[str, Any] = headers(request_id="ascii")
    made["ce-metadata"] = '{"X-Unit-Id":["Zoë"]}'.encode(charset)
    assert post(sink, made).status_code == 200
    encoded = quote('{"X-Unit-Id":["Zoë"]}', safe="{}[]:,")
    assert post(sink, headers(request_id="encoded", **{"ce-metadata": encoded})).status_code == 200
    sink.stop(signal.SIGTERM)
    assert [line["metadata"] for line in sink.lines()] == [{"x-unit-id": ["Zoë"]}] * 2


def test_percent_encoded_attributes_are_read():
    encoded = "%7B%22X-Unit-Id%22%3A%5B%22u%22%5D%7D"
    line = json.loads(parse(headers(**{"ce-metadata": encoded}), b"{}").line)
    assert line["metadata"] == {"x-unit-id": ["u"]}


def test_a_predictor_without_our_annotations_has_its_service_as_revision():
    event = parse(headers(**{"ce-annotations": ""}), b"{}")
    assert (event.model, event.revision) == ("flight-delay", "flight-delay")


def test_a_bad_event_names_the_header_and_what_is_allowed():
    with pytest.raises(BadEvent, match="ce-type == 'x', must be org.kubeflow"):
        parse(headers(**{"ce-type": "x"}), b"{}")
