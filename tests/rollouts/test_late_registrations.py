"""A process that writes an alias or a tag after others have gone on: in the end the registry says what the ledger does."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.core.errors import RegistryError
from pipelines.core.rollout.events import Action, End, Intent, Order
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Evidence
from pipelines.rollouts.actions import UNDONE
from pipelines.rollouts.controller import Controller
from tests.rollouts.test_controller_schedules import Case, Op, Tick, What, nothing, run
from tests.support.faults import Fault, FaultyRig
from tests.support.rollouts import MODEL, Rig, artefact, good, harmful, manifest

AT_THE_TAGS = 30
"""Among the calls of a drive that begins a bake: between two tags."""

Meanwhile = Callable[[FaultyRig, Controller], object]


def force_promote(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(rig.last_id, good(rig.clock.now))
    controller.command(rig.last_id, Order.FORCE_PROMOTE, by="ada", reason="because")


def promoted_and_undone(rig: FaultyRig, controller: Controller) -> None:
    controller.drive(rig.last_id)
    rig.undo(controller)


def undone_in_the_bake(rig: FaultyRig, controller: Controller) -> None:
    rig.undo(controller)


def fourth_promoted(rig: FaultyRig, controller: Controller) -> None:
    """The rollback is finished by somebody else, and version 4 takes the place of version 1."""
    controller.drive(rig.last_id)
    rig.challenge(controller)
    force_promote(rig, controller)
    controller.drive(rig.last_id)


def about_to_register(folder: Path, *, bake: str, harm: bool) -> tuple[FaultyRig, tuple[Evidence, ...]]:
    """The next drive, on this evidence, promotes version 2, begins its bake, or takes it back out of the bake."""
    rig = FaultyRig(folder)
    rig.world.serving(MODEL, "1")
    rig.do(lambda controller: controller.start(manifest(steps=[10, 100], bake=bake), "2", "1", artefact("2")))
    rig.do(lambda controller: force_promote(rig, controller))
    if not harm:
        return rig, ()
    rig.do(lambda controller: controller.drive(rig.last_id))
    assert rig.controller().state(rig.last_id).phase is Phase.BAKING
    rig.clock.tick(timedelta(minutes=1))
    return rig, harmful(rig.clock.now)


def registers(rig: FaultyRig) -> bool:
    last = rig.last()[-1]
    return isinstance(last, Intent) and last.action is Action.REGISTER


@pytest.mark.parametrize(
    ("bake", "harm", "meanwhile", "status", "champion"),
    [
        ("0s", False, promoted_and_undone, UNDONE, "1"),
        ("24h", False, undone_in_the_bake, End.ROLLED_BACK, "1"),
        ("24h", True, fourth_promoted, End.ROLLED_BACK, "4"),
    ],
)
def test_a_late_writer_of_aliases_and_tags_ends_in_what_the_ledger_says(
    tmp_path: Path, bake: str, harm: bool, meanwhile: Meanwhile, status: str, champion: str
) -> None:
    """Held up at each of its calls in turn, once it has said that it registers."""
    held_up, at, count = 0, 1, 1
    while at <= count:
        rig, items = about_to_register(tmp_path, bake=bake, harm=harm)
        first, overtaken = rig.last_id, list[int]()

        def others(controller: Controller, rig: FaultyRig = rig, overtaken: list[int] = overtaken) -> None:
            if registers(rig):
                meanwhile(rig, controller)
                overtaken.append(1)

        count = rig.do(
            lambda c, first=first, items=items: c.drive(first, items), Fault("meanwhile", at, others)
        )
        if overtaken:
            tags = {name: rig.world.tags[MODEL, "2", f"rampgate.{name}"] for name in ("status", "rollout")}
            assert tags == {"status": status, "rollout": first}, at
            stable = rig.world.of(MODEL).stable
            assert stable is not None
            assert rig.world.aliases[MODEL, "champion"] == champion == stable.version, at
        held_up, at = held_up + len(overtaken), at + 1
        rig.ledger.close()
    assert held_up > 5, "or nobody was late"


def test_an_undo_while_somebody_else_registers_the_bake_leaves_no_tag_that_says_promoted(
    tmp_path: Path,
) -> None:
    """Found among random schedules."""

    def tick(what: What | Order, meanwhile: What | None = None) -> Tick:
        fault = None if meanwhile is None else "meanwhile"
        return Tick(
            Op(what, good), timedelta(0), fault, 24, Op(meanwhile or What.DRIVE, nothing), "alias_deleted"
        )

    ticks = [tick(What.DRIVE), tick(What.DRIVE), tick(Order.FORCE_PROMOTE), tick(What.DRIVE, What.UNDO)]
    run(Case(ticks, "none", [10, 50, 100], None, "1s", drives=0, watched=True), tmp_path)


def test_a_late_refusal_is_not_the_last_word_of_a_version_that_was_promoted_since(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.world.serving(MODEL, "1")
    calls: list[str] = []

    def held_up(name: str) -> None:
        calls.append(name)
        if calls.count("before tag") == 1 and name == "before tag":
            rollout = rig.start()
            rig.controller().drive(rollout, good(rig.clock.now))
            rig.controller().command(rollout, Order.FORCE_PROMOTE, by="ada", reason="because")
            rig.controller().drive(rollout)

    rig.controller(hook=held_up).refuse(MODEL, "2", "no signature")
    (refused, promoted) = rig.ledger.rollouts(MODEL)
    assert (refused.end, promoted.end) == (End.REFUSED, End.PROMOTED)
    assert rig.world.tags[MODEL, "2", "rampgate.status"] == End.PROMOTED
    assert rig.world.tags[MODEL, "2", "rampgate.rollout"] == promoted.rollout_id


def test_a_late_registration_that_cannot_be_put_right_is_alerted(tmp_path: Path) -> None:
    rig, _ = about_to_register(tmp_path, bake="24h", harm=False)
    first = rig.last_id

    def others(controller: Controller) -> None:
        if registers(rig):
            rig.undo(controller)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.rollouts.last_word.LastWord.put_right", _silent)
        rig.do(lambda controller: controller.drive(first), Fault("meanwhile", AT_THE_TAGS, others))
    found = [alert for alert in rig.ledger.outbox.all() if "registry may say" in alert.title]
    assert [alert.severity for alert in found] == ["critical"]


def _silent(*_: object, **__: object) -> None:
    raise RegistryError("no answer")
