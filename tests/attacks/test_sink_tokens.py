"""Whoever may post to the sink as one model must not post as another: their events decide about rollouts."""

import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from pipelines.core.errors import ServingError
from resources.prediction_log.sink.__main__ import _CONNECTIONS
from resources.prediction_log.sink.tokens import model_token, url_for
from tests.fake_kubernetes.backends import artefact, backend
from tests.fake_kubernetes.server import serving
from tests.fake_kubernetes.world import World
from tests.support.ports import free_base

ROOT = Path(__file__).resolve().parents[2]

KEY, BEFORE = "key/of:all@models", "the one they shared"

MINE, OTHER = "m", "another"

Headers = list[tuple[str, str]]


@dataclass
class Sink:
    url: str
    log: Path

    def post(self, model: str, token: str, *, more: Headers | None = None) -> int:
        """What an event of this model with this token is answered."""
        return httpx.post(
            self.url,
            headers=[*event(model), ("authorization", f"Bearer {token}".strip()), *(more or [])],
            json={},
            trust_env=False,
        ).status_code

    def models(self) -> set[str]:
        return {path.parent.name for path in self.log.glob("*/*") if path.stat().st_size}


def event(model: str) -> Headers:
    return [
        ("ce-id", "1"),
        ("ce-type", "org.kubeflow.serving.inference.request"),
        ("ce-time", "2026-01-01T00:00:00Z"),
        ("ce-inferenceservicename", model),
    ]


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sink]:
    home, port = tmp_path_factory.mktemp("sink"), free_base(1)
    env = {
        **os.environ,
        "RAMPGATE_HOME": str(home),
        "RAMPGATE_SINK_PORT": str(port),
        "RAMPGATE_SINK_TOKEN": KEY,
        "RAMPGATE_SINK_TOKEN_BEFORE": BEFORE,
    }
    process = subprocess.Popen([sys.executable, "-m", "resources.prediction_log.sink"], cwd=ROOT, env=env)
    running = Sink(f"http://127.0.0.1:{port}", home / "log" / "predictions")
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{running.url}/healthz", trust_env=False).raise_for_status()
            break
        except httpx.TransportError:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    yield running
    process.terminate()
    process.wait(20)


FORGED: dict[str, tuple[str, str, Headers]] = {
    "no token": (OTHER, "", []),
    "the token of another model": (OTHER, model_token(KEY, MINE), []),
    "the key itself": (OTHER, KEY, []),
    "the beginning of the right token": (OTHER, model_token(KEY, OTHER)[:-1], []),
    "the right token and more": (OTHER, model_token(KEY, OTHER) + "0", []),
    "the right token in capitals": (OTHER, model_token(KEY, OTHER).upper(), []),
    "its own model first, then another's": (
        MINE, model_token(KEY, MINE), [("ce-inferenceservicename", OTHER)],
    ),
    "another's model, spelt in another way": ("a%6eother", model_token(KEY, MINE), []),
    "another's model as a path": (f"{MINE}/../{OTHER}", model_token(KEY, MINE), []),
    "no model": ("", model_token(KEY, MINE), []),
    "the key of before, made into its own token": (OTHER, model_token(BEFORE, MINE), []),
}  # fmt: skip


@pytest.mark.parametrize("attack", FORGED)
def test_no_caller_posts_as_a_model_whose_token_it_does_not_have(sink: Sink, attack: str):
    model, token, more = FORGED[attack]
    assert sink.post(model, token, more=more) == 401
    assert OTHER not in sink.models()


def test_two_tokens_at_once_are_one_that_is_wrong(sink: Sink):
    stolen = ("authorization", f"Bearer {model_token(KEY, MINE)}")
    assert sink.post(OTHER, "", more=[stolen]) == 401


@pytest.mark.parametrize("mode", ["Knative", "Standard"])
def test_the_url_that_a_rollout_writes_opens_one_model_and_holds_no_key(sink: Sink, mode: str):
    with serving(World(default_mode=mode)) as fake:
        written = f"http://log:{quote(KEY, safe='')}@{sink.url.removeprefix('http://')}/"
        backend(fake, logger_url=written).deploy_canary(MINE, artefact("1"), percent=0, salt="s")
        isvc = fake.isvc(MINE)
    assert KEY not in json.dumps(isvc) and quote(KEY, safe="") not in json.dumps(isvc)
    url = isvc["spec"]["predictor"]["logger"]["url"]
    for model, status in ((MINE, 200), (OTHER, 401)):
        assert httpx.post(url, headers=event(model), json={}, trust_env=False).status_code == status


@pytest.mark.parametrize("token", [BEFORE, model_token(BEFORE, MINE), model_token(KEY, MINE)])
def test_while_a_key_is_replaced_no_logger_loses_an_event(sink: Sink, token: str):
    assert sink.post(MINE, token) == 200


def test_what_is_no_token_at_all_is_refused_like_a_wrong_one(sink: Sink):
    odd = ["Basic !", f"Basic {base64.b64encode(b'no colon').decode()}", "Bearer", "Digest x", "Bearer é"]
    for each in odd:
        headers = [*event(MINE), ("authorization", each.encode())]
        assert httpx.post(sink.url, headers=headers, json={}, trust_env=False).status_code == 401


HALF_SENT = (
    b"",
    b"POST / HT",
    b"POST / HTTP/1.1\r\nhost: a\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n",
)


def test_connections_that_nobody_asks_anything_on_keep_no_model_from_its_sink(sink: Sink):
    """As many as there may be: they need no token, and were first."""
    address = urlsplit(sink.url)
    with ExitStack() as stack:
        for number in range(_CONNECTIONS + 20):
            each = stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=5))
            each.sendall(HALF_SENT[number % len(HALF_SENT)])
        assert [sink.post(MINE, model_token(KEY, MINE)) for _ in range(5)] == [200] * 5


def test_a_websocket_is_refused_like_any_other_request_and_fills_no_log_with_errors(sink: Sink):
    upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
    upgrade["sec-websocket-key"] = base64.b64encode(b"0123456789abcdef").decode()
    assert httpx.get(sink.url, headers=upgrade, trust_env=False).status_code == 403


def test_an_address_without_a_password_stays_as_it_is_and_one_that_is_none_is_not_repeated():
    assert url_for("http://sink.rampgate:80/a?b", MINE) == "http://sink.rampgate:80/a?b"
    made = urlsplit(url_for("https://who:k%40y@sink:8443/a?b", MINE))
    assert (made.username, made.password) == ("who", model_token("k@y", MINE))
    assert (made.hostname, made.port, made.path, made.query) == ("sink", 8443, "/a", "b")
    with pytest.raises(ServingError) as raised:
        url_for("http://log:secret@[::1/", MINE)
    assert "secret" not in str(raised.value)
