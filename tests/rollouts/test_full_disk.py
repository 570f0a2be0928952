"""A disk without a free byte: the brake works, is remembered, and nothing is raised again meanwhile."""

import errno
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.core.errors import LedgerError, StillInTraffic
from pipelines.core.rollout.events import Action, DecisionKind, End, Order
from pipelines.core.rollout.state import Phase
from pipelines.rollouts.emergency import EMERGENCY, UNRECORDED
from pipelines.rollouts.journal import Spool
from resources.files import replace_with_spare, reserve
from resources.ledger.ledger import Ledger
from resources.notifier import Notifier
from resources.settings import Settings
from tests.support.full_disk import Disk, full_disk
from tests.support.rollouts import MODEL, Rig, good, harmful


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with full_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture
def rig(disk: Disk) -> Rig:
    return Rig(disk.place)


def at_ten_percent(rig: Rig) -> str:
    rollout = rig.start()
    rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 10
    rig.clock.tick()
    return rollout


def test_a_full_disk_does_not_keep_traffic_at_a_harmful_version(rig: Rig, disk: Disk) -> None:
    """Neither the lock, nor the ledger, nor a new file can be written: the traffic goes, the spare keeps the record."""
    rollout = at_ten_percent(rig)
    disk.fill()
    decision = rig.controller().roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert (decision.kind, decision.rule) == (DecisionKind.ROLL_BACK, EMERGENCY)
    assert "the ledger is told when it is back" in decision.reason
    assert rig.share() == 0
    with pytest.raises(LedgerError):
        rig.controller().drive(rollout, good(rig.clock.now))
    assert rig.share() == 0
    disk.free()
    rig.controller().drive(rollout, good(rig.clock.now))
    state = rig.controller().state(rollout)
    assert (state.end, state.end_reason) == (End.ROLLED_BACK, "errors: errors is fail")
    assert max(effect.percent for effect in rig.world.effects if effect.version == "2") == 10


def test_a_rollback_that_can_be_written_nowhere_is_remembered_until_it_can(rig: Rig, disk: Disk) -> None:
    rollout = at_ten_percent(rig)
    for spare in (disk.place / "spool").glob(".*"):
        spare.unlink()
    disk.fill()
    watcher = rig.controller()
    decision = watcher.roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    assert decision.rule == UNRECORDED
    assert "this process alone knows of it" in decision.reason
    assert (rig.share(), watcher.owes(rollout)) == (0, True)
    disk.free()
    assert watcher.assess(rollout).kind is DecisionKind.ROLL_BACK
    assert rig.controller().state(rollout).phase is Phase.ROLLING_BACK


@pytest.mark.parametrize("steps", [[10, 50, 100], [10, 100]])
def test_a_share_that_was_taken_away_and_never_recorded_is_not_given_back(
    rig: Rig, disk: Disk, steps: list[int]
) -> None:
    """Ledger: 10 %. Serving side: 0 %. The one that knew why is gone. Neither an advance nor a promotion follows."""
    rollout = rig.start(steps=steps)
    rig.controller().drive(rollout, good(rig.clock.now))
    rig.clock.tick()
    for spare in (disk.place / "spool").glob(".*"):
        spare.unlink()
    disk.fill()
    rig.controller().roll_back_now(rollout, "guardrail", harmful(rig.clock.now))
    disk.free()
    for _ in range(3):
        rig.clock.tick()
        rig.controller().drive(rollout, good(rig.clock.now))
        assert rig.share() == 0
    trouble = rig.controller().state(rollout).trouble
    assert trouble is not None
    assert "not the expected 10 %" in trouble.message


def test_no_share_is_given_while_there_is_no_room_for_the_way_back(rig: Rig, disk: Disk) -> None:
    """The ledger is elsewhere and can be written; the home is full."""
    elsewhere = Ledger(f"sqlite:///{disk.place.parent / 'ledger.db'}")
    controller = rig.controller(ledger=elsewhere)
    rig.world.serving(MODEL, "1")
    rollout = _started(rig, controller)
    disk.fill()
    controller.drive(rollout, good(rig.clock.now))
    state = controller.state(rollout)
    assert (rig.share(), state.trouble is not None and state.trouble.action) == (0, Action.SET_PERCENT)
    disk.free()
    rig.clock.tick()
    controller.drive(rollout, good(rig.clock.now))
    assert rig.share() == 10
    elsewhere.close()


def _started(rig: Rig, controller) -> str:
    from tests.support.rollouts import artefact, manifest

    return controller.start(manifest(), "2", "1", artefact("2"))


@pytest.mark.parametrize("damage", [b"", b'{"rollout_id": "fl', b"\xff" * 40])
def test_a_damaged_record_in_the_spool_still_says_that_there_was_a_rollback(rig: Rig, damage: bytes) -> None:
    rollout = at_ten_percent(rig)
    path = Spool(rig.folder / "spool")._path(rollout)
    path.write_bytes(damage)
    assert rig.controller().roll_back_now(rollout, "guardrail", harmful(rig.clock.now)).kind is (
        DecisionKind.ROLL_BACK
    )
    assert rig.share() == 0
    rig.controller().drive(rollout)
    assert rig.controller().state(rollout).end is End.ROLLED_BACK


def test_a_damaged_record_of_one_rollout_ends_it_and_no_other(rig: Rig) -> None:
    rollout = at_ten_percent(rig)
    (rig.folder / "spool" / "0123.json").write_bytes(b"{")
    assert rig.controller().assess(rollout, good(rig.clock.now)).kind is DecisionKind.ADVANCE
    Spool(rig.folder / "spool")._path(rollout).write_bytes(b"{")
    rig.controller().drive(rollout, good(rig.clock.now))
    state = rig.controller().state(rollout)
    assert (rig.share(), state.end) == (0, End.ROLLED_BACK)
    assert "whose record cannot be read" in state.end_reason


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyError("canary"), ValueError("odd")])
def test_whatever_a_library_raises_on_the_way_of_the_brake_is_recorded_and_said_plainly(
    rig: Rig, error: Exception
) -> None:
    rollout = at_ten_percent(rig)

    def broken(name: str) -> None:
        if name == "before set_canary_percent":
            raise error

    controller = rig.controller(hook=broken)
    with pytest.raises(StillInTraffic, match=f"could NOT be taken away .*{type(error).__name__}"):
        controller.command(rollout, Order.ROLL_BACK_NOW, by="ada", reason="harm")
    assert rig.controller().state(rollout).phase is Phase.ROLLING_BACK
    assert any("traffic_off failed" in alert.title for alert in rig.ledger.outbox.all())
    controller.drive(rollout)
    trouble = rig.controller().state(rollout).trouble
    assert trouble is not None
    assert trouble.message.startswith(type(error).__name__)
    rig.controller().drive(rollout)
    assert (rig.share(), rig.controller().state(rollout).end) == (0, End.ROLLED_BACK)


def test_alerts_are_told_once_while_the_ledger_takes_no_note_of_it(rig: Rig, disk: Disk) -> None:
    at_ten_percent(rig)
    elsewhere = disk.place.parent / "elsewhere"
    settings = Settings.from_environment({"RAMPGATE_HOME": str(elsewhere)})
    ledger = rig.ledger
    notifier = Notifier(ledger, settings, clock=rig.clock, environment={})
    with ledger.exclusive("notifier", wait=timedelta(0)):
        disk.fill()
    for _ in range(3):
        notifier.deliver()
    lines = (elsewhere / "alerts.jsonl").read_text().splitlines()
    assert len(lines) == len(ledger.outbox.waiting()) > 0
    disk.free()
    notifier.deliver()
    assert ledger.outbox.waiting() == ()
    assert (elsewhere / "alerts.jsonl").read_text().splitlines() == lines


def test_a_file_is_replaced_again_and_again_without_a_free_byte(disk: Disk) -> None:
    path = disk.place / "routes.json"
    replace_with_spare(path, b'{"share": 20}')
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        replace_with_spare(path, b'{"share": 50, "more": "' + b"x" * 20000 + b'"}')
    for share in (0, 7, 0):
        replace_with_spare(path, b'{"share": %d}' % share, from_reserve=True)
        assert path.read_bytes().rstrip() == b'{"share": %d}' % share
    assert reserve(path, 13) > 13, "there is a spare for the next time"
    assert sorted(each.name for each in disk.place.iterdir()) == [
        ".routes.json.spare",
        "ballast",
        "routes.json",
    ]
