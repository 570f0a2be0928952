"""The embedded gateway on a full disk, or with damaged states: a real Envoy takes new weights all the same."""

import fcntl
import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.core.errors import ServingError
from resources.serving.embedded import gateway as gateway_module
from resources.serving.envoy.description import publish as publish_file
from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, establish
from tests.support.full_disk import Disk

UNITS = [f"u{number}" for number in range(40)]

_names = itertools.count(1)


@pytest.fixture
def arena(gateway_on_disk: Settings, disk: Disk) -> Iterator[EmbeddedArena]:
    arena = EmbeddedArena(gateway_on_disk, service=f"full-{next(_names)}", replicas=1)
    establish(arena, "1")
    yield arena
    disk.free()
    arena.retire()


def canaries(arena: EmbeddedArena) -> int:
    return sum(arena.send(unit).version == "2" for unit in UNITS)


def test_traffic_is_taken_away_again_and_again_and_never_given_on_a_full_disk(
    arena: EmbeddedArena, disk: Disk
) -> None:
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    assert canaries(arena) > 5
    disk.fill()
    for _ in range(3):
        status = arena.backend.set_canary_percent(arena.service, "2", 0)
        assert status.canary is not None
        assert (status.canary.percent, canaries(arena)) == (0, 0)
        with pytest.raises(ServingError, match="cannot be written: No space left on device"):
            arena.backend.set_canary_percent(arena.service, "2", 50, expected=0)
        assert canaries(arena) == 0
    disk.free()
    arena.backend.set_canary_percent(arena.service, "2", 50, expected=0)
    assert canaries(arena) > 5
    disk.fill()
    with pytest.raises(ServingError, match="No space left on device"):
        arena.backend.roll_back(arena.service, "2")
    assert canaries(arena) == 0, "the traffic is away before what cannot be written is tried"
    disk.free()
    assert arena.backend.roll_back(arena.service, "2").canary is None


def test_a_state_that_cannot_be_written_does_not_keep_the_gateway_from_its_new_weights(
    arena: EmbeddedArena, disk: Disk
) -> None:
    """Without its spare the state stays as it was; the routes have theirs."""
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    (disk.place / "serving" / f".{arena.service}.json.spare").unlink()
    disk.fill()
    with pytest.raises(ServingError, match=rf"{arena.service}\.json cannot be written"):
        arena.backend.set_canary_percent(arena.service, "2", 0)
    assert canaries(arena) == 0


@pytest.mark.parametrize("how", ["damaged", "cannot be read"])
@pytest.mark.parametrize("own", [True, False])
def test_a_damaged_state_does_not_keep_traffic_at_a_canary(
    arena: EmbeddedArena, disk: Disk, own: bool, how: str
) -> None:
    """Its own, or another service's, whose routes stay."""
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    other = EmbeddedArena(arena.settings, service=f"other-{next(_names)}", replicas=1)
    establish(other, "1")
    state = disk.place / "serving" / f"{arena.service if own else other.service}.json"
    whole = state.rename(state.with_name("whole"))
    if how == "damaged":
        state.write_text("{")
    else:
        state.mkdir()  # root reads every file: EISDIR stands for EACCES and EIO
    with pytest.raises(ServingError, match=how):
        (arena if own else other).backend.status(state.stem)
    counts = arena.backend.all_counters([arena.service, other.service])
    unknown = [service for service, each in counts.items() if isinstance(each, ServingError)]
    assert unknown == [state.stem], "what cannot be read of one keeps no other from its counts"
    arena.backend.set_canary_percent(arena.service, "2", 0)
    assert canaries(arena) == 0
    assert other.send("u").version == "1"
    state.unlink() if how == "damaged" else state.rmdir()
    whole.rename(state)
    other.retire()


@pytest.mark.parametrize("shared", [True, False])
def test_whoever_is_frozen_while_it_holds_a_lock_keeps_no_traffic_at_a_canary(
    arena: EmbeddedArena, disk: Disk, shared: bool
) -> None:
    """The lock on what services share, or the service's own."""
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    lock = disk.place / "serving" / (".lock" if shared else f".{arena.service}.lock")
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        arena.backend.set_canary_percent(arena.service, "2", 0)
        assert canaries(arena) == 0
    assert arena.backend.set_canary_percent(arena.service, "2", 50, expected=0).canary is not None


def test_routes_that_a_frozen_process_publishes_late_give_no_share_back(
    arena: EmbeddedArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the states for another service, is frozen before it writes the routes, and goes on after the brake."""
    arena.backend.deploy_canary(arena.service, arena.artefact("2"), percent=50, salt="s")
    late, publish = arena.another_backend(), publish_file

    def frozen(*given: Any, **named: Any) -> str:
        monkeypatch.setattr(gateway_module, "publish", publish)
        arena.backend.set_canary_percent(arena.service, "2", 0)
        return publish(*given, **named)

    monkeypatch.setattr(gateway_module, "publish", frozen)
    late._gateway.publish("routes")
    late._gateway.confirm("routes")
    assert canaries(arena) == 0
