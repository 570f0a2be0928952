"""A predictor in a hundred milliseconds: Open Inference Protocol v2 over real HTTP, no model library.

It takes the real predictor's arguments. `behaviour.json` in the model directory says how it behaves:
`status` (of predictions), `delay` (seconds per prediction), `start_delay` (seconds until it is ready),
`die` (a message: print it and exit with 3 while starting).
"""

import argparse
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behaviour: dict[str, Any] = {}
    version = ""
    seen: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self._answer(200, {"ready": True, "seen": self.seen} if self.path == "/seen" else {"ready": True})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        time.sleep(self.behaviour.get("delay", 0))
        status = self.behaviour.get("status", 200)
        request = json.loads(body or b"{}")
        output = {"name": "version", "shape": [1], "datatype": "BYTES", "data": [self.version]}
        self._answer(status, {"model_version": self.version, "outputs": [output], "id": request.get("id")})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: Any) -> None:
        """Envoy owns the access log."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in (
        "--model-dir",
        "--model-name",
        "--model-version",
        "--revision",
        "--log-dir",
        "--durability",
    ):
        parser.add_argument(option)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    behaviour = json.loads((Path(options.model_dir) / "behaviour.json").read_text())
    if "die" in behaviour:
        print(behaviour["die"], flush=True)
        sys.exit(3)
    time.sleep(behaviour.get("start_delay", 0))
    Handler.behaviour, Handler.version = behaviour, options.model_version
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
