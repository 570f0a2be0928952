"""What every serving backend promises about a share that nobody watches. The lease lasts a second here."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines.core.errors import ServingError
from resources.serving.contract import Lapse, ServiceStatus
from tests.conformance.arena import SHORT_LEASE, Arena, establish

LEASE = SHORT_LEASE.total_seconds()


@pytest.fixture
def leased(arena: Arena) -> Iterator[Arena]:
    """Version 1 stable, 2 its canary at 0 %, and leases are kept."""
    establish(arena, "1")
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=0, salt="s")
    if not arena.backend.capabilities(arena.service).lease:
        pytest.skip("nothing lapses on this backend")
    with arena.keeping_leases():
        yield arena


def status(arena: Arena) -> ServiceStatus:
    return arena.backend.status(arena.service)


def given(arena: Arena) -> float:
    canary = status(arena).canary
    assert canary is not None
    return canary.percent


def give(arena: Arena, percent: float, **how: bool) -> None:
    arena.backend.set_canary_percent(arena.service, "2", percent, **how)


def renew(arena: Arena, version: str = "2") -> Lapse | None:
    return arena.backend.renew(arena.service, version)


def taken_away(arena: Arena, do: Callable[[Arena], object] = lambda _: None) -> Lapse:
    """The lapse that comes while somebody does this again and again; within the lease, two looks and what a busy machine takes."""
    deadline = time.monotonic() + LEASE + 20
    while (now := status(arena)).lapse is None:
        assert time.monotonic() < deadline, "nothing lapses"
        do(arena)
        time.sleep(0.05)
    assert now.canary is not None
    assert (now.canary.percent, now.mirror, now.stable and now.stable.percent) == (0, False, 100)
    return now.lapse


def stays(arena: Arena, percent: float, *, renewed: bool) -> None:
    """For longer than the lease and two looks."""
    deadline = time.monotonic() + 1.4 * LEASE
    while time.monotonic() < deadline:
        assert given(arena) == percent
        assert not renewed or renew(arena) is None
        time.sleep(0.1)
    assert (given(arena), status(arena).lapse) == (percent, None)


def test_a_share_that_nobody_watches_is_taken_away_and_told_until_a_share_is_set_anew(leased: Arena) -> None:
    assert renew(leased) is None, "there is nothing to lapse"
    give(leased, 20)
    stays(leased, 20, renewed=True)
    began = time.monotonic()
    lapse = taken_away(leased)
    assert time.monotonic() - began >= LEASE / 2, "it had its lease"
    assert (lapse.version, lapse.percent, lapse.mirror) == ("2", 20, False)
    assert "nobody has watched it for 1 s" in lapse.reason
    assert renew(leased) == lapse, "renewing brings nothing back"
    assert renew(leased) == lapse
    with pytest.raises(ServingError, match="version 2 has 0 %, not the expected 20 %"):
        leased.backend.set_canary_percent(leased.service, "2", 50, expected=20)
    with pytest.raises(ServingError, match="nobody has watched it"):
        leased.backend.promote(leased.service, "2", replacing="1")
    assert (given(leased), renew(leased)) == (0, lapse)
    leased.backend.set_canary_percent(leased.service, "2", 20, expected=0)
    assert (given(leased), status(leased).lapse, renew(leased)) == (20, None, None)


def test_a_share_without_a_lease_stays_whoever_watches(leased: Arena) -> None:
    give(leased, 20, leased=False)
    stays(leased, 20, renewed=False)
    assert renew(leased) is None


def test_who_watches_another_version_watches_not_this_one_and_a_rollback_works_as_ever_after_a_lapse(
    leased: Arena,
) -> None:
    give(leased, 20)
    told: list[Lapse | None] = []
    taken_away(leased, lambda arena: told.extend([renew(arena, "1"), renew(arena, "9")]))
    assert set(told) == {None}
    ended = leased.backend.roll_back(leased.service, "2")
    assert (ended.lapse, ended.canary, renew(leased)) == (None, None, None)
    assert ended.stable is not None
    assert (ended.stable.version, ended.stable.percent) == ("1", 100)
    following = leased.backend.deploy_canary(leased.service, leased.artefact("3"), percent=10, salt="t")
    assert (following.canary and following.canary.percent, following.lapse) == (10, None)


def test_a_mirror_that_nobody_watches_is_taken_away_and_the_brake_works_as_ever_after_a_lapse(
    leased: Arena,
) -> None:
    if not leased.backend.capabilities(leased.service).mirror:
        pytest.skip("this backend mirrors nothing")
    mirror: dict[str, Any] = {"percent": 0, "salt": "s", "mirror": True}
    artefact = leased.artefact("2")
    leased.backend.deploy_canary(leased.service, artefact, **mirror)
    assert (status(leased).mirror, status(leased).lapse) == (True, None)
    lapse = taken_away(leased)
    assert (lapse.percent, lapse.mirror) == (0, True)
    leased.backend.deploy_canary(leased.service, artefact, **mirror)
    assert (status(leased).mirror, status(leased).lapse) == (True, None)
    taken_away(leased)
    braked = leased.backend.set_canary_percent(leased.service, "2", 0)
    assert (braked.lapse, braked.mirror, braked.canary and braked.canary.percent) == (None, False, 0)


def test_a_lapse_is_in_force_at_the_gateway(traffic: Arena) -> None:
    units = [f"unit-{number}" for number in range(40)]
    traffic.backend.deploy_canary(traffic.service, traffic.artefact("2"), percent=100, salt="s")
    with traffic.keeping_leases():
        assert {traffic.send(unit).version for unit in units} == {"2"}
        taken_away(traffic)
        assert {traffic.send(unit).version for unit in units} == {"1"}


def test_where_nothing_lapses_renewing_says_so_and_the_share_stays(arena: Arena) -> None:
    if arena.backend.capabilities(arena.service).lease:
        pytest.skip("leases are kept here")
    establish(arena, "1")
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=20, salt="s")
    assert (renew(arena), given(arena), status(arena).lapse) == (None, 20, None)
