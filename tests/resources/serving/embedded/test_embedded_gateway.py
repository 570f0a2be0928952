"""What clients see through the embedded gateway while things go wrong."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import xxhash

from pipelines.core.errors import NotMeasured, ServingError, VersionFailed
from pipelines.rollouts.counting import by_version, first_watermark, growth
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import ANSWERED
from resources.registry.signature import Column, ModelSchema
from resources.serving.embedded.layout import Layout, is_free
from resources.serving.embedded.supervisor import Supervisor
from resources.settings import HOST, Settings, certificates
from tests.conformance.arena import EmbeddedArena, establish
from tests.support.light_platform import logging_command
from tests.support.memory_systems import asked_at

UNITS = [f"u{number}" for number in range(60)]


def eventually(holds: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.05)


def seen_by(arena: EmbeddedArena, version: str) -> list[dict[str, str]]:
    """Headers of the requests that reached a version's first replica."""
    ports = json.loads((arena.settings.home / "serving" / f"{arena.service}.json").read_text())
    revisions = [ports["stable"], (ports["canary"] or {}).get("revision")]
    (port,) = [each["ports"][0] for each in revisions if each and each["version"] == version]
    return httpx.get(f"http://127.0.0.1:{port}/seen", trust_env=False, verify=certificates()).json()["seen"]


def test_a_client_cannot_choose_its_revision(arena: EmbeddedArena) -> None:
    canary = arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s").canary
    assert canary is not None
    for token in ({}, {"x_probe_token": "guess"}):
        assert arena.send("u", x_model_revision=canary.name, **token).version == "1"
    last = seen_by(arena, "1")[-1]
    assert "x-model-revision" not in last
    assert "x-probe-token" not in last


def test_a_client_cannot_forge_its_assignment(arena: EmbeddedArena) -> None:
    arena.send("u", x_assignment="pinned")
    assert seen_by(arena, "1")[-1]["x-assignment"] == "weighted"


def test_a_probe_is_marked_and_its_token_stays_in_the_gateway(arena: EmbeddedArena) -> None:
    arena.backend.predict(arena.service, "1", {"inputs": []})
    last = seen_by(arena, "1")[-1]
    assert last["x-assignment"] == "pinned"
    assert "x-probe-token" not in last


def test_units_of_any_bytes_go_where_their_bytes_say_and_an_empty_one_is_none(arena: EmbeddedArena) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    odd = (b"Zo\xc3\xab", b"Zo\xeb", b"a,b", b"\\1", b"\xff" * 255)
    for unit in (unit + str(number).encode() for unit in odd for number in range(6)):
        belongs = xxhash.xxh64(b"s:" + unit).intdigest() % 10_000 < 5000
        assert served(arena, b"x-unit-id: " + unit) == ("2" if belongs else "1"), unit[:20]
        assert served(arena, b"x-unit-id: " + unit, b"x-unit-id: other") == ("2" if belongs else "1")
    for empty in (b"x-unit-id:", b"x-unit-id: \t "):
        assert {served(arena, empty) for _ in range(40)} == {"1", "2"}, "at random, not as one unit"
    assert "x-unit-id" not in seen_by(arena, "1")[-1]


def served(arena: EmbeddedArena, *headers: bytes) -> str:
    """The version that answers a request with these header lines."""
    body = b'{"inputs": []}'
    start = f"POST /v2/models/{arena.service}/infer HTTP/1.1".encode()
    lines = (start, b"host: h", b"connection: close", b"content-length: %d" % len(body), *headers, b"", body)
    answer = b""
    with socket.create_connection((HOST, arena.settings.ports.gateway), timeout=10) as connection:
        connection.sendall(b"\r\n".join(lines))
        while chunk := connection.recv(65536):
            answer += chunk
    return json.loads(answer.partition(b"\r\n\r\n")[2])["model_version"]


def test_each_call_has_an_id_of_its_own_whatever_callers_name_it(arena: EmbeddedArena) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2", status=500), percent=100, salt="s")
    for _ in range(3):
        arena.send("u", x_request_id="batch", x_call_id="forged", ce_id="forged")
    attempts = [seen_by(arena, version) for version in ("1", "2")]
    calls = [[each["x-call-id"] for each in seen if each.get("x-request-id") == "batch"] for seen in attempts]
    assert calls[0] == calls[1], "both attempts at a call are the same call"
    assert len(set(calls[0])) == 3
    assert "forged" not in calls[0]
    assert not any("ce-id" in each for seen in attempts for each in seen)


def test_answers_name_their_request_and_to_who_has_the_token_their_revision(arena: EmbeddedArena) -> None:
    token = Layout(arena.settings.home).probe_token()
    answer = arena.send("u", x_request_id="mine", x_probe_token=token)
    assert (answer.revision, answer.request_id) == (f"{arena.service}-00001", "mine")
    assert arena.send("u").request_id


@pytest.mark.parametrize("refused", [500, 400])
def test_the_shadow_gets_marked_copies_that_reach_nobody(arena: EmbeddedArena, refused: int) -> None:
    failing = arena.artefact("2", status=refused)
    status = arena.backend.deploy_canary(arena.service, failing, percent=0, salt="s", mirror=True)
    assert status.mirror
    answers = {(answer.status, answer.version) for answer in map(arena.send, UNITS)}
    assert answers == {(200, "1")}
    eventually(lambda: len(seen_by(arena, "2")) == len(UNITS))
    assert {copy["x-assignment"] for copy in seen_by(arena, "2")} == {"shadow"}
    copied = {copy["x-call-id"] for copy in seen_by(arena, "2")}
    assert copied == {each["x-call-id"] for each in seen_by(arena, "1")[-len(UNITS) :]}
    canary = arena.backend.counters(arena.service).revisions[1]
    assert (canary.requests, canary.errors) == (len(UNITS), len(UNITS))
    assert canary.faults == (len(UNITS) if refused == 500 else 0)
    assert not arena.backend.set_canary_percent(arena.service, "2", 0).mirror


def test_a_dead_canary_harms_nobody_and_its_requests_count_as_its_errors(arena: EmbeddedArena) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=100, salt="s")
    for pid in pids(arena, f"{arena.service}-00002."):
        os.kill(pid, signal.SIGKILL)
    assert {arena.send(unit).status for unit in UNITS[:20]} == {200}
    by_stable = len([1 for unit in UNITS if arena.send(unit).version == "1"])
    canary = arena.backend.counters(arena.service).revisions[1]
    assert canary.requests == len(UNITS) + 20
    assert by_stable <= canary.errors <= by_stable + 20


def test_a_hung_canary_is_bypassed_and_counted(arena: EmbeddedArena) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=100, salt="s")
    (pid,) = pids(arena, f"{arena.service}-00002.")
    os.kill(pid, signal.SIGSTOP)
    try:
        assert arena.send("u").status == 200
        canary = arena.backend.counters(arena.service).revisions[1]
        assert (canary.requests, canary.errors, canary.faults) == (1, 1, 1)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_caller_who_hangs_up_is_an_error_of_whom_they_waited_for_and_nobodys_fault(
    arena: EmbeddedArena,
) -> None:
    """A canary that hangs must not go unseen because its callers are impatient."""
    arena.backend.deploy_canary(arena.service, arena.artefact("2", delay=0.4), percent=100, salt="s")
    url = f"http://{HOST}:{arena.settings.ports.gateway}/v2/models/{arena.service}/infer"
    for _ in range(3):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json={"inputs": []}, timeout=0.2, trust_env=False, verify=certificates())
    assert arena.send("u").status == 200
    eventually(lambda: arena.backend.counters(arena.service).revisions[1].requests == 4)
    stable, canary = arena.backend.counters(arena.service).revisions
    assert (canary.requests, canary.errors, canary.faults) == (4, 3, 0)
    assert (stable.requests, stable.errors) == (0, 0)


@pytest.fixture
def logging_arena(gateway: Settings) -> Iterator[EmbeddedArena]:
    """Version 1 answers as `x-please` says, and writes the prediction log."""
    arena = EmbeddedArena(gateway, service="logging", replicas=1, command=logging_command, start_seconds=60)
    establish(arena, "1", obeys=True, log=True)
    yield arena
    arena.retire()


def test_the_gateway_and_the_lake_agree_on_what_an_error_is(
    logging_arena: EmbeddedArena, tmp_path: Path
) -> None:
    arena, log = logging_arena, logging_arena.settings.prediction_log / "logging"
    statuses = ("200", "204", "301", "304", "400", "404", "413", "422", "429", "500", "503", "600", "999")
    for status in statuses:
        arena.send(x_please=status)
    counted = arena.backend.counters("logging").revisions[0]
    lake = Lake(f"sqlite:{tmp_path}/catalog.db", str(tmp_path / "data"), tmp_path)
    schema = ModelSchema((Column("distance", "double"),), (Column("version", "string"),))

    def logged() -> list[tuple[int, bool]]:
        ingest_predictions(lake, "logging", schema, log)
        with lake.connect() as connection:
            return connection.execute(
                f'SELECT status, NOT ({ANSWERED}) FROM lake."logging".predictions ORDER BY requested_at'
            ).fetchall()

    failures = {int(status) for status in statuses} - {200, 204}
    # What failed is tried once more, on the same replica here: an answer of its own, and the same request.
    eventually(lambda: len(logged()) == len(statuses) + len(failures))
    failed = {status for status, error in logged() if error}
    assert failed == failures
    assert (counted.requests, counted.errors, counted.request_faults) == (len(statuses), 0, len(failed))


def test_after_a_killed_gateway_the_same_units_are_assigned_and_counters_start_anew(
    arena: EmbeddedArena,
) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    before = [arena.send(unit).version for unit in UNITS]
    counted = arena.backend.counters(arena.service)
    for pid in pids(arena, "gateway"):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(NotMeasured, match="gateway"):
        arena.backend.counters(arena.service)
    eventually(lambda: arena.backend.status(arena.service).canary.ready)  # type: ignore[union-attr]
    eventually(lambda: not is_free(arena.settings.ports.gateway))  # its admin socket answers a moment earlier
    assert [arena.send(unit).version for unit in UNITS] == before
    again = arena.backend.counters(arena.service)
    assert again.epoch != counted.epoch
    assert sum(each.requests for each in again.revisions) == len(UNITS)
    before = first_watermark(asked_at(counted, counted.at - timedelta(seconds=3)))  # Envoy tells seconds
    grown = by_version(growth(before, again))
    assert sum(each.requests for each in grown.values()) == len(UNITS), "it began since, and counts whole"


def test_a_dead_gateway_is_named(arena: EmbeddedArena) -> None:
    supervisor = Supervisor(Layout(arena.settings.home).socket)
    supervisor.stop("gateway", seconds=10)
    try:
        stable = arena.backend.status(arena.service).stable
        assert stable is not None
        assert not stable.ready
        assert "gateway does not answer" in stable.message
        with pytest.raises(ServingError, match="gateway"):
            arena.backend.predict(arena.service, "1", {"inputs": []})
    finally:
        supervisor.start("gateway")
    eventually(lambda: arena.backend.status(arena.service).stable.ready)  # type: ignore[union-attr]


def pids(arena: EmbeddedArena, prefix: str) -> list[int]:
    processes = Supervisor(Layout(arena.settings.home).socket).processes()
    return [process.pid for name, process in processes.items() if name.startswith(prefix) and process.pid]


@pytest.mark.parametrize(
    ("status", "own"), [(400, True), (422, True), (500, True), (404, False), (429, False), (503, False)]
)
def test_only_an_error_of_the_version_itself_is_about_the_version(
    arena: EmbeddedArena, status: int, own: bool
) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2", status=status), percent=0, salt="s")
    with pytest.raises(ServingError, match=str(status)) as error:
        arena.backend.predict(arena.service, "2", {"inputs": []})
    assert isinstance(error.value, VersionFailed) is own


def test_a_predictor_that_is_gone_could_not_be_asked(arena: EmbeddedArena) -> None:
    canary = arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s").canary
    assert canary is not None
    supervisor = Supervisor(Layout(arena.settings.home).socket)
    for name in supervisor.processes():
        if name.startswith(canary.name):
            supervisor.stop(name, seconds=10)
    with pytest.raises(ServingError) as error:
        arena.backend.predict(arena.service, "2", {"inputs": []})
    assert not isinstance(error.value, VersionFailed)
