"""Replay: every decision in a ledger, taken again from the events before it. Pure.

`decide` is a function of the state, the evidence and the time. All three are in the ledger: the state is the fold of
the earlier events, the evidence travels with the decision, and the event's own time is the `now` it was taken with.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter

from pipelines.rollout.decide import decide
from pipelines.rollout.decision import Decision
from pipelines.rollout.events import Decided, Event
from pipelines.rollout.fold import fold, step
from pipelines.rollout.state import RolloutState

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
