"""Crash at every external call of every path, restart, and end where the uninterrupted run ends."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import CommandRefused
from pipelines.core.rollout.events import End, Ended, Order
from pipelines.core.rollout.policy import Policy
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.controller import Controller
from tests.support.faults import Crash, Fault, FaultyRig
from tests.support.rollouts import MODEL, START, artefact, evidence, good, harmful, manifest

ROLLOUT = "flight-delay-v2-c3872d99"

Tick = Callable[[FaultyRig, Controller], object]


def start(rig: FaultyRig, controller: Controller, **changes: Any) -> str:
    wanted, champion = manifest(**changes), rig.world.aliases.get((MODEL, "champion"))
    policy = Policy.of(wanted) if wanted.ab_test is None else Policy.of_test(wanted)
    return controller.start(wanted, "2", champion, artefact("2"), policy=policy)


def lapse(rig: FaultyRig, controller: Controller) -> None:
    rig.world.lapse(MODEL)


def watch_again(rig: FaultyRig, controller: Controller) -> None:
    rig.look(controller)


def watch_dies(rig: FaultyRig, controller: Controller) -> None:
    rig.watch_dies()


def watch_returns(rig: FaultyRig, controller: Controller) -> None:
    rig.watch_returns(controller)


def undo(rig: FaultyRig, controller: Controller) -> None:
    """Ordered once: who has had his answer does not ask again because his computer crashed."""
    answered = rig.undoes and isinstance(rig.last()[-1], Ended)
    with contextlib.suppress(CommandRefused):
        if not answered:
            rig.undo(controller)


def carry_on(rig: FaultyRig, controller: Controller) -> None:
    rig.carry_on(controller)


def breaks(rig: FaultyRig, controller: Controller) -> None:
    """The previous champion answers no more when it is started again."""
    rig.world.broken.add("1")


def challenge(rig: FaultyRig, controller: Controller) -> None:
    with contextlib.suppress(CommandRefused):
        rig.challenge(controller)


def replace(rig: FaultyRig, controller: Controller) -> None:
    with contextlib.suppress(CommandRefused):
        rig.replace(controller)


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
    controller.drive(rig.last_id)


def order(what: Order) -> Tick:
    def give(rig: FaultyRig, controller: Controller) -> None:
        with contextlib.suppress(CommandRefused):
            controller.command(rig.last_id, what, by="ada", reason="because")

    return give


@dataclass(frozen=True)
class Path_:
    """Operations, a minute apart, and how they end."""

    ticks: tuple[Tick, ...]
    end: End
    champion: str | None = "1"
    changes: dict[str, Any] = field(default_factory=dict)
    later: tuple[End, ...] = ()
    """How the rollouts after it end."""
    served: str = "2"
    """What is served in the end, where there were any."""


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
    "watch dies": Path_(
        (start, drive_good, watch_dies, drive, watch_returns, *[drive_good] * 4), End.PROMOTED
    ),
    "watch dies, harm in the gap": Path_(
        (start, drive_good, watch_dies, drive, watch_returns, drive_harmful, drive), End.ROLLED_BACK
    ),
    "watch dies in a bake": Path_(
        (start, *[drive_good] * 4, watch_dies, watch_returns, *[drive_good] * 2), End.PROMOTED, changes=BAKE
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
    "bake, a challenger waits": Path_(
        (start, *[drive_good] * 4, challenge, *[drive_good] * 2, challenge, order(Order.ABORT), drive),
        End.PROMOTED,
        changes=BAKE,
        later=(End.ABORTED,),
    ),
    "bake, a challenger replaces it": Path_(
        (start, *[drive_good] * 4, replace, drive, challenge, order(Order.ABORT), drive),
        End.PROMOTED,
        changes=LONG_BAKE,
        later=(End.ABORTED,),
    ),
    "undo in a bake": Path_((start, *[drive_good] * 4, undo, drive), End.ROLLED_BACK, changes=LONG_BAKE),
    "undo after it": Path_(
        (start, *[drive_good] * 4, undo, carry_on), End.PROMOTED, later=(End.PROMOTED,), served="1"
    ),
    "undo of the undo": Path_(
        (start, *[drive_good] * 4, undo, undo, carry_on), End.PROMOTED, later=(End.PROMOTED,), served="1"
    ),
    "undo to what does not answer": Path_(
        (start, *[drive_good] * 4, breaks, undo, carry_on), End.PROMOTED, later=(End.REFUSED,)
    ),
    "undo in a ramp": Path_((start, drive_good, undo, *[drive_good] * 3), End.PROMOTED),
    "undo of a first version": Path_((start, drive_good, drive_good, undo), End.PROMOTED, champion=None),
    "force": Path_((start, drive_good, order(Order.FORCE_PROMOTE), drive), End.PROMOTED),
}


def prepared(path: Path_, folder: Path) -> FaultyRig:
    rig = FaultyRig(folder)
    if path.champion is not None:
        rig.world.serving(MODEL, path.champion)
    rig.world.aliases[MODEL, "challenger"] = "2"
    return rig


def run(path: Path_, rig: FaultyRig, crash_at: int | None) -> list[str]:
    """All ticks; the one that crashes is done again by a controller that knows nothing. Returns the calls made."""
    made: list[str] = []
    for minute, tick in enumerate(path.ticks):
        rig.wait(START.replace(minute=minute) - rig.clock.now)

        def operation(controller: Controller, tick: Tick = tick) -> object:
            return tick(rig, controller) if tick is not start else start(rig, controller, **path.changes)

        fault = None if crash_at is None or crash_at <= len(made) else Fault("crash", crash_at - len(made))
        try:
            rig.do(operation, fault)
            made += rig.called
        except Crash:
            made += rig.called
            rig.check_last()
            rig.clock.now = rig.clock.now.replace(second=20)
            rig.do(operation)
    return made


def check_ended(path: Path_, rig: FaultyRig) -> None:
    if not path.later:
        assert rig.check_end(ROLLOUT, path.champion) is path.end
        return
    assert [rig.ended(rollout) for rollout in rig.ledger.history] == [path.end, *path.later]
    stable, canary = rig.world.of(MODEL).stable, rig.world.of(MODEL).canary
    assert (stable and stable.version, canary) == (path.served, None)
    assert rig.world.aliases[MODEL, "champion"] == path.served


@dataclass(frozen=True)
class Whole:
    """A path that nothing interrupted."""

    rig: FaultyRig
    calls: tuple[str, ...]
    """The names of its external calls, in order."""

    def sample(self, number: int) -> tuple[int, ...]:
        """Of the kinds of calls every second one, at one of the calls of that kind; which, differs from path to path."""
        kinds = sorted(set(self.calls))[number % STRIDE :: STRIDE]
        places = ([at for at, name in enumerate(self.calls, start=1) if name == kind] for kind in kinds)
        return tuple(sorted(calls[number // STRIDE % len(calls)] for calls in places))


STRIDE = 2

Uninterrupted = Callable[[str], Whole]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    """Each path is run whole once."""

    @cache
    def whole(name: str) -> Whole:
        path = PATHS[name]
        rig = prepared(path, tmp_path_factory.mktemp("whole"))
        calls = run(path, rig, None)
        check_ended(path, rig)
        assert len(calls) > 20
        return Whole(rig, tuple(calls))

    return whole


def crash_at_each(places: Iterable[int], name: str, whole: Whole, folder: Path) -> None:
    """Whatever call the process was gone at, it all ends as if it had not been."""
    path = PATHS[name]
    for crash_at in places:
        rig = prepared(path, folder / str(crash_at))
        run(path, rig, crash_at)
        check_ended(path, rig)
        assert rig.world.status == whole.rig.world.status
        assert (rig.world.aliases, rig.world.tags) == (whole.rig.world.aliases, whole.rig.world.tags)
        rig.ledger.close()


@pytest.mark.parametrize(("number", "name"), list(enumerate(PATHS)))
def test_a_crash_anywhere_changes_nothing_about_the_end(
    number: int, name: str, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    whole = uninterrupted(name)
    crash_at_each(whole.sample(number), name, whole, tmp_path)


def test_of_each_kind_of_call_some_are_crashed_at(uninterrupted: Uninterrupted) -> None:
    wholes = [uninterrupted(name) for name in PATHS]
    sampled = Counter(
        whole.calls[at - 1] for number, whole in enumerate(wholes) for at in whole.sample(number)
    )
    assert set(sampled) == {call for whole in wholes for call in whole.calls}


@pytest.mark.faults
@pytest.mark.parametrize("name", PATHS)
def test_a_crash_at_every_call_changes_nothing_about_the_end(
    name: str, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    whole = uninterrupted(name)
    crash_at_each(range(1, len(whole.calls) + 1), name, whole, tmp_path)
