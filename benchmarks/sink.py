"""The sink on one core: events per second with fdatasync before every answer, and what a kill -9 leaves.

    python benchmarks/sink.py [--seconds 10] [--callers 64]

The sink's process is pinned to one core, its callers to the others. References: the same ASGI server answering 200 to
the same requests and doing nothing else, and a loop that writes and syncs the same bytes in groups of the same size.
Writes var/bench/sink.json.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httptools
import httpx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from resources.prediction_log.segments import closed_segments, seal_abandoned
from resources.prediction_log.sink.tokens import model_token
from resources.serving.embedded.supervisor import wait_until
from resources.settings import Settings
from tests.support.ports import listens

ROOT = Path(__file__).resolve().parent.parent

BODY = json.dumps(
    {"inputs": [{"name": n, "shape": [1], "datatype": "FP64", "data": [719.0]} for n in "abcdef"]}
).encode()

HEAD = (
    "POST / HTTP/1.1\r\nhost: sink\r\nce-id: {id}\r\nce-specversion: 1.0\r\n"
    "ce-type: org.kubeflow.serving.inference.request\r\nce-source: http://localhost:9081/\r\n"
    "ce-time: 2026-01-01T00:00:00.123456789Z\r\nce-inferenceservicename: flight-delay\r\nce-namespace: default\r\n"
    "ce-component: predictor\r\nce-metadata: {{\"X-Unit-Id\":[\"u-1\"],\"X-Assignment\":[\"weighted\"]}}\r\n"
    "ce-annotations: {{\"rampgate.io/version\":\"2\",\"rampgate.io/revision\":\"flight-delay-v2-0a1b2c\"}}\r\n"
    "content-type: application/json\r\nauthorization: Bearer {token}\r\ncontent-length: {size}\r\n\r\n"
)  # fmt: skip

BARE = """
import uvicorn, sys
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=False, log_level="warning", lifespan="off")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--callers", type=int, default=64)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(dir=Settings.from_environment().home.parent) as directory:
        home = Path(directory)
        with server([sys.executable, "-c", BARE], cores[:1], {}) as (_, port):
            bare = load(port, given.callers, given.seconds, cores[1:] or cores)
        with sink(home / "rate", cores[:1]) as (_, port):
            ours = load(port, given.callers, given.seconds, cores[1:] or cores)
            commits = metric(port, "rampgate_sink_commits_total")
        kept = killed(home / "killed", given.callers, cores)
        size = logged_bytes(home / "rate") // max(1, len(ours))
        disk = raw(home / "raw", size, max(1, round(len(ours) / max(1.0, commits))), min(given.seconds, 5))
    per_second = len(ours) / given.seconds
    save(
        "sink",
        [
            row("sink.events", per_second, len(bare) / given.seconds, "uvicorn answering the same requests, nothing written", "events/s", 2000),
            row("sink.events_disk", per_second, disk, "write and fdatasync of the same bytes in groups of the same size", "events/s", None),
            row("sink.events_per_commit", len(ours) / max(1.0, commits), 1, "a sync for each event", "events", None),
            row("sink.lost_after_kill", *kept, "events acknowledged before kill -9", "events", 0),
        ],
    )  # fmt: skip


@contextmanager
def server(command: list[str], cores: list[int], env: dict[str, str]) -> "Iterator[tuple[Any, int]]":
    """A process on these cores that listens on a port of its own (its last argument, or RAMPGATE_SINK_PORT)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {**os.environ, **env, "RAMPGATE_SINK_PORT": str(port)}
    process = subprocess.Popen([*command, str(port)], cwd=ROOT, env=own)
    os.sched_setaffinity(process.pid, cores)
    try:
        wait_for(port)
        yield process, port
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(30)


def sink(home: Path, cores: list[int]) -> Any:
    home.mkdir()
    env = {
        "RAMPGATE_HOME": str(home),
        "RAMPGATE_PREDICTION_LOG": str(home / "log"),
        "RAMPGATE_SINK_TOKEN": "secret",
    }
    return server([sys.executable, "-m", "resources.prediction_log.sink"], cores, env)


def wait_for(port: int) -> None:
    if not wait_until(lambda: listens(port), seconds=60):
        raise RuntimeError(f"nothing listens on {port}")


def load(port: int, callers: int, seconds: float, cores: list[int]) -> list[str]:
    """Ids of the events that were answered with 200, from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_load, (port, callers, seconds, cores))


def _load(port: int, callers: int, seconds: float, cores: list[int]) -> list[str]:
    os.sched_setaffinity(0, cores)
    return asyncio.run(_callers(port, callers, seconds))


async def _callers(port: int, callers: int, seconds: float) -> list[str]:
    until = time.monotonic() + seconds
    parts = await asyncio.gather(*(_caller(port, number, until) for number in range(callers)))
    return [each for part in parts for each in part]


class _Answer:
    """Just enough of a client: the load must not be the bottleneck."""

    def __init__(self) -> None:
        self.done = False

    def on_message_complete(self) -> None:
        self.done = True


async def _caller(port: int, number: int, until: float) -> list[str]:
    acknowledged: list[str] = []
    token = model_token("secret", "flight-delay")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        name = f"c{number}-{len(acknowledged)}"
        writer.write(HEAD.format(id=name, token=token, size=len(BODY)).encode() + BODY)
        answer = _Answer()
        parser = httptools.HttpResponseParser(answer)
        try:
            while not answer.done:
                data = await reader.read(4096)
                if not data:
                    return acknowledged
                parser.feed_data(data)
        except (ConnectionError, httptools.HttpParserError):
            return acknowledged
        if parser.get_status_code() == 200:
            acknowledged.append(name)
    writer.close()
    return acknowledged


def killed(home: Path, callers: int, cores: list[int]) -> tuple[float, float]:
    """(acknowledged but not in the log, acknowledged) after a kill -9 under load."""
    with sink(home, cores[:1]) as (process, port):
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            loading = pool.apply_async(_load, (port, callers, 60.0, cores[1:] or cores))
            while metric(port, "rampgate_sink_events_written_total") < 10_000:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            acknowledged = set(loading.get(60))
    return len(acknowledged - logged(home)), len(acknowledged)


def logged(home: Path) -> set[str]:
    log = home / "log" / "flight-delay"
    seal_abandoned(log)
    lines = [line for path in closed_segments(log) for line in path.read_text().splitlines()]
    return {json.loads(line)["id"] for line in lines if line.endswith("}")}


def logged_bytes(home: Path) -> int:
    return sum(path.stat().st_size for path in (home / "log").rglob("*.*"))


def metric(port: int, name: str) -> float:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    return next((float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} ")), 0.0)


def raw(path: Path, size: int, group: int, seconds: float) -> float:
    """Events per second of the bare disk."""
    data, events = b"x" * size * group, 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started = time.monotonic()
    while time.monotonic() - started < seconds:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        events += group
    os.close(descriptor)
    return events / (time.monotonic() - started)


def row(name: str, ours: float, reference: float, is_: str, unit: str, limit: float | None) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 1),
        "reference": round(reference, 1),
        "reference_is": is_,
        "ratio": round(ours / reference, 3) if reference else None,
        "unit": unit,
        "limit": limit,
    }


def save(name: str, results: list[dict[str, Any]]) -> None:
    path = Settings.from_environment().home / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
