"""Counters from a Prometheus HTTP API: exact numbers where they are there, NotMeasured where they are not."""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines.core.errors import NotMeasured
from resources.serving.kserve.prometheus import PRESETS, Measured, Prometheus
from resources.serving.kserve.service import DeploymentMode
from tests.fake_kubernetes.backends import artefact, backend
from tests.fake_kubernetes.server import FakeKubernetes

NOW = datetime(2026, 1, 2, tzinfo=UTC)

SINCE = NOW - timedelta(hours=1)

Rows = list[tuple[dict[str, str], float]]


@contextmanager
def prometheus(
    answer: Callable[[str], Rows | str], *, queries: str = ""
) -> Iterator[tuple[Prometheus, list[str]]]:
    """A server that answers instant queries; returns the client and the queries it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)["query"][0]
            asked.append(query)
            rows = answer(query)
            body: dict[str, Any] = {"status": "error", "error": rows}
            if not isinstance(rows, str):
                result = [{"metric": labels, "value": [0, str(value)]} for labels, value in rows]
                body = {"status": "success", "data": {"resultType": "vector", "result": result}}
            payload = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield Prometheus(url=url, queries=queries, clock=lambda: NOW), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def measured(mode: DeploymentMode = DeploymentMode.KNATIVE) -> Measured:
    return Measured("m", "default", mode, {"m-1": "1", "m-2": "2"}, since=SINCE)


def rows(query: str) -> Rows:
    """m-1: 900 requests, no errors; m-2: 100 requests, 7 errors, 3 of them faults, 12 slower than 250 ms."""
    canary = "m-2" in query
    if "bucket" in query:
        total = 100.0 if canary else 900.0
        return [({"le": "250"}, total - (12 if canary else 0)), ({"le": "0.5"}, 1.0), ({"le": "+Inf"}, total)]
    if kind := errors_in(query):
        return [({}, {"errors": 7.0, "faults": 3.0}[kind])] if canary else []
    return [({}, 100.0 if canary else 900.0)]


CODES = ("0", "200", "204", "301", "400", "404", "413", "422", "429", "500", "503")


def matched(query: str) -> set[str]:
    """The statuses of `CODES` whose series the selector takes."""
    (label, how, pattern), *_ = re.findall(
        r'(response_code\w*|envoy_response_code_class)(!=|!~|=~|=)"([^"]*)"', query
    )
    shown = {"response_code": "{}", "response_code_class": "{}xx", "envoy_response_code_class": "{}"}[label]
    taken: set[str] = set()
    for code in CODES:
        value = shown.format(code if label == "response_code" else code[0])
        equal = re.fullmatch(pattern, value) is not None
        taken |= {code} if equal is not how.startswith("!") else set()
    return taken


def errors_in(query: str) -> str:
    """Which of the two counts of errors the query asks for; empty for another."""
    if "response_code" not in query:
        return ""
    return "errors" if "400" in matched(query) else "faults"


@pytest.mark.parametrize("preset", PRESETS)
def test_any_status_but_2xx_is_counted_and_a_5xx_is_a_fault_at_every_ingress(preset: str):
    bad = set(CODES) - {"200", "204"}
    assert matched(PRESETS[preset].request_faults or PRESETS[preset].errors) == bad
    assert matched(PRESETS[preset].faults) - {"0"} == {"500", "503"}


def test_requests_errors_and_slow_answers_per_revision():
    with prometheus(rows) as (client, _):
        counters = client.counters(measured())
    stable, canary = counters.revisions
    assert (stable.version, stable.requests, stable.errors, dict(stable.over_slo)) == ("1", 900, 0, {250: 0})
    assert (canary.version, canary.requests, canary.errors, dict(canary.over_slo)) == ("2", 100, 7, {250: 12})
    assert (stable.faults, canary.faults) == (0, 3)
    assert counters.epoch == SINCE.isoformat()


def test_the_window_begins_where_the_epoch_does():
    with prometheus(rows) as (client, asked):
        client.counters(measured())
    assert all("[3600s]" in query and "offset 3600s" in query for query in asked if "max_over_time" in query)
    assert any("max_over_time" in query for query in asked)


@pytest.mark.parametrize(
    ("mode", "preset", "series"),
    [
        (DeploymentMode.KNATIVE, "", "revision_request_count"),
        (DeploymentMode.STANDARD, "", "istio_requests_total"),
        (DeploymentMode.STANDARD, "envoy", "envoy_cluster_upstream_rq_completed"),
    ],
)
def test_queries_follow_mode_and_ingress(mode: DeploymentMode, preset: str, series: str):
    with prometheus(rows, queries=preset) as (client, asked):
        client.counters(measured(mode))
    assert asked[0].startswith(series)
    assert re.search(r'"(\(\(shadow\|again\|new\)/\)\?)?m-1["(]', asked[0])


def test_a_revision_without_series_is_not_measured():
    with (
        prometheus(lambda query: [] if "m-2" in query else rows(query)) as (client, _),
        pytest.raises(NotMeasured, match="no requests of m-2"),
    ):
        client.counters(measured())


def test_a_prometheus_that_stopped_scraping_is_not_measured():
    with (
        prometheus(lambda query: rows(query) if "max_over_time" in query else []) as (client, _),
        pytest.raises(NotMeasured, match="no recent samples"),
    ):
        client.counters(measured())


@pytest.mark.parametrize("answer", ["parse error", [({}, float("nan"))]])
def test_answers_that_are_no_numbers_are_not_measured(answer: Any):
    with prometheus(lambda query: answer) as (client, _), pytest.raises(NotMeasured, match="Prometheus at"):
        client.counters(measured())


def test_certificate_authorities_are_not_read_again_for_every_question(monkeypatch: pytest.MonkeyPatch):
    real, read = ssl.create_default_context, list[dict[str, Any]]()

    def create(**options: Any) -> ssl.SSLContext:
        read.append(options)
        return real(**options)

    monkeypatch.setattr(ssl, "create_default_context", create)
    with prometheus(rows) as (client, asked):
        client.counters(measured())
        client.counters(measured())
    assert len(asked) > 2
    assert len(read) <= 1


def test_a_prometheus_that_is_gone_is_not_measured():
    with pytest.raises(NotMeasured, match="Prometheus at"):
        Prometheus(url="http://127.0.0.1:9", timeout=1.0).counters(measured())


def test_the_backend_asks_for_the_revisions_in_force(cluster: FakeKubernetes):
    made = backend(cluster)
    made.deploy_canary("m", artefact("1"), percent=0, salt="s1")
    made.promote("m", "1")
    status = made.deploy_canary("m", artefact("2"), percent=10, salt="s2")
    assert status.stable is not None and status.canary is not None
    with prometheus(lambda query: [({"le": "+Inf"}, 5.0)]) as (client, asked):
        counters = backend(cluster, prometheus=client).counters("m")
    assert {each.revision: each.version for each in counters.revisions} == {
        status.stable.name: "1",
        status.canary.name: "2",
    }
    assert status.canary.name in " ".join(asked)
