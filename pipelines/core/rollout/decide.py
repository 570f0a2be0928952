"""`decide`: what to do with a rollout now. Pure and total: the same inputs always give the same decision.

The rules are tried in order and the first that has something to say decides. Evidence that fails and asks for
a rollback comes before everything that waits (a pause, an approval, a freeze): only a person's own order, and a
stable side that is itself unfit to take the traffic back, come before it. A version that was deleted is taken back
even from a person who wants to promote it; a disagreement between registry and serving side holds.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter

from pipelines.core.rollout import rules
from pipelines.core.rollout.case import Case
from pipelines.core.rollout.doubt import doubted, doubts
from pipelines.core.rollout.events import Decided, Decision, Event
from pipelines.core.rollout.fold import fold, merge, step
from pipelines.core.rollout.policy import REGISTERED, SERVED, WATCHED
from pipelines.core.rollout.standing import champion_trouble, standings
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence

Rule = Callable[[Case], Decision | None]

RULES: tuple[Rule, ...] = (
    rules.ended,
    rules.under_way,
    rules.ordered,
    rules.vanished,
    rules.forced,
    rules.cannot_start,
    rules.refused,
    rules.starting,
    rules.champion_unhealthy,
    rules.harm,
    rules.baking,
    rules.unknown_too_long,
    rules.paused,
    rules.test_over,
    rules.inconclusive,
    rules.disagreement,
    rules.unknown,
    rules.lapsed,
    rules.failed_check,
    rules.floor,
    rules.pending,
    doubted,
    rules.frozen,
    rules.approval,
    rules.cannot_tell,
)


def decide(state: RolloutState, evidence: Iterable[Evidence], now: datetime) -> Decision:
    """The decision for `state` at `now`, given what the ledger has and `evidence` that is newer."""
    merged = merge(state.evidence, evidence)
    case = Case(
        state=state,
        standings=standings(state, merged, now),
        champion_trouble=None if state.champion is None else champion_trouble(merged, now),
        served=merged.get(SERVED),
        registered=merged.get(REGISTERED),
        watched=merged.get(WATCHED),
        doubts=doubts(merged, now),
        now=now,
    )
    answers = (rule(case) for rule in RULES)
    return next((answer for answer in answers if answer is not None), rules.move(case))


# Replay: every decision in a ledger, taken again from the events before it. Pure.
#
# `decide` is a function of the state, the evidence and the time. All three are in the ledger: the state is the fold of
# the earlier events, the evidence travels with the decision, and the event's own time is the `now` it was taken with.


_DECISION = TypeAdapter(Decision)


class Mismatch(NamedTuple):
    """A decision in the ledger that today's rules would not have taken."""

    rollout_id: str
    seq: int
    at: datetime
    recorded: str
    """The decision as JSON, as it was written."""
    replayed: str
    """The decision as JSON, taken again."""


def replay(events: Iterable[Event]) -> list[Mismatch]:
    """Every `decided` event whose decision does not come out the same, byte for byte; empty when all do.

    Raises CorruptLedger where the events do not fold.
    """
    state: RolloutState | None = None
    found: list[Mismatch] = []
    for event in events:
        if state is not None and isinstance(event, Decided):
            found += _compared(state, event)
        state = fold([event]) if state is None else step(state, event)
    return found


def decisions(events: Iterable[Event]) -> int:
    """How many decisions `replay` compares."""
    return sum(isinstance(event, Decided) for event in events)


def _compared(state: RolloutState, event: Decided) -> list[Mismatch]:
    recorded = _DECISION.dump_json(event.decision).decode()
    replayed = _DECISION.dump_json(decide(state, event.evidence, event.at)).decode()
    if recorded == replayed:
        return []
    return [Mismatch(event.rollout_id, event.seq, event.at, recorded, replayed)]
