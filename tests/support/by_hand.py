"""What people and scripts do behind a rollout's back: in the registry, and on the serving side."""

from collections.abc import Callable, Mapping

from pipelines.core.rollout.events import End, Ended
from pipelines.rollouts.actions import UNDONE
from pipelines.rollouts.controller import Controller
from resources.ledger.ledger import RolloutRow
from tests.support.faults import FaultyRig
from tests.support.memory_backend import World
from tests.support.rollouts import MODEL


def alias_deleted(world: World) -> None:
    world.aliases.pop((MODEL, "champion"), None)


def alias_recreated(world: World) -> None:
    held = world.aliases.pop((MODEL, "champion"), None)
    if held is not None:
        world.aliases[MODEL, "Champion"] = held


def alias_moved(world: World) -> None:
    world.aliases[MODEL, "champion"] = "3"


def alias_mended(world: World) -> None:
    stable = world.of(MODEL).stable
    if stable is not None and (MODEL, stable.version) not in world.deleted:
        world.aliases[MODEL, "champion"] = stable.version


def stable_replaced(world: World) -> None:
    world.replace_stable(MODEL, "3")


def stable_put_back(world: World) -> None:
    world.replace_stable(MODEL, "1")


def challenger_deleted(world: World) -> None:
    world.delete(MODEL, "2")


def champion_deleted(world: World) -> None:
    world.delete(MODEL, "1")


def share_lapsed(world: World) -> None:
    """Nobody's hand: the serving side takes an unwatched share away by itself."""
    world.lapse(MODEL)


BY_HAND: Mapping[str, Callable[[World], None]] = {
    change.__name__: change
    for change in (
        alias_deleted,
        alias_recreated,
        alias_moved,
        alias_mended,
        stable_replaced,
        stable_put_back,
        challenger_deleted,
        champion_deleted,
        share_lapsed,
    )
}


def change_by_hand(world: World, what: str, _controller: Controller) -> None:
    """Make the change; once the version has been promoted it is the champion, and only its deletion is of interest."""
    stable = world.of(MODEL).stable
    if what == challenger_deleted.__name__ or stable is None or stable.version != "2":
        BY_HAND[what](world)


def check_end_among_hands(rig: FaultyRig, rollout_id: str) -> End:
    """It ended, whatever hands did, and what is served, the ledger, and what is left of the registry agree."""
    rig.check(rollout_id)
    end = rig.ledger.events(rollout_id)[-1]
    assert isinstance(end, Ended), f"not ended: {rig.ledger.events(rollout_id)[-3:]}"
    world = rig.world
    later = [row for row in _later(rig, rollout_id) if row.end is End.PROMOTED]
    undone = any(bool(rig.controller().state(row.rollout_id).policy.undoes) for row in later)
    serves = end.end is End.PROMOTED and not later
    status = world.of(MODEL)
    assert status.stable is not None
    assert (status.stable.version == "2") == serves
    assert status.canary is None
    if (MODEL, "2") not in world.deleted:
        assert world.tags[MODEL, "2", "rampgate.status"] == (UNDONE if undone else end.end)
        assert world.tags[MODEL, "2", "rampgate.rollout"] == rollout_id
        assert (world.aliases.get((MODEL, "champion")) == "2") == serves
    assert not rig.lost_rollback("2", end.end), "a rollback was lost"
    return end.end


def _later(rig: FaultyRig, rollout_id: str) -> list[RolloutRow]:
    """The rollouts after this one; every one of them has ended."""
    rows = [row for row in rig.ledger.rollouts(MODEL) if row.rollout_id != rollout_id]
    for row in rows:
        rig.ended(row.rollout_id)
    return rows
