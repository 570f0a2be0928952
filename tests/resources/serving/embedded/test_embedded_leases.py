"""A share that nobody watches is taken away on one machine, whatever else is broken: a real Envoy takes the weights."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import ServingError
from resources.serving.embedded.lease import LeaseGuard, TakenAway
from resources.serving.embedded.state import DamagedState, StateStore
from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, establish
from tests.support.full_disk import Disk

UNITS = [f"u{number}" for number in range(40)]


@pytest.fixture(scope="module")
def pair(gateway_on_disk: Settings) -> Iterator[tuple[EmbeddedArena, EmbeddedArena]]:
    """Two services, version 1 stable in each, and version 2 its canary."""
    made = [EmbeddedArena(gateway_on_disk, service=name, replicas=1) for name in ("one", "two")]
    for each in made:
        establish(each, "1")
        each.backend.deploy_canary(each.service, each.artefact("2"), percent=0, salt="s")
    yield made[0], made[1]
    for each in made:
        each.retire()


@pytest.fixture
def arena(pair: tuple[EmbeddedArena, EmbeddedArena], disk: Disk) -> Iterator[EmbeddedArena]:
    """The first one, its canary with half of the units; the other one's has none."""
    arena, other = pair
    arena.backend.set_canary_percent(arena.service, "2", 50)
    other.backend.set_canary_percent(other.service, "2", 0)
    yield arena
    disk.free()


@dataclass
class Guarded:
    """A guard whose clock only the test moves: a look every second, a lease of three."""

    settings: Settings
    now: float = 0.0
    done: list[TakenAway] = field(default_factory=list[TakenAway])

    def __post_init__(self) -> None:
        self.guard = LeaseGuard(
            self.settings,
            lease=timedelta(seconds=3),
            every=timedelta(seconds=1),
            clock=lambda: self.now,
        )

    def looks(self, times: int) -> list[TakenAway]:
        """What these looks have done."""
        found: list[TakenAway] = []
        for _ in range(times):
            self.now += 1
            found += self.guard.look()
        return found


@pytest.fixture
def guarded(gateway_on_disk: Settings) -> Guarded:
    return Guarded(gateway_on_disk)


def canaries(arena: EmbeddedArena) -> int:
    return sum(arena.send(unit).version == "2" for unit in UNITS)


def lapsed(arena: EmbeddedArena) -> bool:
    return arena.backend.status(arena.service).lapse is not None


def test_a_lapse_is_said_once_with_what_was_there(arena: EmbeddedArena, guarded: Guarded) -> None:
    assert (guarded.looks(3), canaries(arena) > 5) == ([], True)
    (done,) = guarded.looks(4)
    assert (done.service, done.version, done.trouble) == (arena.service, "2", "")
    assert "version 2 had 50 %, which was taken away at" in done.words
    assert (canaries(arena), lapsed(arena)) == (0, True)
    assert guarded.looks(8) == []


def test_on_a_full_disk_watching_keeps_a_share_and_a_lapse_takes_it_away(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded
) -> None:
    disk.fill()
    for _ in range(6):
        assert arena.backend.renew(arena.service, "2") is None
        assert guarded.looks(1) == []
        time.sleep(0.01)  # two moments that the file system tells apart
    (done,) = guarded.looks(5)
    assert (done.trouble, canaries(arena), lapsed(arena)) == ("", 0, True)


def test_a_lapse_that_cannot_be_written_down_is_in_force_and_written_when_it_can_be_though_somebody_watches_again(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded
) -> None:
    """Without its spare the state stays as it was; the routes have theirs."""
    (disk.place / "serving" / f".{arena.service}.json.spare").unlink()
    disk.fill()
    (done,) = guarded.looks(5)
    assert "one.json cannot be written" in done.trouble
    assert (canaries(arena), lapsed(arena)) == (0, False)
    arena.backend.renew(arena.service, "2")
    assert guarded.looks(3) == [], "tried again, and said once"
    assert canaries(arena) == 0
    disk.free()
    (done,) = guarded.looks(2)
    assert (done.trouble, canaries(arena), lapsed(arena)) == ("", 0, True)


@pytest.mark.parametrize("shared", [True, False])
def test_whoever_is_frozen_while_it_holds_a_lock_keeps_no_unwatched_share(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded, shared: bool
) -> None:
    lock = disk.place / "serving" / (".lock" if shared else f".{arena.service}.lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (done,) = guarded.looks(5)
        assert (done.trouble, canaries(arena)) == ("", 0)
    assert lapsed(arena)


def test_of_many_unwatched_shares_only_the_first_waits_for_whoever_is_frozen_with_the_shared_lock(
    pair: tuple[EmbeddedArena, EmbeddedArena],
    arena: EmbeddedArena,
    disk: Disk,
    guarded: Guarded,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of them needs that lock twice: waiting for it each time would leave the last of thirty its share for a minute."""
    other = pair[1]
    other.backend.set_canary_percent(other.service, "2", 50)
    with (disk.place / "serving" / ".lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [each.trouble for each in guarded.looks(5)] == ["", ""]
        assert (canaries(arena), canaries(other)) == (0, 0)
    assert sum("somebody has held this lock for 1 s" in each for each in caplog.messages) == 1


@pytest.mark.parametrize("damage", ["{", ""], ids=["half", "empty"])
def test_a_damaged_state_loses_its_own_unwatched_share_and_stops_no_other_services_lapse(
    pair: tuple[EmbeddedArena, EmbeddedArena], arena: EmbeddedArena, disk: Disk, guarded: Guarded, damage: str
) -> None:
    other = pair[1]
    other.backend.set_canary_percent(other.service, "2", 50)
    guarded.looks(1)
    state = disk.place / "serving" / f"{arena.service}.json"
    whole = state.read_bytes()
    state.unlink()
    state.write_text(damage)
    with pytest.raises(DamagedState):
        arena.backend.renew(arena.service, "2")
    done = {each.service: each for each in guarded.looks(6)}
    assert set(done) == {arena.service, other.service}
    assert (done[arena.service].version, done[other.service].version) == ("", "2")
    assert (canaries(arena), canaries(other), lapsed(other)) == (0, 0, True)
    assert guarded.looks(5) == []
    state.unlink()
    state.write_bytes(whole)
    assert [each.service for each in guarded.looks(1)] == [arena.service]
    assert (canaries(arena), lapsed(arena)) == (0, True), (
        "what was taken away is in the state that was mended"
    )


def test_the_share_of_a_bake_and_a_version_without_a_stable_one_are_left_alone(
    arena: EmbeddedArena, gateway_on_disk: Settings, guarded: Guarded
) -> None:
    arena.backend.set_canary_percent(arena.service, "2", 98, leased=False)
    first = EmbeddedArena(gateway_on_disk, service="first", replicas=1)
    first.backend.deploy_canary(first.service, first.artefact("1"), percent=100, salt="s")
    assert (guarded.looks(8), first.send("u").version) == ([], "1")
    assert arena.backend.status(arena.service).canary is not None
    assert canaries(arena) > 30
    first.retire()


def test_who_watches_again_or_sets_another_share_while_it_lapses_keeps_it(
    arena: EmbeddedArena, guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decided under the service's lock, which whoever sets a share holds."""
    before = guarded.guard._marks
    meanwhile: list[Callable[[], object]] = [
        lambda: arena.backend.renew(arena.service, "2"),
        lambda: arena.backend.set_canary_percent(arena.service, "2", 60),
        lambda: arena.backend.set_canary_percent(arena.service, "2", 60, leased=False),
    ]

    def late(*known: Any) -> object:
        marks = before(*known)
        time.sleep(0.01)
        meanwhile.pop(0)()
        return marks

    while meanwhile:
        assert guarded.looks(3) == []
        monkeypatch.setattr(guarded.guard, "_marks", late)
        assert guarded.looks(1) == []
        monkeypatch.setattr(guarded.guard, "_marks", before)
        assert not lapsed(arena)
    assert canaries(arena) > 5


def test_a_gateway_that_is_away_is_said_and_the_lapse_is_in_force_when_it_is_back(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded
) -> None:
    admin = disk.place / "gateway" / "admin"
    away = admin.rename(admin.with_name("away"))
    (done,) = guarded.looks(5)
    assert "the gateway does not answer" in done.trouble
    assert guarded.looks(2) == []
    away.rename(admin)
    (done,) = guarded.looks(1)
    assert (done.trouble, canaries(arena), lapsed(arena)) == ("", 0, True)


def test_a_wall_clock_that_jumps_takes_nothing_away_and_keeps_nothing(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded
) -> None:
    lease = disk.place / "serving" / "leases" / arena.service
    for moment in (0, 4102444800, 1):  # 1970, 2100
        assert guarded.looks(3) == []
        os.utime(lease, (moment, moment))
    assert len(guarded.looks(6)) == 1


def test_a_lease_that_cannot_be_renewed_or_begun_is_an_error_and_no_share_is_given_without_one(
    arena: EmbeddedArena, disk: Disk
) -> None:
    leases = disk.place / "serving" / "leases"
    aside = leases.rename(leases.with_name("aside"))
    leases.write_text("")
    try:
        with pytest.raises(ServingError, match=rf"leases/{arena.service} cannot be written: File exists"):
            arena.backend.renew(arena.service, "2")
        with pytest.raises(ServingError, match="cannot be written"):
            arena.backend.set_canary_percent(arena.service, "2", 60)
        assert arena.backend.set_canary_percent(arena.service, "2", 0).canary is not None
        assert canaries(arena) == 0
    finally:
        leases.unlink()
        aside.rename(leases)


def test_a_state_of_a_release_without_leases_has_one(
    arena: EmbeddedArena, disk: Disk, guarded: Guarded
) -> None:
    state = disk.place / "serving" / f"{arena.service}.json"
    old = json.loads(state.read_text())
    assert {old["canary"].pop("leased"), old["canary"].pop("lapse")} == {True, None}
    state.write_text(json.dumps(old))
    (disk.place / "serving" / "leases" / arena.service).unlink()
    canary = StateStore(state.parent).read(arena.service).canary
    assert canary is not None and canary.leased
    for _ in range(4):
        arena.backend.renew(arena.service, "2")
        assert guarded.looks(1) == []
        time.sleep(0.01)
    assert len(guarded.looks(5)) == 1


def test_three_hundred_idle_services_cost_a_look_next_to_nothing(disk: Disk, tmp_path: Path) -> None:
    (tmp_path / "serving").mkdir()
    for number in range(300):
        text = f'{{"service": "idle-{number}", "stable": null, "canary": null}}'
        (tmp_path / "serving" / f"idle-{number}.json").write_text(text)
    guarded = Guarded(Settings.from_environment({"RAMPGATE_HOME": str(tmp_path)}))
    guarded.looks(2)
    began = time.process_time()
    guarded.looks(100)
    assert time.process_time() - began < 0.1, "a thousandth of a second for a look, twice a second"
