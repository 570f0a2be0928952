"""Callers who want a rollout to end, or its harm to go unseen: real Envoy, real counters, the real watch."""

import itertools
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import xxhash

from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Evidence, OnFail
from pipelines.rollouts.guardrails import GuardrailWatch
from pipelines.rollouts.serving_metrics import REPEATED, REQUEST_FAULTS
from resources.serving.contract import RevisionCounters, since
from resources.serving.embedded.layout import Layout
from resources.serving.envoy.bootstrap import PATIENCE_MS
from resources.settings import HOST, certificates
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone
from tests.support.rollouts import Rig, manifest

SALT, PERCENT = "deny", 10

BAD = "400"
"""What both versions answer to a null feature; `400@2`: the new version alone does."""

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Service:
    """Version 1, and version 2 with a tenth of the units; both answer as they are told."""

    arena: EmbeddedArena

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.arena.settings.ports.gateway}/v2/models/{self.arena.service}"

    def units(self, count: int, *, canary: bool) -> list[str]:
        """Units of one side that were never seen before, as an attacker finds them out who is told who answers."""
        names = (f"unit-{number}" for number in _numbers)
        mine = (each for each in names if belongs_to_canary(each) is canary)
        return list(itertools.islice(mine, count))

    def ask(self, unit: str, please: str = "200", *, times: int = 1) -> set[int]:
        """Statuses that the caller got."""
        return {self.arena.send(unit, x_please=please).status for _ in range(times)}

    def ordinary(self, count: int, *, please: str = "200") -> None:
        """Ordinary callers, one in ten of them at the canary."""
        for unit in self.units(count - count // 10, canary=False) + self.units(count // 10, canary=True):
            assert self.ask(unit, please) == {200}

    def await_canary(self) -> None:
        """A replica that broke connections gets none for some seconds: its units are answered by the champion."""
        (unit,), deadline = self.units(1, canary=True), time.monotonic() + 15
        while self.arena.send(unit).version != "2":
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def counters(self) -> tuple[RevisionCounters, RevisionCounters]:
        stable, canary = self.arena.backend.counters(self.arena.service).revisions
        return stable, canary


def belongs_to_canary(unit: str) -> bool:
    return xxhash.xxh64(f"{SALT}:{unit}".encode()).intdigest() % 10_000 < PERCENT * 100


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with gateway_alone() as settings:
        arena = EmbeddedArena(settings, service="attacked", replicas=1)
        establish(arena, "1", obeys=True)
        artefact = arena.artefact("2", obeys=True)
        arena.backend.deploy_canary(arena.service, artefact, percent=PERCENT, salt=SALT)
        yield Service(arena)
        arena.retire()


Watch = Callable[[str], "Watched"]


@dataclass
class Watched:
    """The watch over one rollout, on the service's own counters."""

    service: Service
    watch: GuardrailWatch

    def look(self) -> dict[str, Evidence]:
        self.watch.observe(self.service.arena.backend.counters(self.service.arena.service))
        return {item.name: item for item in self.watch.evidence(datetime.now(UTC))}


@pytest.fixture
def watch(service: Service, tmp_path: Path) -> Iterator[Watch]:
    rig = Rig(tmp_path)
    ledger = rig.ledger
    state = replace(rig.controller(ledger=ledger).state(rig.start()), phase=Phase.STEPPING, percent=PERCENT)

    def begin(unit: str) -> Watched:
        service.await_canary()
        written = manifest()
        experiment = written.experiment.model_copy(update={"unit": unit})
        given = written.model_copy(update={"experiment": experiment})
        made = Watched(
            service,
            GuardrailWatch(store=ledger.counters, manifest=given, state=state, save_every=timedelta(0)),
        )
        assert made.look() == {}
        return made

    yield begin
    ledger.close()


@pytest.mark.parametrize("unit", ["request", "customer"])
@pytest.mark.parametrize("spoofed", [False, True])
def test_requests_that_the_champion_fails_as_well_are_their_own_fault_and_roll_nothing_back(
    service: Service, watch: Watch, unit: str, spoofed: bool
) -> None:
    """Ten units of the canary and 25 requests with a null; with another unit each time."""
    watched, before = watch(unit), service.counters()
    service.ordinary(40)
    chosen = service.units(25 if spoofed else 10, canary=True)
    for number in range(25):
        status = (BAD, "500", "503", "404", "301")[number % 5]
        assert service.ask(chosen[number % len(chosen)], status) == {int(status)}
    assert watched.look() == {}
    stable, canary = service.counters()
    assert canary.errors == before[1].errors
    assert canary.request_faults - before[1].request_faults == 25
    assert stable.request_faults == before[0].request_faults
    assert watched.watch.totals[REQUEST_FAULTS][:2] == (29, 25)
    assert watched.watch.totals["errors"][:2] == (4, 0)


@pytest.mark.parametrize("unit", ["request", "customer"])
@pytest.mark.parametrize("please", ["400@2", "500@2", "reset@2"])
def test_what_only_the_canary_fails_is_found_as_soon_amid_requests_that_both_sides_fail(
    service: Service, watch: Watch, unit: str, please: str
) -> None:
    rounds: list[int] = []
    for attacked in (False, True):
        watched = watch(unit)
        for number in itertools.count(1):
            service.ordinary(10, please=please)
            for each in service.units(5 if attacked else 0, canary=True):
                service.ask(each, BAD)
            if found := watched.look():
                break
            assert number < 20
        assert found["errors"].on_fail is OnFail.ROLL_BACK
        assert ("left out: " in found["errors"].reason) is attacked
        rounds.append(number)
    assert rounds[0] == rounds[1] <= 6


def test_one_unit_however_often_it_fails_holds_the_share_and_rolls_nothing_back(
    service: Service, watch: Watch
) -> None:
    watched = watch("customer")
    service.ordinary(40)
    (customer,) = service.units(1, canary=True)
    assert service.ask(customer, "400@2", times=40) == {200}, "the champion answers in the canary's place"
    found = watched.look()
    assert list(found) == ["errors" + REPEATED]
    assert found["errors" + REPEATED].on_fail is OnFail.HOLD
    assert watched.watch.totals["errors"][:2] == (5, 1), "it counts once"
    rolled_back = []
    for _ in range(6):  # one more of its units each time, beside nine of the champion's
        service.ordinary(10, please="400@2")
        rolled_back.append("errors" in watched.look())
    assert not rolled_back[0], "two units are few"
    assert rolled_back[-1], "several units are harm"


def test_one_unit_that_is_answered_well_does_not_thin_out_what_others_suffer(
    service: Service, watch: Watch
) -> None:
    watched = watch("customer")
    (friend,) = service.units(1, canary=True)
    service.ask(friend, times=200)
    service.ordinary(30, please="500@2")
    service.ordinary(30, please="500@2")
    found = watched.look()
    assert found["errors"].on_fail is OnFail.ROLL_BACK
    assert watched.watch.totals["errors"][:2] == (7, 6)


def test_requests_that_nobody_answers_do_not_thin_out_errors(service: Service, watch: Watch) -> None:
    watched = watch("request")
    for unit in service.units(10, canary=True):
        service.ask(unit, BAD, times=10)
    service.ordinary(60, please="500@2")
    assert watched.look()["errors"].on_fail is OnFail.ROLL_BACK
    assert watched.watch.totals["errors"][:2] == (6, 6)


def test_no_answer_that_a_caller_provokes_takes_a_replica_from_others(service: Service, watch: Watch) -> None:
    watched = watch("customer")
    for canary in (False, True):
        (unit,) = service.units(1, canary=canary)
        assert service.ask(unit, "503", times=6) == {503}
    service.ordinary(40)
    assert watched.look() == {}
    assert watched.watch.totals["errors"] == (4, 0, 36, 0)


def test_nobody_marks_its_own_requests_as_counted_already(service: Service) -> None:
    before = service.counters()[1]
    for unit in service.units(3, canary=True):
        service.arena.send(unit, x_please="500@2", x_unit_again="1", x_unit_new="0")
    grown = since(service.counters()[1], before)
    for each in (grown.first, grown.distinct):
        assert each is not None
        assert (each.requests, each.errors) == (3, 3)


def test_nobody_makes_a_unit_new_that_has_asked_before(service: Service) -> None:
    (unit,) = service.units(1, canary=True)
    service.arena.send(unit)
    before = service.counters()[1]
    for _ in range(3):
        service.arena.send(unit, x_please="500@2", x_unit_new="1")
    grown = since(service.counters()[1], before)
    assert grown.distinct is not None
    assert (grown.requests, grown.distinct.requests) == (3, 0)


def test_what_asks_for_no_prediction_counts_as_no_answer(service: Service) -> None:
    def counted() -> list[tuple[int, int, int]]:
        return [(each.requests, each.errors, each.request_faults) for each in service.counters()]

    before = counted()
    (unit,) = service.units(1, canary=True)
    with httpx.Client(trust_env=False, verify=certificates(), headers={"x-unit-id": unit}) as client:
        for method, path in itertools.product(("GET", "HEAD", "OPTIONS"), ("/infer", "/ready", "")):
            client.request(method, f"{service.url}{path}")
        client.get(f"http://{HOST}:{service.arena.settings.ports.gateway}/v2/health/ready")
    assert counted() == before


def test_callers_who_hang_up_at_once_say_nothing_of_the_canary(service: Service, watch: Watch) -> None:
    watched = watch("request")
    service.ordinary(20)
    before = service.counters()[1]
    for unit in service.units(10, canary=True):
        headers = {"x-unit-id": unit, "x-please": "slow"}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{service.url}/infer", json={}, headers=headers, timeout=0.02, trust_env=False)
    time.sleep(0.5)
    assert watched.look() == {}
    assert service.counters()[1].errors == before.errors


def test_callers_who_send_slowly_and_hang_up_at_once_say_nothing_of_the_canary(
    service: Service, watch: Watch
) -> None:
    watched = watch("customer")
    service.ordinary(20)
    before = service.counters()[1]
    for unit in service.units(10, canary=True):
        send_slowly_and_hang_up(service, unit)
    time.sleep(0.7)
    assert watched.look() == {}
    assert service.counters()[1].errors == before.errors


def send_slowly_and_hang_up(service: Service, unit: str) -> None:
    """Longer on its way than patience takes; who is asked has a few milliseconds."""
    address = urlsplit(service.url)
    head = (
        f"POST {address.path}/infer HTTP/1.1\r\nhost: a\r\nx-unit-id: {unit}\r\nx-please: slow\r\n"
        "content-length: 2\r\n\r\n{"
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode())
        time.sleep(PATIENCE_MS / 1000 + 0.1)
        connection.sendall(b"}")
        time.sleep(0.02)


def test_who_answered_is_told_to_nobody_without_the_token(service: Service) -> None:
    token = Layout(service.arena.settings.home).probe_token()

    def told(**headers: str) -> set[str]:
        return {service.arena.send(unit, **headers).revision for unit in service.units(2, canary=True)}

    assert told() == told(x_probe_token="guess") == {""}
    assert told(x_probe_token=token) == {f"{service.arena.service}-00002"}


def test_whoever_has_the_token_is_assigned_and_counted_like_everybody(service: Service) -> None:
    token = Layout(service.arena.settings.home).probe_token()
    before: Any = service.counters()[1].first
    (unit,) = service.units(1, canary=True)
    for _ in range(3):
        assert service.arena.send(unit, x_probe_token=token).version == "2"
    now: Any = service.counters()[1].first
    assert now.requests - before.requests == 1
