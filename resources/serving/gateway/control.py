"""What the sidecar answers: what is in force, what was counted, whether the pod may get traffic.

GET /healthz needs no token. GET /splits and GET /counters/<service> do: they name units' salts and traffic.
"""

import hmac
import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from pipelines.errors import ServingError

Answer = tuple[int, Mapping[str, Any]]


class Control(ThreadingHTTPServer):
    """Serves `answer(path)` as JSON."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, host: str, port: int, token: str, answer: Callable[[str], Answer]) -> None:
        self.token, self.answer = token, answer
        super().__init__((host, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that went away is nothing to report."""

    def allows(self, header: str) -> bool:
        """Whether a request with this Authorization header may see more than /healthz."""
        return not self.token or hmac.compare_digest(header.encode(), f"Bearer {self.token}".encode())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30

    def do_GET(self) -> None:
        """Every request there is."""
        control = cast(Control, self.server)
        if self.path != "/healthz" and not control.allows(self.headers.get("Authorization", "")):
            self._send(401, {"error": "a token is needed"})
            return
        try:
            self._send(*control.answer(self.path))
        except ServingError as error:
            self._send(503, {"error": str(error)})

    def log_message(self, format: str, *args: Any) -> None:
        """Polled many times a second: not worth a line each."""

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)
