"""A server that is gone, slow, failing or no MLflow at all: a clear error in bounded time."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.core.errors import RegistryError
from resources.registry.registry import Registry


@contextmanager
def _answering(*answers: tuple[int, str], delay: float = 0) -> Iterator[tuple[str, list[str]]]:
    """A server that gives these answers in turn, the last one for ever; yields its address and what was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(delay)
            status, body = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def _ask(uri: str, timeout: float = 1.0) -> object:
    return Registry(uri, Path("unused"), timeout=timeout).version_with_alias("churn", "champion")


def test_a_dead_server_is_told():
    with pytest.raises(RegistryError, match=r"MLflow at http://127.0.0.1:9 does not answer.*tried 3 times"):
        _ask("http://127.0.0.1:9")


def test_a_server_that_hangs_is_given_up():
    with _answering((200, "{}"), delay=1) as (uri, asked):
        with pytest.raises(RegistryError, match="does not answer"):
            _ask(uri, timeout=0.1)
        assert len(asked) == 3
        time.sleep(1.1)  # let the handlers end


def test_a_passing_failure_is_survived():
    answer = '{"model_version": {"name": "churn", "version": "7"}}'
    with _answering((503, "busy"), (200, answer)) as (uri, asked):
        found = _ask(uri)
        assert len(asked) == 2
    assert found is not None


def test_a_lasting_failure_names_the_answer():
    with (
        _answering((500, "database is locked")) as (uri, _),
        pytest.raises(RegistryError, match="locked; tried 3"),
    ):
        _ask(uri)


def test_a_refusal_is_not_repeated():
    with _answering((403, '{"error_code": "PERMISSION_DENIED", "message": "no"}')) as (uri, asked):
        with pytest.raises(RegistryError, match="403 PERMISSION_DENIED"):
            _ask(uri)
        assert len(asked) == 1


def test_something_else_on_the_port_is_told():
    with (
        _answering((200, "<html>hello")) as (uri, _),
        pytest.raises(RegistryError, match="not JSON: '<html>"),
    ):
        _ask(uri)


@pytest.mark.parametrize(
    "body", ["{}", "[]", '"ok"', "null", '{"model_version": null}', '{"model_version": {"version": "1"}}']
)
def test_json_that_is_no_answer_of_mlflow_leaves_the_question_open(body: str):
    """It says neither that there is such a version, nor that there is none."""
    with _answering((200, body)) as (uri, _), pytest.raises(RegistryError, match="cannot be read"):
        _ask(uri)


def test_an_address_without_http_is_refused():
    with pytest.raises(RegistryError, match=r"'sqlite:///x.db', must begin with http"):
        _ask("sqlite:///x.db")
