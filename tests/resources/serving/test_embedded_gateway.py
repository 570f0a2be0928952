"""What clients see through the embedded gateway while things go wrong."""

import json
import os
import signal
import time
from collections.abc import Callable

import httpx
import pytest

from pipelines.errors import NotMeasured, ServingError
from resources.certificates import certificates
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.ports import is_free
from resources.serving.embedded.supervisor import Supervisor
from tests.conformance.arena import EmbeddedArena

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


def test_answers_name_their_revision_and_request(arena: EmbeddedArena) -> None:
    answer = arena.send("u", x_request_id="mine")
    assert (answer.revision, answer.request_id) == (f"{arena.service}-00001", "mine")
    assert arena.send("u").request_id


def test_the_shadow_gets_marked_copies_that_reach_nobody(arena: EmbeddedArena) -> None:
    failing = arena.artefact("2", status=500)
    status = arena.backend.deploy_canary(arena.service, failing, percent=0, salt="s", mirror=True)
    assert status.mirror
    answers = {(answer.status, answer.version) for answer in map(arena.send, UNITS)}
    assert answers == {(200, "1")}
    eventually(lambda: len(seen_by(arena, "2")) == len(UNITS))
    assert {copy["x-assignment"] for copy in seen_by(arena, "2")} == {"shadow"}
    canary = arena.backend.counters(arena.service).revisions[1]
    assert (canary.requests, canary.errors) == (len(UNITS), len(UNITS))
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
        assert (canary.requests, canary.errors) == (1, 1)
    finally:
        os.kill(pid, signal.SIGCONT)


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
    eventually(lambda: not is_free(arena.settings.ports.gateway))  # its admin port answers a moment earlier
    assert [arena.send(unit).version for unit in UNITS] == before
    again = arena.backend.counters(arena.service)
    assert again.epoch != counted.epoch
    assert sum(each.requests for each in again.revisions) == len(UNITS)


def test_counters_keep_their_epoch_while_a_rollout_runs(arena: EmbeddedArena) -> None:
    arena.send("u")
    first = arena.backend.counters(arena.service)
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=10, salt="s")
    arena.backend.set_canary_percent(arena.service, "2", 50)
    second = arena.backend.counters(arena.service)
    assert second.epoch == first.epoch
    assert second.revisions[0].requests == 1
    arena.backend.promote(arena.service, "2")
    assert arena.backend.counters(arena.service).epoch != first.epoch


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
