"""The sticky gateway of a cluster: real Envoy and sidecar, a fake API server, light predictors."""

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.core.errors import NotMeasured, ServingError
from pipelines.rollouts.counting import by_version, first_watermark, growth
from resources.serving.contract import Counters
from resources.serving.gateway.options import Options
from resources.serving.kserve.gateways import Gateways
from resources.settings import certificates
from tests.conformance.arena import establish
from tests.conformance.kserve_arena import StickyArena
from tests.conformance.sticky_gateway import TOKEN, StickyGateway, running, sticky_gateway
from tests.fake_kubernetes.backends import applied
from tests.fake_kubernetes.server import serving
from tests.support.ports import free_base

_names = itertools.count(1)

UNITS = [f"unit-{number}" for number in range(40)]

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module", params=["Serverless", "Standard"])
def gateway(request: pytest.FixtureRequest) -> Iterator[StickyGateway]:
    with sticky_gateway(request.param) as made:
        yield made


@pytest.fixture
def arena(gateway: StickyGateway) -> Iterator[StickyArena]:
    """Version 1 stable, version 2 its canary at 0 %."""
    arena = StickyArena(gateway.fake, f"sticky-{next(_names)}", gateway=gateway)
    establish(arena, "1")
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s")
    yield arena
    arena.client.close()
    gateway.forget(arena.service)


def canaries(arena: StickyArena) -> set[str]:
    return {unit for unit in UNITS if arena.send(unit).version == "2"}


def seen_by(arena: StickyArena, version: str) -> list[dict[str, str]]:
    """Headers of the predictions that a version's predictor was asked for."""
    port, _ = arena.gateway.predictors[f"s3://models/{arena.service}/{version}"]
    return httpx.get(f"http://127.0.0.1:{port}/seen", trust_env=False, verify=certificates()).json()["seen"]


def with_gateways(arena: StickyArena, gateways: Gateways, *, patience: float = 0.3) -> Any:
    """The arena's backend, looking at another gateway."""
    return replace(arena.backend, gateways=gateways, patience=patience)  # type: ignore[type-var]


def test_a_shadow_step_copies_traffic_and_ends_with_the_first_share(arena: StickyArena) -> None:
    can = arena.backend.capabilities(arena.service)
    assert (can.sticky, can.mirror, can.percent_step) == (True, True, 0.01)
    status = arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s", mirror=True)
    assert status.mirror
    first = time.monotonic() + 30
    while not seen_by(arena, "2"):  # copies are dropped until the gateway has found the canary healthy
        assert arena.send("first").version == "1" and time.monotonic() < first
    shadowed = len(seen_by(arena, "2"))
    assert canaries(arena) == set()
    deadline = time.monotonic() + 30
    while len(seen_by(arena, "2")) < shadowed + len(UNITS) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {each["x-assignment"] for each in seen_by(arena, "2")} == {"shadow"}
    assert len(seen_by(arena, "2")) >= shadowed + len(UNITS)
    assert not arena.backend.set_canary_percent(arena.service, "2", 25).mirror
    before = len(seen_by(arena, "2"))
    assert len(canaries(arena)) == len(seen_by(arena, "2")) - before


def test_kserve_is_not_told_of_shares(arena: StickyArena) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 30)
    spec = arena.fake.isvc(arena.service)["spec"]
    given = (
        spec["canary"][0]["trafficPercent"] if "canary" in spec else spec["predictor"]["canaryTrafficPercent"]
    )
    assert given == 0


def test_each_replica_is_asked_by_its_own_name(arena: StickyArena) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 100)
    name = arena.send("u", x_probe_token=TOKEN).revision
    assert seen_by(arena, "2")[-1]["host"].startswith(f"{name}.default.svc.cluster.local")


def test_the_brake_is_in_force_when_it_has_been_pulled(arena: StickyArena) -> None:
    for _ in range(3):
        arena.backend.set_canary_percent(arena.service, "2", 100)
        arena.backend.set_canary_percent(arena.service, "2", 0)
        assert canaries(arena) == set()


def test_a_gateway_that_does_not_answer_is_not_believed(arena: StickyArena) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 50)
    silent = with_gateways(arena, Gateways(control="http://127.0.0.1:1", traffic="http://127.0.0.1:1"))
    can = silent.capabilities(arena.service)
    assert (can.sticky, can.mirror) == (False, False)
    with pytest.raises(NotMeasured, match="127.0.0.1:1"):
        silent.counters(arena.service)
    with pytest.raises(ServingError, match="gateway 127.0.0.1:1"):
        silent.set_canary_percent(arena.service, "2", 0)
    deadline = time.monotonic() + 30
    while canaries(arena) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert canaries(arena) == set(), "the brake is pulled even if nobody confirms it"


def test_a_wrong_token_sees_nothing(arena: StickyArena) -> None:
    (report,) = replace(arena.gateway.gateways, token="guess").reports()
    assert "401" in report.error and report.splits == {}
    with pytest.raises(ServingError, match="was answered by"):
        with_gateways(arena, replace(arena.gateway.gateways, token="guess")).predict(arena.service, "2", {})


def test_a_canary_that_the_gateway_cannot_reach_gets_no_share(arena: StickyArena) -> None:
    _, process = arena.gateway.predictors[f"s3://models/{arena.service}/2"]
    process.kill()
    process.wait()
    time.sleep(3.5)  # two health checks, a second apart, and the time they take
    with pytest.raises(ServingError, match="has no healthy replica at the gateway"):
        with_gateways(arena, arena.gateway.gateways, patience=0.5).set_canary_percent(arena.service, "2", 50)
    assert {arena.send(unit).status for unit in UNITS} == {200}
    assert arena.backend.roll_back(arena.service, "2").canary is None


def test_an_assignment_that_is_none_stops_nothing(arena: StickyArena) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 50)
    before = canaries(arena)
    key = ("configmaps", "default", "rampgate-assignments")
    whole = arena.fake.store.get(key)
    with arena.fake.lock:
        arena.fake.store.update(key, {**whole, "data": {**whole["data"], arena.service: "50 %"}}, "kubectl")
    with pytest.raises(ServingError, match="is not an assignment"):
        arena.backend.status(arena.service)
    assert canaries(arena) == before
    other = StickyArena(arena.fake, f"sticky-{next(_names)}", gateway=arena.gateway)
    establish(other, "1")
    assert other.send("u").version == "1", "no other service waits for it"
    other.client.close()
    arena.gateway.forget(other.service)
    with arena.fake.lock:
        now = arena.fake.store.get(key)
        arena.fake.store.update(key, {**now, "data": whole["data"]}, "kubectl")


def test_a_service_that_cannot_be_split_stops_no_other(arena: StickyArena) -> None:
    meshed = applied("ModelMesh")
    meshed["metadata"]["name"] = "meshed"
    with arena.fake.lock:
        arena.fake.apply(meshed)
    try:
        assert arena.backend.set_canary_percent(arena.service, "2", 20).canary is not None
        assert len(canaries(arena)) > 0
    finally:
        arena.gateway.forget("meshed")


def test_a_roll_back_removes_the_version_even_if_a_pod_is_silent(arena: StickyArena) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 50)
    silent = with_gateways(arena, Gateways(control="http://127.0.0.1:1", traffic="http://127.0.0.1:1"))
    with pytest.raises(ServingError, match="gateway 127.0.0.1:1"):
        silent.roll_back(arena.service, "2")
    status = arena.backend.roll_back(arena.service, "2")
    assert status.canary is None and status.stable is not None and status.stable.version == "1"
    assert {arena.send(unit).version for unit in UNITS} == {"1"}


def test_two_pods_assign_alike_and_both_must_confirm(
    arena: StickyArena, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = StickyGateway(arena.fake, tmp_path, free_base(3), predictors=arena.gateway.predictors)
    with running(second):
        arena.backend.set_canary_percent(arena.service, "2", 40)
        here, there = arena.gateway.gateways, second.gateways
        both = _Both(control=here.control, traffic=here.traffic, token=TOKEN, other=there)
        with_gateways(arena, both, patience=10).set_canary_percent(arena.service, "2", 60)
        mine = canaries(arena)
        theirs = StickyArena(arena.fake, arena.service, gateway=second)
        with theirs.client:
            assert mine == canaries(theirs) != set()
        counters = with_gateways(arena, both).counters(arena.service)
        assert len(counters.gateways) == 2
        assert counters.epoch != arena.backend.counters(arena.service).epoch
    with pytest.raises(ServingError, match=str(second.ports + 2)):
        # The other one is given the time that it needs on a busy machine.
        with_gateways(arena, both, patience=3).set_canary_percent(arena.service, "2", 0)


def test_a_pod_that_leaves_and_starts_again_makes_no_answer_of_another_one_new(
    gateway: StickyGateway, arena: StickyArena, tmp_path: Path
) -> None:
    """Real Envoys: each answer counts once, but those that nobody read before the pod ended."""
    if gateway.fake.world.default_mode != "Serverless":
        pytest.skip("the gateway is the same in both modes")
    arena.backend.set_canary_percent(arena.service, "2", 50)
    second = StickyGateway(arena.fake, tmp_path, free_base(3), predictors=gateway.predictors)
    here = gateway.gateways
    both = with_gateways(
        arena, _Both(control=here.control, traffic=here.traffic, token=TOKEN, other=second.gateways)
    )
    for _ in range(20):
        arena.send("before the rollout")
    mark, seen = first_watermark(both.counters(arena.service)), 0
    mark = replace(mark, since=mark.since - timedelta(seconds=3))  # Envoy tells its age in seconds

    def look(wanted: int) -> Counters:
        nonlocal mark, seen
        deadline = time.monotonic() + 30
        while True:
            shown = both.counters(arena.service)
            seen += sum(each.requests for each in by_version(growth(mark, shown)).values())
            mark = mark.moved(shown)
            if seen >= wanted or time.monotonic() > deadline:
                assert seen == wanted
                return shown

    def send(pod: StickyGateway, answers: int) -> None:
        pods = StickyArena(arena.fake, arena.service, gateway=pod)
        with pods.client:
            for unit in UNITS[:answers]:
                assert pods.send(unit).status == 200

    assert "127.0.0.1" in look(0).unread[0]
    names: list[str] = []
    for sent in (0, 12):
        with running(second):
            send(second, 5)
            send(gateway, 3)
            shown = look(sent + 8)
            assert (len(shown.gateways), shown.unread) == (2, ())
            names += [each.instance for each in shown.gateways]
        send(gateway, 4)
        assert len(look(sent + 12).gateways) == 1
    assert len(set(names)) == 3, "each start has a name of its own"


def _said(instance: str, **more: Any) -> dict[str, Any]:
    row = {"revision": "r", "version": "2", "requests": 5, "errors": 1, "faults": 0, "request_faults": 0}
    return {"instance": instance, "age": 3.0, "revisions": [{**row, **more}]}


def test_what_one_pod_cannot_say_keeps_no_other_from_its_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod with two addresses counts once; only where none says anything, nothing is measured."""
    before = _said("old")
    before["revisions"][0].pop("request_faults")
    pods: dict[str, dict[str, Any] | ServingError] = {
        "a:1": _said("a"),
        "[::a]:1": _said("a"),
        "b:1": {**_said("b"), "age": None},
        "silent:1": ServingError("silent:1/counters/m: timed out"),
        "old:1": before,
        "other:1": {"instance": "other", "age": 1.0},
        "broken:1": _said("broken", requests="many"),
    }

    def get(_: Gateways, pod: str, path: str) -> dict[str, Any]:
        answer = pods[pod]
        if isinstance(answer, ServingError):
            raise answer
        assert path == "/counters/m"
        return answer

    monkeypatch.setattr(Gateways, "_pods", lambda _: list(pods))
    monkeypatch.setattr(Gateways, "_get", get)
    gateways = Gateways(control="http://gateway:1", traffic="")
    found = gateways.counters("m")
    assert [each.instance for each in found.gateways] == ["a", "b"]
    assert found.gateways[0].started == found.at - timedelta(seconds=3)
    assert found.gateways[1].started is None
    assert [(each.requests, each.errors) for each in found.revisions] == [(10, 2)]
    told = {each.partition(":")[0] for each in found.unread}
    assert len(found.unread) == 4 and told == {"silent", "gateway old", "other", "broken"}
    pods = {name: pods[name] for name in ("silent:1", "other:1")}
    with pytest.raises(NotMeasured, match=r"silent:1.*timed out; other:1"):
        gateways.counters("m")


class _Both(Gateways):
    """A control name with two addresses."""

    def __init__(self, *, other: Gateways, **fields: Any) -> None:
        super().__init__(**fields)
        object.__setattr__(self, "other", other)

    def _pods(self) -> list[str]:
        return [each.removeprefix("http://") for each in (self.control, self.other.control)]  # type: ignore[attr-defined]


def test_a_pod_that_starts_again_assigns_as_before() -> None:
    with sticky_gateway("Serverless") as made:
        arena = StickyArena(made.fake, "again", gateway=made)
        establish(arena, "1")
        arena.backend.deploy_canary("again", arena.artefact("2"), percent=50, salt="s")
        arena.backend.set_canary_percent("again", "2", 50)
        before = canaries(arena)
        epoch = arena.backend.counters("again").epoch
        other = StickyGateway(made.fake, made.home / "other", free_base(3), predictors=made.predictors)
        other.home.mkdir()
        with running(other):
            again = StickyArena(made.fake, "again", gateway=other)
            assert canaries(again) == before != set()
            assert again.backend.counters("again").epoch != epoch
            again.client.close()
        arena.client.close()


@contextmanager
def program(module: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module], cwd=ROOT, env={**os.environ, **env})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def test_the_two_programs_of_a_pod(tmp_path: Path) -> None:
    with serving() as fake, socket.create_server(("127.0.0.1", 0)) as upstream:
        fake.apply(applied("Serverless"))
        fake.run(3)
        config = {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": fake.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        base = free_base(3)
        env = {
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
            "RAMPGATE_GATEWAY_DISCOVERY": str(tmp_path / "xds"),
            "RAMPGATE_GATEWAY_PORT": str(base),
            "RAMPGATE_GATEWAY_CONTROL_PORT": str(base + 2),
            "RAMPGATE_GATEWAY_TOKEN": TOKEN,
            "RAMPGATE_GATEWAY_UPSTREAM": f"127.0.0.1:{upstream.getsockname()[1]}",
            "RAMPGATE_GATEWAY_ACCESS_LOG": str(tmp_path / "access"),
        }
        seen = Gateways(control=f"http://127.0.0.1:{base + 2}", traffic="http://unused", token=TOKEN)
        with program("resources.serving.gateway", env), program("resources.serving.gateway.envoy", env):
            deadline = time.monotonic() + 40
            while not (report := seen.reports()[0]).splits:
                assert time.monotonic() < deadline, report
                time.sleep(0.1)
    stable = report.splits["m"].stable
    assert stable is not None and stable.name == "m-predictor-00001"


def test_a_discovery_folder_too_deep_for_a_socket_is_refused() -> None:
    deep = {"RAMPGATE_GATEWAY_DISCOVERY": "/tmp/" + "d" * 100}
    with pytest.raises(ServingError, match=r"RAMPGATE_GATEWAY_DISCOVERY.*111 bytes, must be at most 107"):
        Options.from_environment(deep)


@pytest.mark.parametrize("token", ["", "x", "x" * 15])
def test_a_token_that_is_found_by_trying_opens_no_gateway_to_others(token: str) -> None:
    env = {"RAMPGATE_GATEWAY_HOST": "0.0.0.0", "RAMPGATE_GATEWAY_TOKEN": token}
    with pytest.raises(ServingError, match="RAMPGATE_GATEWAY_TOKEN must be set, to 16 characters or more"):
        Options.from_environment(env)
    assert Options.from_environment({**env, "RAMPGATE_GATEWAY_TOKEN": "x" * 16}).token
    assert Options.from_environment({"RAMPGATE_GATEWAY_TOKEN": token}).token == token


def test_a_gateway_open_to_others_needs_a_token() -> None:
    env = {**os.environ, "RAMPGATE_GATEWAY_HOST": "0.0.0.0", "RAMPGATE_GATEWAY_TOKEN": ""}
    done = subprocess.run(
        [sys.executable, "-m", "resources.serving.gateway.envoy"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "RAMPGATE_GATEWAY_TOKEN must be set" in done.stderr
