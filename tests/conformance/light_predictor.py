"""A predictor in a hundred milliseconds: Open Inference Protocol v2 over real HTTP, no model library.

It takes the real predictor's arguments. `behaviour.json` in the model directory says how it behaves:
`status` (of predictions), `fail_share` (of predictions, evenly spread, that are answered with 500 instead), `once` (a file: before it is
there no prediction fails for `fail_share`),
`obeys` (the request header `x-please` says how it is answered: a status, `slow`, or `reset`, a connection that is closed without
an answer; `500@2` is obeyed by version 2 alone), `delay` (seconds per prediction), `start_delay` (seconds until it is ready), `die` (a message: print it and exit
with 3 while starting), `log` (write the real prediction log; the process needs the project's packages for it).
"""

import argparse
import itertools
import json
import sys
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    behaviour: dict[str, Any] = {}
    version = ""
    seen: deque[dict[str, str]] = deque(maxlen=10_000)
    numbers = itertools.count(1)
    write: Callable[[dict[str, str], datetime, int, dict[str, Any]], None] | None = None

    def do_GET(self) -> None:
        self._answer(
            200, {"ready": True, "seen": list(self.seen)} if self.path == "/seen" else {"ready": True}
        )

    def do_POST(self) -> None:
        at = datetime.now(UTC)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append(headers)
        time.sleep(self.behaviour.get("delay", 0))
        please, _, alone = headers.get("x-please", "").partition("@")
        if not self.behaviour.get("obeys") or alone not in ("", self.version):
            please = ""
        if please == "slow":
            time.sleep(0.3)
            please = ""
        if please == "reset":
            self.close_connection = True
            return
        status = int(please) if please else self._status()
        request = json.loads(body or b"{}")
        output = {"name": "version", "shape": [1], "datatype": "BYTES", "data": [self.version]}
        answer = {"model_version": self.version, "outputs": [output], "id": request.get("id")}
        if self.write is not None:
            self.write(headers, at, status, answer)
        self._answer(status, answer)

    def _status(self) -> int:
        number, share = next(self.numbers), self.behaviour.get("fail_share", 0)
        begun = "once" not in self.behaviour or Path(self.behaviour["once"]).exists()
        failed = begun and int(number * share) > int((number - 1) * share)
        return 500 if failed else self.behaviour.get("status", 200)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        payload = b"" if status == 204 else json.dumps(body).encode()
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


def prediction_log(options: argparse.Namespace) -> Callable[..., None]:
    """Writes what the real predictor writes, before the answer leaves."""
    from resources.prediction_log.cloudevents import Origin, Prediction, header_text, prediction_lines
    from resources.prediction_log.segments import SegmentWriter

    writer = SegmentWriter(Path(options.log_dir), options.revision, options.durability)
    origin = Origin(
        service=options.model_name, version=options.model_version, revision=options.revision
    ).attributes()
    kept = ("x-unit-id", "x-assignment", "x-call-id", "x-request-id")

    def write(headers: dict[str, str], at: datetime, status: int, answer: dict[str, Any]) -> None:
        prediction = Prediction(
            record_id=str(uuid4()),
            metadata={name: text for name in kept if (text := header_text(headers.get(name, "")))},
            requested_at=at,
            latency_ms=(datetime.now(UTC) - at).total_seconds() * 1000,
            status=status,
            inputs=[],
            answer=answer,
        )
        writer.append(prediction_lines(origin, prediction))

    return write


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in (
        "--model-dir",
        "--model-name",
        "--model-version",
        "--revision",
        "--log-dir",
        "--durability",
        "--digest",
    ):
        parser.add_argument(option)
    parser.add_argument("--allow", action="append", default=[])
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    print(f"predictor starts: {options.revision}", flush=True)
    behaviour = json.loads((Path(options.model_dir) / "behaviour.json").read_text())
    if "die" in behaviour:
        print(behaviour["die"], flush=True)
        sys.exit(3)
    time.sleep(behaviour.get("start_delay", 0))
    Handler.behaviour, Handler.version = behaviour, options.model_version
    if behaviour.get("log"):
        Handler.write = staticmethod(prediction_log(options))
    Server(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
