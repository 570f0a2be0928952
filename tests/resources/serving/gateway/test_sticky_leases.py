"""The leases of a cluster's gateway: what a sidecar takes away by itself, and how it is told that somebody watches."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.core.errors import NotMeasured, ServingError
from resources.serving.contract import Lapse
from resources.serving.embedded.supervisor import wait_until
from resources.serving.gateway import leases as leases_module
from resources.serving.gateway.leases import PodLeases, telling
from resources.serving.gateway.sidecar import Sidecar
from resources.serving.kserve.assignment import Assignment, decode
from resources.serving.kserve.gateways import Gateways
from resources.serving.lease import Keeper
from resources.settings import certificates
from tests.conformance.arena import SHORT_LEASE, establish
from tests.conformance.kserve_arena import StickyArena
from tests.conformance.sticky_gateway import TOKEN, StickyGateway, running, sticky_gateway
from tests.resources.serving.gateway.test_sticky_gateway import _Both as Both
from tests.support.ports import free_base

UNITS = [f"unit-{number}" for number in range(20)]


@pytest.fixture(scope="module")
def gateway() -> Iterator[StickyGateway]:
    with sticky_gateway("Standard") as made:
        yield made


@pytest.fixture(scope="module")
def one(gateway: StickyGateway) -> Iterator[StickyArena]:
    arena = StickyArena(gateway.fake, "leased", gateway=gateway)
    establish(arena, "1")
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s")
    yield arena
    arena.client.close()


@pytest.fixture
def arena(one: StickyArena) -> StickyArena:
    """Version 1 stable, version 2 with half of the units, for as long as nobody keeps leases."""
    one.backend.set_canary_percent(one.service, "2", 50)
    return one


def sidecar(arena: StickyArena) -> Sidecar:
    assert arena.gateway.sidecar is not None
    return arena.gateway.sidecar


def canaries(arena: StickyArena) -> int:
    return sum(arena.send(unit).version == "2" for unit in UNITS)


def lapse(arena: StickyArena) -> Lapse:
    with arena.keeping_leases():
        assert wait_until(lambda: arena.backend.status(arena.service).lapse is not None, seconds=30)
    found = arena.backend.status(arena.service).lapse
    assert found is not None
    return found


def post(
    arena: StickyArena, path: str, content: bytes = b"", *, token: str = TOKEN, **headers: str
) -> httpx.Response:
    return httpx.post(
        f"{arena.gateway.gateways.control}{path}",
        content=content,
        headers={"Authorization": f"Bearer {token}", **headers},
        trust_env=False,
        verify=certificates(),
    )


def test_a_command_without_the_token_or_in_another_shape_renews_nothing(arena: StickyArena) -> None:
    before = dict(sidecar(arena).leases._renewals)
    path, good = f"/renew/{arena.service}", json.dumps({"version": "2"}).encode()
    answers = {
        "another token": post(arena, path, good, token="guess"),
        "another service": post(arena, "/renew/nobody", good),
        "another path": post(arena, f"/splits/{arena.service}", good),
        "no JSON": post(arena, path, b"version=2"),
        "no object": post(arena, path, b"[2]"),
        "no version": post(arena, path, b"{}"),
        "a number": post(arena, path, b'{"version": 2}'),
        "nothing": post(arena, path),
        "too much": post(arena, path, b" " * 100_000 + good),
    }
    said = {name: answer.status_code for name, answer in answers.items()}
    assert said == {
        "another token": 401,
        "another service": 404,
        "another path": 404,
        "no JSON": 400,
        "no object": 400,
        "no version": 400,
        "a number": 400,
        "nothing": 400,
        "too much": 413,
    }
    assert "version == 2, must be a string" in answers["a number"].text
    assert dict(sidecar(arena).leases._renewals) == before
    assert post(arena, path, good).json() == {"lapse": None}
    assert sidecar(arena).leases._renewals[arena.service] == before.get(arena.service, 0) + 1
    assert httpx.get(arena.gateway.gateways.control + "/healthz", trust_env=False).status_code == 200


def test_a_pod_that_was_not_told_is_an_error_and_a_service_that_no_pod_routes_has_nothing_to_lapse(
    arena: StickyArena,
) -> None:
    gateways = arena.gateway.gateways
    assert gateways.renew("nobody", "1") is None
    for silent, said in (
        (replace(gateways, token="guess"), "401: a token is needed"),
        (Gateways(control="http://127.0.0.1:1", traffic="http://127.0.0.1:1"), "127.0.0.1:1/renew"),
        (Gateways(control="http://nowhere.invalid:1", traffic=""), "no pod answers to this name"),
    ):
        with pytest.raises(ServingError, match=said):
            silent.renew(arena.service, "2")


def test_every_pod_is_told_and_one_that_has_taken_the_share_away_is_enough_for_a_lapse(
    arena: StickyArena, tmp_path: Path
) -> None:
    here = arena.gateway.gateways
    second = StickyGateway(arena.fake, tmp_path, free_base(3), predictors=arena.gateway.predictors)
    with running(second) as other:
        both = Both(control=here.control, traffic=here.traffic, token=TOKEN, other=second.gateways)
        backend: Any = replace(arena.backend, gateways=both)  # type: ignore[type-var]
        backend.set_canary_percent(arena.service, "2", 50)
        assert backend.renew(arena.service, "2") is None
        assert other.leases._renewals[arena.service] == 1
        lapsed = lapse(arena)
        assert backend.renew(arena.service, "2") == lapsed
        assert backend.status(arena.service).lapse == lapsed
        assert backend.status(arena.service).canary.percent == 50, "the other pod gives it"
        with pytest.raises(ServingError, match="has 0 %, not the expected 50 %"):
            backend.set_canary_percent(arena.service, "2", 60, expected=50)
        given = backend.set_canary_percent(arena.service, "2", 50, expected=0)
        assert (given.lapse, given.canary.percent, backend.renew(arena.service, "2")) == (None, 50, None)
    with pytest.raises(ServingError, match=str(second.ports + 2)):
        backend.renew(arena.service, "2")
    lapsed = lapse(arena)
    assert backend.renew(arena.service, "2") == lapsed, (
        "what is known of one pod is said though another is silent"
    )


def test_a_lapsed_pod_is_not_waited_for_and_who_gave_the_share_is_told(arena: StickyArena) -> None:
    lapse(arena)
    began = time.monotonic()
    assert arena.backend.roll_back(arena.service, "9").lapse is not None, (
        "nothing to be done, and nothing to wait for"
    )
    with pytest.raises(ServingError, match="version 2 had 50 %, which was taken away at"):
        arena.backend._given(arena.service)  # type: ignore[attr-defined]
    assert time.monotonic() - began < 5
    assert canaries(arena) == 0


def test_a_promotion_that_breaks_off_begins_no_lease_of_a_version_that_bakes(
    arena: StickyArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead watcher must not undo it, and neither must a controller that died in the middle of it."""

    def breaks_off(*_: Any, **__: Any) -> None:
        raise ServingError("no answer")

    arena.backend.set_canary_percent(arena.service, "2", 98, leased=False)
    monkeypatch.setattr(type(arena.backend.kserve), "promote", breaks_off)
    with pytest.raises(ServingError, match="no answer"):
        arena.backend.promote(arena.service, "2", replacing="1")
    with arena.keeping_leases():
        time.sleep(2 * SHORT_LEASE.total_seconds())
        assert arena.backend.status(arena.service).lapse is None
    assert canaries(arena) == len(UNITS)


def test_what_has_lapsed_stays_so_in_a_sidecar_that_starts_again_and_without_the_cluster_too(
    arena: StickyArena,
) -> None:
    """The Envoy beside it keeps running; the API server does not answer for a while."""
    lapsed = lapse(arena)
    old = sidecar(arena)
    again = PodLeases(old.leases.memory)
    assert again.lapsed() == old.leases.lapsed() != {}
    assert again.renew(arena.service, "2") == lapsed
    assert again.look(old.follower.assignments(), old.follower.leased()) == {}
    assert again.applied(old.follower.splits())[arena.service].weight == 0
    arena.backend.set_canary_percent(arena.service, "2", 50)
    assert wait_until(lambda: arena.service in old.leases._shares and not old.leases.lapsed(), seconds=10)
    now = 0.0
    alone = PodLeases(old.leases.memory, Keeper(lease=SHORT_LEASE, clock=lambda: now))
    assert alone.look_alone() == {}
    now = 0.9
    alone.renew(arena.service, "2")
    assert alone.look_alone() == {}
    now = 2.0
    assert set(alone.look_alone()) == {arena.service}
    assert canaries(arena) > 0
    old.publisher.take_away({arena.service})
    assert canaries(arena) == 0


@pytest.mark.parametrize("content", ["{", "[]", '{"shares": {"m": "50 %"}, "lapsed": {}}', '{"shares": {}}'])
def test_a_memory_that_cannot_be_read_stops_no_sidecar(tmp_path: Path, content: str) -> None:
    memory = tmp_path / "leases.json"
    memory.write_text(content)
    assert PodLeases(memory).lapsed() == {}


def test_an_assignment_that_is_hidden_for_a_while_keeps_its_lapse(tmp_path: Path) -> None:
    """A canary that the cluster does not show for a moment must not come back with a lease of its own."""
    now, share = 0.0, Assignment(revision="m-v2", version="2", percent=10.0, salt="s", command=3)
    pod = PodLeases(tmp_path / "leases.json", Keeper(lease=SHORT_LEASE, clock=lambda: now))
    assert pod.look({"m": share}, {"m"}) == {}
    for moment in (1.0, 2.0):
        now = moment
        pod.look({"m": share}, {"m"})
    assert set(pod.lapsed()) == {"m"}
    pod.look({"m": share}, set())
    assert pod.lapsed() == {}
    pod.look({"m": share}, {"m"})
    assert set(pod.lapsed()) == {"m"}
    pod.look({"m": replace(share, command=4)}, {"m"})
    assert pod.lapsed() == {}


def test_an_assignment_is_written_as_earlier_releases_read_it_unless_it_has_no_lease() -> None:
    """A pod of an earlier release refuses what it does not know, and would not follow the brake."""
    share = Assignment(revision="m-v2", version="2", percent=10.0, salt="s", command=3)
    assert "leased" not in share.encode()
    assert decode("m", share.encode()) == share
    assert decode("m", replace(share, leased=False).encode()).leased is False


class Old(BaseHTTPRequestHandler):
    """The control port of a pod of a release that keeps no leases, and of one that is silent."""

    silent = False

    def do_GET(self) -> None:
        body = b'{"splits": {}, "waiting": {}}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_pod_of_an_earlier_release_keeps_no_lease_and_is_no_error(arena: StickyArena) -> None:
    with HTTPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        old = Gateways(control=f"http://127.0.0.1:{server.server_port}", traffic="http://unused")
        backend: Any = replace(arena.backend, gateways=old)  # type: ignore[type-var]
        can = backend.capabilities(arena.service)
        assert (can.sticky, can.lease, backend.renew(arena.service, "2")) == (True, False, None)
        server.shutdown()
    assert arena.backend.capabilities(arena.service).lease


def test_a_silent_pod_is_waited_for_once_and_not_once_for_each_model() -> None:
    """The watch over thirty models would wait a minute, and their leases at the other pods would run out."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        gateways = Gateways(control=f"http://127.0.0.1:{port}", traffic="", timeout=0.5)
        began = time.monotonic()
        for number in range(30):
            with pytest.raises(NotMeasured, match="silent|timed out"):
                gateways.counters(f"m{number}")
            with pytest.raises(ServingError, match="silent|timed out"):
                gateways.renew(f"m{number}", "1")
        assert time.monotonic() - began < 2
        time.sleep(0.6)
        with pytest.raises(ServingError, match="timed out"):
            gateways.renew("m", "1")


def test_a_lapse_is_told_to_every_channel_of_the_pod_until_it_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from resources import notifier

    monkeypatch.setattr(leases_module, "AGAIN_SECONDS", 0.0)
    told: list[tuple[str, str]] = []
    refused = ["json://one"]

    def send(alert: Any, urls: tuple[str, ...]) -> tuple[str, ...]:
        told.extend((url, f"{alert.severity}: {alert.title}: {alert.body}") for url in urls)
        return tuple(refused.pop() for _ in refused[:1])

    monkeypatch.setattr(notifier, "send", send)
    lapsed = PodLeases(Path("/nowhere"))._lapse(
        Assignment(revision="m-v2", version="2", percent=10.0, salt="s")
    )
    telling(("json://one", "json://two"))("m", lapsed)
    assert wait_until(lambda: len(told) == 3, seconds=30)
    assert [url for url, _ in told] == ["json://one", "json://two", "json://one"]
    assert told[0][1].startswith(
        "critical: m version 2: nobody watched its share, so it was taken away: gateway "
    )
    telling(())("m", lapsed)
