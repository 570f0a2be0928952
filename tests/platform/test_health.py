"""What the webserver answers while it is not itself yet."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipelines.platform import health


class Failing(BaseHTTPRequestHandler):
    """GraphQL's own way to fail: status 200, errors, no data."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"errors": [{"message": "no such table: runs"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("question", [health.code_location, health.daemons])
def test_a_webserver_that_fails_is_in_trouble_and_says_why(question, url: str) -> None:
    assert "no such table: runs" in question(url)


def test_nothing_there_is_trouble() -> None:
    assert "does not answer" in str(health.code_location("http://127.0.0.1:1"))
