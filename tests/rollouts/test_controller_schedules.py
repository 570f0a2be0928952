"""Random schedules: duplicate ticks, two controllers, timeouts, crashes, outages of the ledger, full disks, clock
steps, and hands that delete and move what belongs to the rollout, in the registry and on the serving side.

`RAMPGATE_SCHEDULES` sets how many are tried by the slow test (default 10,000).
"""

import contextlib
import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.core.errors import CommandRefused, LedgerError, RegistryError, ServingError
from pipelines.core.rollout.events import Order
from pipelines.core.rollout.policy import Policy
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.rollouts.controller import Controller
from tests.support.by_hand import BY_HAND, change_by_hand, check_end_among_hands
from tests.support.faults import FULL, Crash, Fault, FaultyRig
from tests.support.rollouts import MODEL, artefact, evidence, good, harmful, manifest, watch

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

DRIVE, ASSESS, EMERGENCY, LAPSE, WATCH = "drive", "assess", "emergency", "lapse", "watch"


class Op(NamedTuple):
    """One call of a controller."""

    what: str
    give: Give

    def on(self, rig: FaultyRig) -> Callable[[Controller], object]:
        items = self.give(rig.clock.now)

        def operation(controller: Controller) -> object:
            with contextlib.suppress(CommandRefused):
                if self.what == DRIVE:
                    return controller.drive(ROLLOUT, items)
                if self.what == LAPSE:
                    return rig.world.lapse(MODEL)
                if self.what == WATCH:
                    return watch(rig, controller)
                if self.what == ASSESS:
                    return controller.assess(ROLLOUT, items)
                if self.what == EMERGENCY:
                    return controller.roll_back_now(ROLLOUT, "guardrail", items)
                return controller.command(ROLLOUT, Order(self.what), by="ada", reason="because")

        return operation


class Tick(NamedTuple):
    """An operation after some time, with something going wrong at one of its external calls."""

    op: Op
    wait: timedelta
    fault: str | None
    at: int
    meanwhile: Op
    by_hand: str
    """For the fault `by_hand`: what somebody changes in the registry or on the serving side."""


_OPS = st.builds(
    Op,
    st.sampled_from(
        [DRIVE, DRIVE, DRIVE, ASSESS, EMERGENCY, LAPSE, LAPSE, WATCH, WATCH, *[str(order) for order in Order]]
    ),
    st.sampled_from(GIVES),
)

_DRIVES = st.builds(Op, st.just(DRIVE), st.sampled_from(GIVES[1:4]))

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

_APPROVALS = st.sampled_from(["none", "none", "promote", "every_step"])

_STEPS = st.sampled_from([[10, 50, 100], ["shadow", 10, 100], [25]])

_TESTS = st.sampled_from([None, None, "keep", "promote_if_better"])


_BAKES = st.sampled_from(["0s", "1s", "1m", "2h"])


def run(
    ticks: list[Tick], approval: str, steps: list[object], then: str | None, bake: str, folder: Path
) -> None:
    """`then`: what follows an A/B test; None for a rollout."""
    rig = FaultyRig(folder)
    rig.world.serving(MODEL, "1")
    test = {"share": 20, "duration": "2m", "then": then or "keep"}
    wanted = manifest(steps=steps, approval=approval, ab_test=test, bake=bake)
    policy = Policy.of_test(wanted) if then else Policy.of(wanted)
    rig.do(lambda controller: controller.start(wanted, "2", "1", artefact("2"), policy=policy))
    for tick in ticks:
        rig.clock.tick(tick.wait)
        fault = None
        if tick.fault is not None:
            hand = partial(change_by_hand, rig.world, tick.by_hand)
            fault = Fault(tick.fault, tick.at, hand if tick.fault == "by_hand" else tick.meanwhile.on(rig))
        with contextlib.suppress(*EXPECTED):
            rig.do(tick.op.on(rig), fault)
        rig.check(ROLLOUT)
    finish(rig)


def finish(rig: FaultyRig) -> None:
    """Everything works again: an order to abort, and driving, ends it in one consistent place."""
    rig.do(Op(str(Order.ABORT), nothing).on(rig))
    for _ in range(3):
        rig.clock.tick(timedelta(minutes=1))
        rig.do(Op(DRIVE, nothing).on(rig))
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
@given(_SCHEDULES, _APPROVALS, _STEPS, _TESTS, _BAKES)
def test_any_schedule_ends_consistently(
    ticks: list[Tick], approval: str, steps: list[object], then: str | None, bake: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(ticks, approval, steps, then, bake, Path(folder))


@pytest.mark.faults
@pytest.mark.timeout(3600)
@tried(int(os.environ.get("RAMPGATE_SCHEDULES", "10000")))
@given(_SCHEDULES, _APPROVALS, _STEPS, _TESTS, _BAKES)
def test_many_schedules_end_consistently(
    ticks: list[Tick], approval: str, steps: list[object], then: str | None, bake: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(ticks, approval, steps, then, bake, Path(folder))
