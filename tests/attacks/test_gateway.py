"""Callers against the embedded gateway: real Envoy, real sockets. Whatever they send, ordinary requests are answered."""

import itertools
import json
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import truncate
from pathlib import Path

import httpx
import pytest

from pipelines.platform.parts import Part, parts
from pipelines.platform.status import status
from pipelines.platform.watchdog import Watch, one_round
from resources.serving.embedded.gateway import MOST_LOG_BYTES
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.supervisor import Supervisor, wait_until
from resources.serving.envoy.description import MOST_BODY_BYTES, MOST_ID_BYTES
from resources.settings import HOST, Settings, certificates
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone


@pytest.fixture(scope="module")
def arena() -> Iterator[EmbeddedArena]:
    """A champion that needs ten milliseconds for an answer."""
    with gateway_alone() as settings:
        arena = EmbeddedArena(settings, service="victim", replicas=1)
        establish(arena, "1", delay=0.01)
        yield arena
        arena.retire()


def seen(arena: EmbeddedArena) -> list[dict[str, str]]:
    """Headers of the requests that reached the champion."""
    state = json.loads((Layout(arena.settings.home).states / "victim.json").read_text())
    (port,) = state["stable"]["ports"]
    return httpx.get(f"http://{HOST}:{port}/seen", trust_env=False, verify=certificates()).json()["seen"]


def url(arena: EmbeddedArena) -> str:
    return f"http://{HOST}:{arena.settings.ports.gateway}/v2/models/victim/infer"


def gateway_pid(settings: Settings) -> int:
    return Supervisor(Layout(settings.home).socket).processes()["gateway"].pid


class Ordinary:
    """Requests of well-behaved callers, and what became of them."""

    def __init__(self, arena: EmbeddedArena) -> None:
        self.arena = arena
        self.failed: list[str] = []
        self.seconds: list[float] = []

    def send(self, number: int) -> None:
        with httpx.Client(trust_env=False, timeout=5, verify=certificates()) as client:
            for _ in range(number):
                self._one(client)

    def _one(self, client: httpx.Client) -> None:
        began = time.monotonic()
        try:
            answer = client.post(url(self.arena), json={"inputs": []}, headers={"x-unit-id": "u"})
        except httpx.HTTPError as error:
            self.failed.append(repr(error))
            return
        self.seconds.append(time.monotonic() - began)
        if answer.status_code != 200:
            self.failed.append(f"{answer.status_code} {answer.text}")

    def require_served(self) -> None:
        assert not self.failed, (len(self.failed), self.failed[:3])
        assert sorted(self.seconds)[len(self.seconds) * 99 // 100] <= 1.0

    @contextmanager
    def meanwhile(self, callers: int, number: int, step: Callable[[], None]) -> Iterator[None]:
        """`callers` of them at the same time, while `step` is repeated."""
        threads = [threading.Thread(target=self.send, args=(number,)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            step()
        yield


# --- What a caller may say of itself -----------------------------------------------------------------------------
STEERING = {
    "x-envoy-upstream-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-per-try-timeout-ms": "1",
    "x-envoy-expected-rq-timeout-ms": "1",
    "x-envoy-upstream-rq-timeout-alt-response": "1",
    "x-envoy-max-retries": "9",
    "x-envoy-retry-on": "5xx,retriable-headers",
    "x-envoy-retry-grpc-on": "internal",
    "x-envoy-retriable-status-codes": "200",
    "x-envoy-retriable-header-names": "server",
    "x-envoy-hedge-on-per-try-timeout": "true",
    "x-envoy-upstream-alt-stat-name": "victim-00002",
    "x-envoy-upstream-stream-duration-ms": "1",
    "x-envoy-original-path": "/v2/models/other/infer",
    "x-envoy-original-method": "GET",
    "x-envoy-original-dst-host": "127.0.0.1:1",
    "x-envoy-decorator-operation": "forged",
    "x-envoy-ip-tags": "internal",
    "x-envoy-internal": "true",
    "x-envoy-external-address": "10.0.0.1",
    "x-envoy-downstream-service-cluster": "rampgate",
    "x-envoy-downstream-service-node": "gateway",
    "x-envoy-attempt-count": "7",
    "x-envoy-force-trace": "true",
    "x-envoy-nobody-has-heard-of": "it",
    "knative-serving-revision": "victim-00002",
    "knative-serving-namespace": "default",
    "k-network-probe": "queue",
    "k-proxy-request": "activator",
}


@pytest.mark.parametrize("header", STEERING)
def test_no_header_of_a_caller_steers_the_gateway_or_reaches_a_predictor(
    arena: EmbeddedArena, header: str
) -> None:
    before = len(seen(arena))
    sent = {header: STEERING[header], "x-unit-id": "attacker"}
    ways = [sent, sent, sent, {**sent, "x-forwarded-for": "10.0.0.1"}]
    with httpx.Client(trust_env=False, timeout=5, verify=certificates()) as attacker:
        answers = [attacker.post(url(arena), json={}, headers=way).status_code for way in ways]
    ordinary = Ordinary(arena)
    ordinary.send(2)
    ordinary.require_served()
    assert answers == [200] * 4
    arrived = seen(arena)[before:]
    assert len(arrived) == 6, "each once"
    assert not [each for each in arrived if each.get(header) == STEERING[header]]
    backend = arena.backend._gateway.admin.stats(
        r"victim-00001\.outlier_detection\.ejections_enforced_total$"
    )
    assert list(backend.counters.values()) == [0], "the champion was ejected"


@pytest.mark.parametrize("header", ["x-unit-id", "x-request-id"])
def test_an_id_longer_than_256_bytes_is_refused_by_the_gateway(arena: EmbeddedArena, header: str) -> None:
    before = len(seen(arena))
    for length, expected in ((MOST_ID_BYTES, 200), (MOST_ID_BYTES + 1, 400), (9_000, 400)):
        answer = httpx.post(url(arena), json={}, headers={header: "u" * length}, trust_env=False)
        assert answer.status_code == expected
    assert answer.json() == {"error": f"{header} has more than 256 bytes"}
    assert len(seen(arena)) == before + 1, "no predictor was asked"


def test_of_several_unit_ids_the_first_counts_and_an_empty_request_id_is_none(arena: EmbeddedArena) -> None:
    headers = [("x-unit-id", "one"), ("x-request-id", ""), ("x-unit-id", "two")]
    answer = httpx.post(url(arena), json={}, headers=headers, trust_env=False)
    arrived = seen(arena)[-1]
    assert arrived["x-unit-id"] == "one"
    assert len(arrived["x-request-id"]) > 10
    assert answer.headers["x-request-id"] == arrived["x-request-id"]


def test_more_headers_than_anybody_needs_are_refused(arena: EmbeddedArena) -> None:
    many = [(f"x-{number}", "v") for number in range(150)]
    for headers in ([("x-long", "v" * 20_000)], many):
        assert httpx.post(url(arena), json={}, headers=headers, trust_env=False).status_code == 431


# --- Slow and large ----------------------------------------------------------------------------------------------
START = b"POST /v2/models/victim/infer HTTP/1.1\r\nhost: h\r\n"

HALF_SENT = {
    "nothing": b"",
    "half a line": b"POST /v2",
    "half of the headers": START,
    "half of the body": START + b"content-length: 1000\r\n\r\n{",
    "half of the chunks": START + b"transfer-encoding: chunked\r\n\r\n5\r\n{    \r\n",
    "a body in drips": START + b"content-length: 1000\r\n\r\n",
    "headers in drips": START,
    "an idle connection": START + b"content-length: 2\r\n\r\n{}",
}

DRIPS = {"a body in drips": b" ", "headers in drips": b"a: b\r\n"}


@contextmanager
def sockets(arena: EmbeddedArena, number: int) -> Iterator[list[socket.socket]]:
    """Connections to the gateway that nobody waits for."""
    place = (HOST, arena.settings.ports.gateway)
    opened = [socket.create_connection(place, timeout=10) for _ in range(number)]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


def send_what_goes(connection: socket.socket, content: bytes) -> int:
    """How much of it was taken at once; nothing by a connection that was closed."""
    connection.setblocking(False)
    try:
        return connection.send(content)
    except OSError:
        return 0


def test_540_half_sent_requests_hold_up_nobody(arena: EmbeddedArena) -> None:
    ordinary = Ordinary(arena)
    with sockets(arena, 540) as opened:
        attack = list(zip(opened, itertools.cycle(HALF_SENT), strict=False))
        for connection, kind in attack:
            connection.sendall(HALF_SENT[kind])

        def drip() -> None:
            time.sleep(0.2)
            for connection, kind in attack:
                if kind in DRIPS:
                    send_what_goes(connection, DRIPS[kind])

        with ordinary.meanwhile(4, 40, drip):
            ordinary.require_served()


def padded(length: int) -> bytes:
    """A request of so many bytes."""
    return b'{"inputs": []' + b" " * (length - 14) + b"}"


def test_a_body_above_8_mib_is_refused_however_it_is_sent(arena: EmbeddedArena) -> None:
    with httpx.Client(trust_env=False, timeout=20, verify=certificates()) as client:
        assert client.post(url(arena), content=padded(MOST_BODY_BYTES)).status_code == 200
        assert client.post(url(arena), content=padded(MOST_BODY_BYTES + 1)).status_code == 413
        chunks = (b" " * 1_000_000 for _ in range(150))
        assert client.post(url(arena), content=chunks).status_code == 413
    ordinary = Ordinary(arena)
    ordinary.send(5)
    ordinary.require_served()


def memory_mib(pid: int) -> int:
    (line,) = [each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmRSS" in each]
    return int(line.split()[1]) // 1024


def test_large_requests_that_never_end_take_neither_the_memory_nor_the_time_of_others(
    arena: EmbeddedArena,
) -> None:
    ordinary, pid = Ordinary(arena), gateway_pid(arena.settings)
    before, began = memory_mib(pid), time.monotonic()
    with sockets(arena, 300) as opened:
        for connection in opened:
            connection.sendall(START + b"content-length: %d\r\n\r\n" % MOST_BODY_BYTES)

        def push() -> None:
            for connection in opened[:100]:
                send_what_goes(connection, b"x" * 500_000)
            time.sleep(0.1)

        with ordinary.meanwhile(2, 40, push):
            taken = memory_mib(pid) - before
        ordinary.require_served()
    assert taken < 64 + 32 * (time.monotonic() - began), "large requests are read at 32 MiB/s together"


@pytest.mark.faults
def test_a_request_that_does_not_come_is_given_up(arena: EmbeddedArena) -> None:
    given_up = [kind for kind in HALF_SENT if kind not in ("nothing", "an idle connection")]
    with sockets(arena, len(given_up)) as opened:
        waiting = dict(zip(opened, given_up, strict=True))
        for connection, kind in waiting.items():
            connection.sendall(HALF_SENT[kind])
        began = time.monotonic()
        while waiting:
            assert time.monotonic() < began + 15, waiting.values()
            time.sleep(0.2)
            for connection, kind in waiting.items():
                send_what_goes(connection, DRIPS.get(kind, b""))
            for connection in select.select(list(waiting), [], [], 0)[0]:
                kind = waiting.pop(connection)
                assert b" 408 " in connection.recv(1000), kind


@pytest.mark.faults
def test_an_answer_may_take_longer_than_a_request(arena: EmbeddedArena) -> None:
    patient = EmbeddedArena(arena.settings, service="patient", replicas=1)
    patient.models["patient"]["spec"]["predictor"]["timeout"] = 30
    establish(patient, "1", delay=11)
    answer = httpx.post(url(arena).replace("victim", "patient"), json={}, timeout=20, trust_env=False)
    assert answer.status_code == 200
    patient.retire()


# --- The admin interface, the log --------------------------------------------------------------------------------
def listens(pid: int) -> set[int]:
    """TCP ports that a process listens on."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    ports = {f"socket:[{row[9]}]": int(row[1].partition(":")[2], 16) for row in rows if row[3] == "0A"}
    files = {_target(each) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return {port for inode, port in ports.items() if inode in files}


def _target(descriptor: Path) -> str:
    with suppress(FileNotFoundError):  # closed since it was listed
        return str(descriptor.readlink())
    return ""


def test_the_admin_interface_is_a_socket_of_the_owner_alone(arena: EmbeddedArena) -> None:
    assert listens(gateway_pid(arena.settings)) == {arena.settings.ports.gateway}
    admin = gateway_of(arena.settings).admin
    assert (admin.stat().st_mode & 0o777, admin.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    for path in ("/config_dump", "/stats", "/quitquitquit", "/drain_listeners"):
        answer = httpx.post(f"http://{HOST}:{arena.settings.ports.gateway}{path}", trust_env=False)
        assert answer.status_code == 404


def test_the_access_log_is_turned_over_and_what_callers_write_into_it_is_bounded(
    arena: EmbeddedArena,
) -> None:
    log = gateway_of(arena.settings).access_log
    watch = Watch(supervisor=Supervisor(Layout(arena.settings.home).socket))
    former = log.with_name(f"{log.name}.1")

    def lines(file: Path, request_id: str) -> list[str]:
        text = file.read_text() if file.exists() else ""
        return [line for line in text.splitlines() if f'"{request_id}"' in line]

    headers = {"x-request-id": "first", "x-envoy-original-path": "/forged"}
    httpx.post(f"{url(arena)}?{'p' * 9_000}", json={}, headers=headers, trust_env=False)
    assert wait_until(lambda: bool(lines(log, "first")), seconds=10)
    truncate(log, MOST_LOG_BYTES)  # as if by many more requests
    one_round(arena.settings, watch, [])
    httpx.post(url(arena), json={}, headers={"x-request-id": "second"}, trust_env=False)
    assert wait_until(lambda: bool(lines(log, "second")), seconds=10)
    one_round(arena.settings, watch, [])
    ((line,), [], (_,)) = (lines(former, "first"), lines(log, "first"), lines(log, "second"))
    assert json.loads(line)["path"].startswith("/v2/models/victim/infer?ppp")
    assert len(line) < 2_000


def test_a_gateway_whose_listeners_are_closed_is_trouble_and_is_started_again(arena: EmbeddedArena) -> None:
    settings = arena.settings
    (part,) = [each for each in parts(settings) if each.name == "gateway"]
    assert trouble(settings, part) == ""
    through = httpx.HTTPTransport(uds=str(gateway_of(settings).admin))
    with httpx.Client(transport=through) as owner:
        assert owner.post("http://gateway/drain_listeners").is_success
    assert wait_until(lambda: "does not answer" in trouble(settings, part), seconds=5)
    clock = itertools.count(0, 20).__next__
    watch = Watch(supervisor=Supervisor(Layout(settings.home).socket), clock=clock, every=20)
    said: list[str] = []

    def looked() -> bool:
        said.extend(watch.look([part]))
        return bool(said)

    assert wait_until(looked, seconds=10)
    assert "gateway has not worked" in said[0]
    assert wait_until(lambda: trouble(settings, part) == "", seconds=20)
    assert arena.send("u").status == 200


def trouble(settings: Settings, part: Part) -> str:
    """What `make status` says of it."""
    return status(settings, [part])[0].trouble
