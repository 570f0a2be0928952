"""What every serving backend promises, whatever it runs on."""

import importlib
import pkgutil
import threading
import time
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import xxhash

from pipelines.core.errors import ServingError, VersionFailed
from pipelines.rollouts.counting import by_version, first_watermark, growth
from resources import serving
from resources.serving.contract import NOTHING, Counters, RevisionCounters, ServingBackend
from tests.conformance.arena import Arena
from tests.conformance.conftest import BACKENDS

UNITS = [f"unit-{number}" for number in range(100)]


@pytest.fixture
def stable(arena: Arena) -> Arena:
    """Version 1 serves everything."""
    arena.backend.deploy_canary(arena.service, arena.artefact("1"), percent=0, salt="first")
    arena.backend.promote(arena.service, "1")
    return arena


def canaries(arena: Arena, units: list[str]) -> set[str]:
    return {unit for unit in units if arena.send(unit).version == "2"}


def expected(salt: str, percent: float, units: list[str]) -> set[str]:
    return {u for u in units if xxhash.xxh64(f"{salt}:{u}".encode()).intdigest() % 10_000 < percent * 100}


def counted(arena: Arena, version: str, *, requests: int) -> RevisionCounters:
    """The counters once they show that many requests, latencies included."""
    deadline = time.monotonic() + 30
    while True:
        for each in arena.backend.counters(arena.service).revisions:
            if each.version == version and (each.requests >= requests or time.monotonic() > deadline):
                return each
        assert time.monotonic() < deadline, f"version {version} is not counted"
        time.sleep(0.05)


def share(arena: Arena) -> float:
    canary = arena.backend.status(arena.service).canary
    return 0 if canary is None else canary.percent


def test_every_backend_that_is_shipped_is_met_by_this_suite() -> None:
    """Whatever module of `resources.serving` has a class with a backend's methods."""
    wanted = {name for name in vars(ServingBackend) if not name.startswith("_")}
    assert {"deploy_canary", "roll_back", "counters"} <= wanted
    shipped = {
        each
        for info in pkgutil.walk_packages(serving.__path__, f"{serving.__name__}.")
        if _has_class(Path(info.module_finder.path), info.name)  # type: ignore[union-attr]
        for each in vars(importlib.import_module(info.name)).values()
        if isinstance(each, type) and each is not ServingBackend and wanted <= set(dir(each))
    }
    assert shipped
    assert {each.__name__ for each in shipped - {member.backend for member in BACKENDS}} == set()


def _has_class(folder: Path, name: str) -> bool:
    """Only what may hold a backend is imported: some modules load libraries for seconds."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    return path.is_file() and "def deploy_canary" in path.read_text()


def test_a_service_that_was_never_deployed_has_nothing(arena: Arena) -> None:
    status = arena.backend.status(arena.service)
    assert (status.stable, status.canary) == (None, None)


def test_the_first_version_becomes_stable_by_promotion(stable: Arena) -> None:
    status = stable.backend.status(stable.service)
    assert status.canary is None
    assert status.stable is not None
    assert (status.stable.version, status.stable.percent, status.stable.ready) == ("1", 100, True)


def test_deploying_again_changes_nothing(stable: Arena) -> None:
    artefact = stable.artefact("2")
    first = stable.backend.deploy_canary(stable.service, artefact, percent=10, salt="a")
    again = stable.backend.deploy_canary(stable.service, artefact, percent=10, salt="a")
    assert again == first
    assert first.canary is not None
    assert (first.canary.version, first.canary.percent, first.salt) == ("2", 10, "a")
    assert first.stable is not None
    assert first.stable.percent == 90


def test_a_second_canary_is_refused_and_the_first_stays(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=10, salt="a")
    with pytest.raises(ServingError, match="2"):
        stable.backend.deploy_canary(stable.service, stable.artefact("3"), percent=10, salt="b")
    canary = stable.backend.status(stable.service).canary
    assert canary is not None
    assert canary.version == "2"


def test_the_share_follows_the_command(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=0, salt="a")
    for percent in (10, 50, 0, 0, 100):
        status = stable.backend.set_canary_percent(stable.service, "2", percent)
        assert status.canary is not None
        assert status.canary.percent == percent


def test_a_share_that_was_taken_back_meanwhile_is_not_raised(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=10, salt="a")
    stable.backend.set_canary_percent(stable.service, "2", 0)
    with pytest.raises(ServingError, match="version 2 has 0 %, not the expected 10 %"):
        stable.backend.set_canary_percent(stable.service, "2", 50, expected=10)
    assert share(stable) == 0
    stable.backend.set_canary_percent(stable.service, "2", 20, expected=0)
    stable.backend.set_canary_percent(stable.service, "2", 20, expected=0)
    assert share(stable) == 20


def test_the_first_share_ends_a_shadow_step(stable: Arena) -> None:
    if not stable.backend.capabilities(stable.service).mirror:
        pytest.skip("this backend mirrors nothing")
    artefact = stable.artefact("2")
    assert stable.backend.deploy_canary(stable.service, artefact, percent=0, salt="a", mirror=True).mirror
    assert not stable.backend.set_canary_percent(stable.service, "2", 10).mirror


def test_the_brake_on_the_stable_version_is_refused(stable: Arena) -> None:
    with pytest.raises(ServingError, match="1"):
        stable.backend.set_canary_percent(stable.service, "1", 0)
    status = stable.backend.status(stable.service)
    assert status.stable is not None
    assert status.stable.percent == 100


def test_the_brake_on_a_version_that_is_gone_does_nothing(stable: Arena) -> None:
    status = stable.backend.set_canary_percent(stable.service, "9", 0)
    assert status.canary is None


def test_a_share_for_a_version_that_is_not_the_canary_is_refused(stable: Arena) -> None:
    with pytest.raises(ServingError, match="9"):
        stable.backend.set_canary_percent(stable.service, "9", 10)


def test_promoting_twice_ends_in_the_same_place(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=50, salt="a")
    first = stable.backend.promote(stable.service, "2")
    assert stable.backend.promote(stable.service, "2") == first
    assert first.canary is None
    assert first.stable is not None
    assert (first.stable.version, first.stable.percent) == ("2", 100)


def test_a_version_that_was_replaced_meanwhile_is_not_promoted_over(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=50, salt="a")
    for other in ("7", NOTHING):
        with pytest.raises(
            ServingError, match="version 1 is served meanwhile, and version 2 was not compared"
        ):
            stable.backend.promote(stable.service, "2", replacing=other)
        assert share(stable) == 50
    for _ in range(2):
        status = stable.backend.promote(stable.service, "2", replacing="1")
        assert (status.canary, status.stable and status.stable.version) == (None, "2")


def test_promoting_what_is_not_there_is_refused(stable: Arena) -> None:
    with pytest.raises(ServingError, match="9"):
        stable.backend.promote(stable.service, "9")


def test_rolling_back_twice_ends_in_the_same_place(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=50, salt="a")
    first = stable.backend.roll_back(stable.service, "2")
    assert stable.backend.roll_back(stable.service, "2") == first
    assert first.canary is None
    assert first.stable is not None
    assert (first.stable.version, first.stable.percent) == ("1", 100)


def test_rolling_back_what_was_never_there_does_nothing(stable: Arena) -> None:
    before = stable.backend.status(stable.service)
    assert stable.backend.roll_back(stable.service, "9") == before


def test_after_a_roll_back_the_next_version_starts_clean(stable: Arena) -> None:
    stable.backend.deploy_canary(stable.service, stable.artefact("2"), percent=50, salt="a")
    failed = stable.backend.status(stable.service).canary
    stable.backend.roll_back(stable.service, "2")
    status = stable.backend.deploy_canary(stable.service, stable.artefact("3"), percent=10, salt="b")
    assert status.canary is not None
    assert failed is not None
    assert (status.canary.version, status.salt) == ("3", "b")
    assert status.canary.name != failed.name


def test_assignment_is_sticky_monotone_and_known_offline(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2"), percent=0, salt="ramp-1")
    for percent in (0, 10, 50, 100, 10):
        traffic.backend.set_canary_percent(traffic.service, "2", percent)
        assert canaries(traffic, UNITS) == expected("ramp-1", percent, UNITS)


def test_a_new_salt_assigns_other_units(traffic: Arena) -> None:
    artefact = traffic.artefact("2")
    traffic.backend.deploy_canary(traffic.service, artefact, percent=20, salt="one")
    first = canaries(traffic, UNITS)
    traffic.backend.deploy_canary(traffic.service, artefact, percent=20, salt="two")
    second = canaries(traffic, UNITS)
    assert (first, second) == (expected("one", 20, UNITS), expected("two", 20, UNITS))
    assert first != second


def test_a_canary_at_zero_is_reachable_by_probes_alone(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2"), percent=0, salt="a")
    assert canaries(traffic, UNITS[:50]) == set()
    answer = traffic.backend.predict(traffic.service, "2", {"inputs": []})
    assert answer["model_version"] == "2"
    answer = traffic.backend.predict(traffic.service, "1", {"inputs": []})
    assert answer["model_version"] == "1"


def test_a_probe_of_a_version_that_is_not_deployed_is_refused(traffic: Arena) -> None:
    with pytest.raises(ServingError, match="9") as refused:
        traffic.backend.predict(traffic.service, "9", {"inputs": []})
    assert not isinstance(refused.value, VersionFailed), "nothing was asked of the version"


def test_after_the_brake_no_request_reaches_the_canary(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2"), percent=100, salt="a")
    assert canaries(traffic, UNITS[:20]) == set(UNITS[:20])
    traffic.backend.set_canary_percent(traffic.service, "2", 0)
    assert canaries(traffic, UNITS) == set()


def test_a_failing_canary_is_counted_while_clients_are_served(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2", status=500), percent=50, salt="a")
    answers = [traffic.send(unit) for unit in UNITS]
    assert {(answer.status, answer.version) for answer in answers} == {(200, "1")}
    harmed = len(expected("a", 50, UNITS))
    canary, stable = (
        counted(traffic, "2", requests=harmed),
        counted(traffic, "1", requests=len(UNITS) - harmed),
    )
    assert (canary.requests, canary.errors) == (harmed, harmed)
    assert (stable.requests, stable.errors) == (len(UNITS) - harmed, 0)


@dataclass(frozen=True)
class Told:
    """An answer that both versions are told to give, and what it must count as."""

    please: str
    request_faults: int
    faults: int


ANSWERS = (
    Told("200", 0, 0),
    Told("204", 0, 0),
    Told("301", 1, 0),
    Told("400", 1, 0),
    Told("404", 1, 0),
    Told("413", 1, 0),
    Told("422", 1, 0),
    Told("429", 1, 0),
    Told("500", 1, 1),
    Told("503", 1, 1),
    Told("reset", 1, 1),
)


def test_what_both_sides_fail_is_the_requests_fault_and_a_fault_as_well_where_no_caller_is_to_blame(
    obedient: Arena,
) -> None:
    challenger = min(expected("a", 50, UNITS))
    champion = min(set(UNITS) - expected("a", 50, UNITS))
    for version, unit in (("1", champion), ("2", challenger)):
        before = counted(obedient, version, requests=0)
        for number, told in enumerate(ANSWERS, start=1):
            obedient.send(unit, x_please=told.please)
            now = counted(obedient, version, requests=before.requests + 1)
            refused = now.request_faults - before.request_faults
            grown = (now.requests - before.requests, refused, now.faults - before.faults)
            assert grown == (1, told.request_faults, told.faults), (version, told)
            assert (now.requests, now.errors) == (number, 0)
            before = now


def test_what_the_stable_side_answers_in_the_canarys_place_is_the_canarys_error_and_fault(
    traffic: Arena,
) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2", obeys=True), percent=100, salt="a")
    failing = [told.please for told in ANSWERS if told.request_faults]
    for number, please in enumerate(failing, start=1):
        answer = traffic.send("u", x_please=please)
        assert (answer.status, answer.version) == (200, "1")
        canary = counted(traffic, "2", requests=number)
        assert (canary.errors, canary.faults, canary.request_faults) == (number, number, 0), please
    stable = counted(traffic, "1", requests=0)
    assert (stable.requests, stable.errors) == (0, 0)


def test_from_look_to_look_each_answer_counts_once_also_over_a_promotion(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2"), percent=50, salt="a")
    first = traffic.backend.counters(traffic.service)
    mark, seen = first_watermark(first), Counter[str]()

    def counted_until(**answers: int) -> None:
        nonlocal mark
        wanted, deadline = {version[1:]: n for version, n in answers.items()}, time.monotonic() + 30
        while seen != wanted and time.monotonic() < deadline:
            shown = traffic.backend.counters(traffic.service)
            for version, each in by_version(growth(mark, shown)).items():
                seen[version] += each.requests
            mark = mark.moved(shown)
        assert seen == wanted

    harmed = len(expected("a", 50, UNITS[:40]))
    for unit in UNITS[:40]:
        traffic.send(unit)
    counted_until(v1=40 - harmed, v2=harmed)
    traffic.backend.promote(traffic.service, "2")
    for unit in UNITS[:25]:
        assert traffic.send(unit).version == "2"
    counted_until(v1=40 - harmed, v2=harmed + 25)
    last = traffic.backend.counters(traffic.service)
    (before,), (after,) = first.gateways, last.gateways
    assert (before.instance, last.epoch, last.unread) == (after.instance, first.epoch, ())
    assert before.started is not None and after.started is not None
    assert abs(after.started - before.started) < timedelta(seconds=2.5)
    assert after.started < first.at, "it began before it answered"


def test_a_units_first_answer_is_told_from_what_it_asks_again(traffic: Arena) -> None:
    artefact = traffic.artefact("2", status=500)
    for share, (percent, firsts) in enumerate(((50, 4), (100, 4)), start=1):
        traffic.backend.deploy_canary(traffic.service, artefact, percent=0, salt="a")
        traffic.backend.set_canary_percent(traffic.service, "2", percent)
        for unit in sorted(expected("a", 50, UNITS))[:4] * 3:
            assert traffic.send(unit).status == 200
        canary = counted(traffic, "2", requests=12 * share)
        assert canary.first is not None
        assert (canary.requests, canary.errors) == (12 * share, 12 * share)
        assert (canary.first.requests, canary.first.errors) == (firsts * share, firsts * share)
        assert canary.distinct is not None
        assert (canary.distinct.requests, canary.distinct.errors) == (4, 4), "once in the rollout"
    for _ in range(5):
        traffic.send(None)
    canary = counted(traffic, "2", requests=29)
    assert canary.first is not None
    assert canary.distinct is not None
    assert (canary.first.requests, canary.distinct.requests) == (13, 9), "answers without a unit count each"


def test_probes_are_not_counted(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2", status=500), percent=0, salt="a")
    with pytest.raises(VersionFailed, match="500"):
        traffic.backend.predict(traffic.service, "2", {"inputs": []})
    assert {each.requests for each in traffic.backend.counters(traffic.service).revisions} == {0}


def test_slow_answers_are_counted_against_each_threshold(traffic: Arena) -> None:
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2", delay=0.12), percent=100, salt="a")
    for unit in UNITS[:10]:
        assert traffic.send(unit).version == "2"
    deadline = time.monotonic() + 30
    while counted(traffic, "2", requests=10).over_slo[100] < 10 and time.monotonic() < deadline:
        time.sleep(0.1)
    over = counted(traffic, "2", requests=10).over_slo
    assert (over[1], over[100], over[1000]) == (10, 10, 0)
    alone, together = (
        traffic.backend.counters(traffic.service),
        traffic.backend.all_counters([traffic.service, "another"]),
    )
    same = together[traffic.service]
    assert isinstance(same, Counters)
    assert (same.revisions, same.epoch) == (alone.revisions, alone.epoch)
    assert set(together) == {traffic.service, "another"}


def test_a_roll_back_overtakes_a_deployment_that_waits_for_its_model(stable: Arena) -> None:
    slow = stable.artefact("2", start_delay=8)
    failure: list[Exception] = []

    def deploy() -> None:
        try:
            stable.backend.deploy_canary(stable.service, slow, percent=50, salt="a")
        except ServingError as error:
            failure.append(error)

    deployment = threading.Thread(target=deploy)
    deployment.start()
    _wait_for_canary(stable)
    stable.backend.set_canary_percent(stable.service, "2", 0)
    status = stable.backend.roll_back(stable.service, "2")
    assert status.canary is None
    deployment.join(timeout=30)
    assert not deployment.is_alive()
    assert "rolled back" in str(failure[0])
    assert stable.backend.status(stable.service).canary is None


def _wait_for_canary(arena: Arena) -> None:
    deadline = time.monotonic() + 5
    while arena.backend.status(arena.service).canary is None:
        assert time.monotonic() < deadline, "the deployment does not begin"
        time.sleep(0.02)
