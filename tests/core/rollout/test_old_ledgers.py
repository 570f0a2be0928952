"""A ledger that was written before there were leases and bakes: it is read, taken again, and carried on."""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.core.rollout.decide import decide, decisions, replay
from pipelines.core.rollout.events import DecisionKind, End, Event, Order, load
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.state import Owed, Phase, owed
from pipelines.rollouts.controller import Controller
from resources.serving.contract import RevisionStatus, ServiceStatus
from tests.support.rollouts import MINUTE, Rig, good, harmful

WRITTEN = Path(__file__).with_name("ledger_before_bake.jsonl")
"""One event a line, as the release before wrote them: whole rollouts, and three that were open when it was replaced."""


def histories() -> Mapping[str, tuple[Event, ...]]:
    """By rollout, as the ledger gives them."""
    lines = WRITTEN.read_text().splitlines()
    ids = [line.partition('"rollout_id":"')[2].partition('"')[0] for line in lines]
    grouped = groupby(zip(ids, lines, strict=True), key=lambda pair: pair[0])
    return {
        identity: tuple(load(line, rollout_id=identity, seq=n) for n, (_, line) in enumerate(pairs, start=1))
        for identity, pairs in grouped
    }


def of(model: str, version: str = "2") -> tuple[Event, ...]:
    (found,) = [each for key, each in histories().items() if key.startswith(f"{model}-v{version}-")]
    return found


def test_nothing_in_it_knows_of_what_came_later() -> None:
    text = WRITTEN.read_text()
    assert not any(word in text for word in ('"bake"', '"holdback"', '"undoes"', "lapsed"))


@pytest.mark.parametrize("identity", histories())
def test_every_decision_comes_out_the_same(identity: str) -> None:
    events = histories()[identity]
    assert replay(events) == []
    assert decisions(events) or fold(events).end is End.REFUSED


@pytest.mark.parametrize(
    ("version", "end"),
    [("2", End.PROMOTED), ("3", End.ROLLED_BACK), ("4", End.COMPARED), ("5", End.REFUSED)],
)
def test_what_had_ended_has_ended_as_it_did(version: str, end: End) -> None:
    state = fold(of("done", version))
    assert (state.end, state.promotion, state.lapsed) == (end, None, None)
    assert decide(state, (), state.since).kind is DecisionKind.CONTINUE


class Resumed(NamedTuple):
    rig: Rig
    controller: Controller
    rollout: str

    def drive(self, give=good) -> None:
        self.rig.clock.tick(MINUTE)
        self.controller.drive(self.rollout, give(self.rig.clock.now))

    @property
    def served(self) -> tuple[str | None, str | None]:
        status = self.rig.world.of(self.rollout.partition("-v")[0])
        sides = (status.stable, status.canary)
        stable, canary = (None if side is None else side.version for side in sides)
        return stable, canary


def resumed(folder: Path, model: str, *, stable: str = "1", canary: str | None = "2") -> Resumed:
    """Its open rollout in today's ledger, with what was in force when the release was replaced."""
    events, rig = of(model), Rig(folder)
    rig.ledger.append(*events)
    state = fold(events)
    share = state.percent if canary else 0.0
    sides = [
        RevisionStatus(name=f"{model}-{version}", version=version, percent=percent, ready=True)
        for version, percent in ((stable, 100 - share), (canary, share))
        if version is not None
    ]
    rig.world.serving(model, stable)
    rig.world.aliases[model, "champion"] = "1"
    rig.world.status[model] = ServiceStatus(
        service=model, stable=sides[0], canary=sides[1] if canary else None, salt=state.salt
    )
    rig.clock.now = events[-1].at
    return Resumed(rig, rig.controller(), state.rollout_id)


@pytest.mark.parametrize("give", [good, harmful])
def test_one_that_was_in_its_ramp_goes_on_and_ends_without_a_bake(tmp_path: Path, give) -> None:
    """Its policy is what its manifest said when it started."""
    old = resumed(tmp_path, "stepping")
    assert old.controller.state(old.rollout).percent == 10
    old.drive(give)
    old.drive(give)
    old.drive(give)
    state = old.controller.state(old.rollout)
    assert (state.end, state.promotion) == (End.PROMOTED if give is good else End.ROLLED_BACK, None)
    assert old.served == ("2" if give is good else "1", None)


def test_one_that_was_paused_stays_so_until_somebody_resumes_it(tmp_path: Path) -> None:
    old = resumed(tmp_path, "forced")
    old.drive()
    assert old.controller.state(old.rollout).percent == 10
    old.controller.command(old.rollout, Order.RESUME, by="ada", reason="because")
    old.controller.command(old.rollout, Order.APPROVE, by="ada", reason="because")
    old.drive()
    assert old.controller.state(old.rollout).percent == 50


def test_a_promotion_that_was_under_way_is_finished_and_does_not_begin_a_bake(tmp_path: Path) -> None:
    """The serving side had promoted it, and nobody had written that down."""
    old = resumed(tmp_path, "promoting", stable="2", canary=None)
    state = old.controller.state(old.rollout)
    assert (state.phase, owed(state)) == (Phase.PROMOTING, Owed(state.pending and state.pending.action))
    old.drive()
    state = old.controller.state(old.rollout)
    assert (state.end, state.promotion) == (End.PROMOTED, None)
    assert old.rig.world.aliases["promoting", "champion"] == "2"


def test_a_share_that_was_given_without_a_lease_lapses_and_comes_back_like_any_other(tmp_path: Path) -> None:
    """The serving side grants every share that it finds a whole lease first."""
    old = resumed(tmp_path, "stepping")
    lapse = old.rig.world.lapse("stepping")
    assert lapse is not None
    old.controller.lapsed(old.rollout, lapse)
    state = old.controller.state(old.rollout)
    assert state.lapsed is not None
    assert decide(state, (), old.rig.clock.now).rule == "lapsed"
