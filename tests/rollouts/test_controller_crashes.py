"""Crash at every external call of every path, restart, and end where the uninterrupted run ends."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import CommandRefused
from pipelines.core.rollout.events import End, Order
from pipelines.core.rollout.policy import Policy
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.controller import Controller
from tests.support.faults import Crash, Fault, FaultyRig
from tests.support.rollouts import MODEL, START, artefact, evidence, good, harmful, manifest, watch

ROLLOUT = "flight-delay-v2-c3872d99"

Tick = Callable[[FaultyRig, Controller], object]


def start(rig: FaultyRig, controller: Controller, **changes: Any) -> str:
    wanted, champion = manifest(**changes), rig.world.aliases.get((MODEL, "champion"))
    policy = Policy.of(wanted) if wanted.ab_test is None else Policy.of_test(wanted)
    return controller.start(wanted, "2", champion, artefact("2"), policy=policy)


def lapse(rig: FaultyRig, controller: Controller) -> None:
    rig.world.lapse(MODEL)


def watch_again(rig: FaultyRig, controller: Controller) -> None:
    watch(rig, controller)


BAKE, LONG_BAKE = {"bake": "90s"}, {"bake": "1h"}


def ab_test(then: str) -> dict[str, Any]:
    return {"ab_test": {"share": 20, "duration": "30s", "then": then}}


def drive_good(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(ROLLOUT, good(rig.clock.now))


def drive_agreeing(rig: FaultyRig, controller: Controller) -> None:
    agree = evidence("agreement", Verdict.PASS, rig.clock.now)
    controller.drive(ROLLOUT, (*good(rig.clock.now), agree))


def drive_harmful(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(ROLLOUT, harmful(rig.clock.now))


def drive_refused(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(ROLLOUT)
    controller.drive(ROLLOUT, [evidence("validation", Verdict.FAIL, rig.clock.now)])


def emergency(rig: FaultyRig, controller: Controller) -> None:
    controller.roll_back_now(ROLLOUT, "guardrail", harmful(rig.clock.now))


def drive(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(ROLLOUT)


def order(what: Order) -> Tick:
    def give(rig: FaultyRig, controller: Controller) -> None:
        with contextlib.suppress(CommandRefused):
            controller.command(ROLLOUT, what, by="ada", reason="because")

    return give


@dataclass(frozen=True)
class Path_:
    """Operations, a minute apart, and how they end."""

    ticks: tuple[Tick, ...]
    end: End
    champion: str | None = "1"
    changes: dict[str, Any] = field(default_factory=dict)


PATHS = {
    "first version": Path_((start, drive_good, drive_good), End.PROMOTED, champion=None),
    "advance and promote": Path_((start, *[drive_good] * 4), End.PROMOTED),
    "shadow": Path_((start, *[drive_agreeing] * 5), End.PROMOTED, changes={"steps": ["shadow", 10, 100]}),
    "roll back": Path_((start, drive_good, drive_harmful, drive), End.ROLLED_BACK),
    "roll back now": Path_((start, drive_good, emergency, drive), End.ROLLED_BACK),
    "refuse": Path_((start, drive_refused, drive), End.REFUSED),
    "abort": Path_((start, drive_good, order(Order.ABORT), drive), End.ABORTED),
    "order a rollback": Path_((start, drive_good, order(Order.ROLL_BACK_NOW), drive), End.ROLLED_BACK),
    "A/B test": Path_((start, *[drive_good] * 2), End.COMPARED, changes=ab_test("keep")),
    "A/B test, better": Path_((start, *[drive_good] * 2), End.PROMOTED, changes=ab_test("promote_if_better")),
    "A/B test, harmful": Path_(
        (start, drive_good, emergency, drive), End.ROLLED_BACK, changes=ab_test("keep")
    ),
    "lapse": Path_((start, drive_good, lapse, watch_again, *[drive_good] * 4), End.PROMOTED),
    "lapse of a shadow": Path_(
        (start, drive_good, lapse, watch_again, *[drive_agreeing] * 5),
        End.PROMOTED,
        changes={"steps": ["shadow", 10, 100]},
    ),
    "lapse, harm in the gap": Path_(
        (start, drive_good, lapse, watch_again, drive_harmful, drive), End.ROLLED_BACK
    ),
    "bake": Path_((start, *[drive_good] * 6), End.PROMOTED, changes=BAKE),
    "bake, harm": Path_((start, *[drive_good] * 4, drive_harmful, drive), End.ROLLED_BACK, changes=LONG_BAKE),
    "bake, harm now": Path_((start, *[drive_good] * 4, emergency, drive), End.ROLLED_BACK, changes=LONG_BAKE),
    "bake, abort": Path_(
        (start, *[drive_good] * 4, order(Order.ABORT), drive), End.ABORTED, changes=LONG_BAKE
    ),
    "bake, ended early": Path_(
        (start, *[drive_good] * 4, order(Order.FORCE_PROMOTE), drive), End.PROMOTED, changes=LONG_BAKE
    ),
    "bake, forced into": Path_(
        (start, drive_good, order(Order.FORCE_PROMOTE), drive, drive_harmful, drive),
        End.ROLLED_BACK,
        changes=LONG_BAKE,
    ),
    "bake after an A/B test": Path_(
        (start, *[drive_good] * 5), End.PROMOTED, changes=ab_test("promote_if_better") | BAKE
    ),
    "force": Path_((start, drive_good, order(Order.FORCE_PROMOTE), drive), End.PROMOTED),
}


def prepared(path: Path_, folder: Path) -> FaultyRig:
    rig = FaultyRig(folder)
    if path.champion is not None:
        rig.world.serving(MODEL, path.champion)
    rig.world.aliases[MODEL, "challenger"] = "2"
    return rig


def run(path: Path_, rig: FaultyRig, crash_at: int | None) -> int:
    """All ticks; the one that crashes is done again by a controller that knows nothing. Returns the calls made."""
    made = 0
    for minute, tick in enumerate(path.ticks):
        rig.clock.now = START.replace(minute=minute)

        def operation(controller: Controller, tick: Tick = tick) -> object:
            return tick(rig, controller) if tick is not start else start(rig, controller, **path.changes)

        fault = None if crash_at is None or crash_at <= made else Fault("crash", crash_at - made)
        try:
            made += rig.do(operation, fault)
        except Crash:
            made = crash_at or 0
            rig.check_if_started(ROLLOUT)
            rig.clock.now = rig.clock.now.replace(second=20)
            rig.do(operation)
    return made


def crash_at_every(stride: int, name: str, folder: Path) -> None:
    """At each `stride`-th call; which ones, differs from path to path."""
    path = PATHS[name]
    whole = prepared(path, folder / "whole")
    calls = run(path, whole, None)
    assert whole.check_end(ROLLOUT, path.champion) is path.end
    assert calls > 20
    for crash_at in range(1 + list(PATHS).index(name) % stride, calls + 1, stride):
        rig = prepared(path, folder / str(crash_at))
        run(path, rig, crash_at)
        assert rig.check_end(ROLLOUT, path.champion) is path.end, f"crash at call {crash_at}"
        assert rig.world.status == whole.world.status
        assert (rig.world.aliases, rig.world.tags) == (whole.world.aliases, whole.world.tags)
        rig.ledger.close()


@pytest.mark.parametrize("name", PATHS)
def test_a_crash_anywhere_changes_nothing_about_the_end(name: str, tmp_path: Path) -> None:
    crash_at_every(4, name, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", PATHS)
def test_a_crash_at_every_call_changes_nothing_about_the_end(name: str, tmp_path: Path) -> None:
    crash_at_every(1, name, tmp_path)
