"""Every decision in a ledger comes out the same when it is taken again; one that was tampered with does not."""

import contextlib
import sqlite3
from pathlib import Path

import pytest

from pipelines.core.rollout.decide import decisions, replay
from pipelines.core.rollout.events import Decided, Event
from pipelines.core.vocabulary import Verdict
from pipelines.reports.replay import main, replay_ledger
from resources.ledger.ledger import Ledger
from tests.support.faults import Crash, Fault, FaultyRig
from tests.support.rollouts import MINUTE, MODEL, Rig, artefact, evidence, good, harmful, manifest


def _finished(folder: Path, *ticks: str) -> tuple[Rig, str]:
    """A rollout of version 2 through these ticks, a minute apart."""
    rig = Rig(folder)
    rollout_id = rig.start(steps=["shadow", 10, 100])
    for tick in ticks:
        now = rig.clock.now
        agree = evidence("agreement", Verdict.PASS, now)
        items = {"good": (*good(now), agree), "harm": harmful(now), "blind": ()}[tick]
        rig.controller().drive(rollout_id, items)
        rig.clock.tick(MINUTE)
    return rig, rollout_id


@pytest.mark.parametrize(
    "ticks", [["good"] * 5, ["good", "good", "good", "harm", "blind"], ["blind", "good", "blind"]]
)
def test_every_decision_comes_out_the_same(ticks: list[str], tmp_path: Path) -> None:
    rig, rollout_id = _finished(tmp_path, *ticks)
    events = rig.ledger.events(rollout_id)
    assert decisions(events) >= 2
    assert replay(events) == []


def _crashed(folder: Path, crash_at: int) -> tuple[Event, ...]:
    """A rollout whose every operation crashed at this external call, and that was rolled back in the end."""
    rig = FaultyRig(folder)
    rig.world.serving(MODEL, "1")
    rollout_id = rig.controller().start(manifest(), "2", "1", artefact("2"))
    for give in (good, good, harmful):
        rig.clock.tick(MINUTE)
        items = give(rig.clock.now)
        with contextlib.suppress(Crash):
            rig.do(lambda c, items=items: c.drive(rollout_id, items), Fault("crash", crash_at))
    rig.clock.tick(MINUTE)
    rig.do(lambda c: c.roll_back_now(rollout_id, "in the end", harmful(rig.clock.now)))
    return rig.ledger.events(rollout_id)


def test_histories_with_a_crash_come_out_the_same(tmp_path: Path) -> None:
    histories = {crash_at: _crashed(tmp_path / str(crash_at), crash_at) for crash_at in range(1, 60, 3)}
    assert {crash_at: replay(events) for crash_at, events in histories.items()} == dict.fromkeys(
        histories, []
    )
    assert sum(decisions(events) for events in histories.values()) > 50


def test_a_decision_that_the_rules_would_not_take_is_found(tmp_path: Path) -> None:
    rig, rollout_id = _finished(tmp_path, "good", "good", "good")
    events = list(rig.ledger.events(rollout_id))
    place = max(i for i, event in enumerate(events) if isinstance(event, Decided))
    event = events[place]
    assert isinstance(event, Decided)
    changed = event.decision.__class__(
        kind=event.decision.kind,
        rule=event.decision.rule,
        reason="because I say so",
        step=event.decision.step,
        percent=event.decision.percent,
        end=event.decision.end,
        evidence=event.decision.evidence,
    )
    events[place] = event.model_copy(update={"decision": changed})
    (mismatch,) = replay(events)
    assert mismatch.seq == event.seq
    assert "because I say so" in mismatch.recorded
    assert "because I say so" not in mismatch.replayed


def test_the_command_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rig, rollout_id = _finished(tmp_path, "good", "good")
    place = str(rig.ledger.database.file)
    assert main([place]) == 0
    assert (
        f"{rollout_id}: {decisions(rig.ledger.events(rollout_id))} decisions, the same bytes"
        in capsys.readouterr().out
    )
    with sqlite3.connect(place) as damaged:
        damaged.execute("UPDATE events SET body = '{' WHERE seq = 2")
    (replayed,) = replay_ledger(Ledger(f"sqlite:///{place}"))
    assert not replayed.is_same
    assert main([place]) == 1
    assert "cannot be replayed" in capsys.readouterr().out


def test_a_ledger_that_is_not_there_is_named_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path / "flight-delay-v3")]) == 2
    assert "flight-delay-v3 is not there" in capsys.readouterr().err
    assert main([str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
