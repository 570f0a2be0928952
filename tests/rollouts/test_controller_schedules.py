"""Random schedules: duplicate ticks, two controllers, timeouts, crashes, outages of the ledger, full disks, clock
steps, a watch that dies and returns, leases that run out, bakes, undos, later challengers, versions that do not answer,
and hands that delete and move what belongs to the rollout, in the registry and on the serving side.

`RAMPGATE_SCHEDULES` sets how many are tried by the slow test (default 10,000).
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple, assert_never

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.errors import CommandRefused, LedgerError, RegistryError, ServingError
from pipelines.core.rollout.events import Order
from pipelines.core.rollout.policy import VALIDATION, Policy
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.rollouts.controller import Controller
from tests.support.by_hand import BY_HAND, change_by_hand, check_end_among_hands
from tests.support.faults import FULL, Crash, Fault, FaultyRig
from tests.support.rollouts import MODEL, artefact, evidence, good, harmful, manifest

ROLLOUT = "flight-delay-v2-c3872d99"

EXPECTED = (Crash, LedgerError, RegistryError, ServingError, OSError)

Give = Callable[[datetime], tuple[Evidence, ...]]


def nothing(at: datetime) -> tuple[Evidence, ...]:
    return ()


def unmeasured(at: datetime) -> tuple[Evidence, ...]:
    return tuple(evidence(name, Verdict.UNKNOWN, at) for name in ("errors", "cost"))


def sick(at: datetime) -> tuple[Evidence, ...]:
    return (*harmful(at), evidence("champion_health", Verdict.FAIL, at, source="serving"))


GIVES: tuple[Give, ...] = (nothing, good, good, good, unmeasured, harmful, sick)


class What(StrEnum):
    """What is done beside a person's orders."""

    DRIVE = "drive"
    ASSESS = "assess"
    EMERGENCY = "emergency"
    UNDO = "undo"
    LAPSE = "lapse"
    """The lease is over just now."""
    WATCH = "watch"
    WATCH_DIES = "watch_dies"
    WATCH_RETURNS = "watch_returns"
    CHALLENGE = "challenge"
    """Another version asks for a rollout: it is refused while one is open."""
    REPLACE = "replace"
    """It asks for the end of the one that is open, as `on_new_challenger: replace` does."""
    BREAK = "break"
    """The previous champion answers no more when it is started again."""
    MEND = "mend"


class Op(NamedTuple):
    """One call of a controller."""

    what: What | Order
    give: Give

    def on(self, rig: FaultyRig) -> Callable[[Controller], object]:
        items = self.give(rig.clock.now)

        def operation(controller: Controller) -> object:
            with contextlib.suppress(CommandRefused):
                if isinstance(self.what, Order):
                    return controller.command(rig.last_id, self.what, by="ada", reason="because")
                return perform(rig, controller, self.what, items)

        return operation


def perform(rig: FaultyRig, controller: Controller, what: What, items: tuple[Evidence, ...]) -> object:
    match what:
        case What.DRIVE:
            return drive(rig, controller, items)
        case What.ASSESS:
            return controller.assess(rig.last_id, measured(rig, items))
        case What.EMERGENCY:
            return controller.roll_back_now(rig.last_id, "guardrail", measured(rig, items))
        case What.UNDO:
            return rig.undo(controller)
        case What.LAPSE:
            return rig.world.lapse(MODEL)
        case What.WATCH:
            return rig.look(controller)
        case What.WATCH_DIES:
            return rig.watch_dies()
        case What.WATCH_RETURNS:
            return rig.watch_returns(controller)
        case What.CHALLENGE:
            return rig.challenge(controller)
        case What.REPLACE:
            return rig.replace(controller)
        case What.BREAK:
            return rig.world.broken.add("1")
        case What.MEND:
            return rig.world.broken.discard("1")
        case _:
            assert_never(what)


def measured(rig: FaultyRig, items: tuple[Evidence, ...]) -> tuple[Evidence, ...]:
    """Whether a version answers is asked of itself where that is all that is waited for."""
    return tuple(item for item in items if item.name != VALIDATION or not rig.undoes)


def drive(rig: FaultyRig, controller: Controller, items: tuple[Evidence, ...]) -> object:
    return rig.carry_on(controller) if rig.undoes else controller.drive(rig.last_id, items)


class Tick(NamedTuple):
    """An operation after some time, with something going wrong at one of its external calls."""

    op: Op
    wait: timedelta
    fault: str | None
    at: int
    meanwhile: Op
    by_hand: str
    """For the fault `by_hand`: what somebody changes in the registry or on the serving side."""


class Case(NamedTuple):
    """One rollout, and what comes over it."""

    ticks: list[Tick]
    approval: str
    steps: list[object]
    then: str | None
    """What follows an A/B test; None for a rollout."""
    bake: str
    drives: int
    """How often it was driven on good evidence before anything went wrong: up to its start, in its ramp, its bake, after its end."""
    watched: bool
    """Whether the watch is still alive then."""


_OFTEN = [What.DRIVE, What.DRIVE, What.UNDO, What.LAPSE, What.WATCH, What.WATCH_DIES, What.WATCH_RETURNS]

_OPS = st.builds(Op, st.sampled_from([*_OFTEN, *What, *Order]), st.sampled_from(GIVES))

_DRIVES = st.builds(Op, st.just(What.DRIVE), st.sampled_from(GIVES[1:4]))

_TICKS = st.builds(
    Tick,
    st.one_of(_DRIVES, _OPS),
    st.sampled_from([0.0, 0.5, 60.0, 60.0, 2400.0, 7200.0, -600.0]).map(lambda s: timedelta(seconds=s)),
    st.sampled_from([None, "crash", "error", "ledger_down", "meanwhile", "meanwhile", "by_hand", *FULL]),
    st.integers(1, 24),
    _OPS,
    st.sampled_from(sorted(BY_HAND)),
)

_SCHEDULES = st.lists(_TICKS, min_size=1, max_size=10)

_APPROVALS = st.sampled_from(["none", "none", "none", "promote", "every_step"])

_STEPS = st.sampled_from([[10, 50, 100], ["shadow", 10, 100], [25]])

_TESTS = st.sampled_from([None, None, None, "keep", "promote_if_better"])

_BAKES = st.sampled_from(["0s", "1s", "1m", "2h", "2h"])

_CASES = st.builds(
    Case,
    ticks=_SCHEDULES,
    approval=_APPROVALS,
    steps=_STEPS,
    then=_TESTS,
    bake=_BAKES,
    drives=st.sampled_from([0, 1, 3, 4, 6, 9]),
    watched=st.sampled_from([True, True, False]),
)


def run(case: Case, folder: Path) -> FaultyRig:
    rig = opened(case, folder)
    for _ in range(case.drives):
        rig.wait(timedelta(minutes=2))
        items = (*good(rig.clock.now), evidence("agreement", Verdict.PASS, rig.clock.now))
        rig.do(partial(drive, rig, items=items))
    rig.watched = case.watched
    for tick in case.ticks:
        rig.wait(tick.wait)
        fault = None
        if tick.fault is not None:
            hand = partial(change_by_hand, rig.world, tick.by_hand)
            fault = Fault(tick.fault, tick.at, hand if tick.fault == "by_hand" else tick.meanwhile.on(rig))
        with contextlib.suppress(*EXPECTED):
            rig.do(tick.op.on(rig), fault)
        rig.check_last()
    finish(rig)
    return rig


def opened(case: Case, folder: Path) -> FaultyRig:
    rig = FaultyRig(folder)
    rig.world.serving(MODEL, "1")
    test = {"share": 20, "duration": "2m", "then": case.then or "keep"}
    wanted = manifest(steps=case.steps, approval=case.approval, ab_test=test, bake=case.bake)
    policy = Policy.of_test(wanted) if case.then else Policy.of(wanted)
    rig.do(lambda controller: controller.start(wanted, "2", "1", artefact("2"), policy=policy))
    return rig


def finish(rig: FaultyRig) -> None:
    """Everything works again: an order to abort, and driving, ends it in one consistent place."""
    rig.world.broken.clear()
    rig.do(Op(Order.ABORT, nothing).on(rig))
    for _ in range(3):
        rig.wait(timedelta(minutes=1))
        rig.do(Op(What.DRIVE, nothing).on(rig))
    check_end_among_hands(rig, ROLLOUT)
    rig.ledger.close()


def tried(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=count < 1000,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@tried(60)
@given(_CASES)
def test_any_schedule_ends_consistently(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(case, Path(folder))


@pytest.mark.faults
@pytest.mark.timeout(7200)
@tried(int(os.environ.get("RAMPGATE_SCHEDULES", "10000")))
@given(_CASES)
def test_many_schedules_end_consistently(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(case, Path(folder))
