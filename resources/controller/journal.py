"""Reading a rollout's state from the ledger, and writing the events that follow it."""

from collections.abc import Callable, Sequence
from datetime import datetime

from pipelines.errors import CommandRefused, CorruptLedger
from pipelines.rollout.alerts import Alert, alerts_of
from pipelines.rollout.events import (
    Event,
)
from pipelines.rollout.fold import fold, step
from pipelines.rollout.ids import named
from pipelines.rollout.state import RolloutState
from resources.ledger import Ledger

Clock = Callable[[], datetime]


class Journal:
    """One writer's view of the ledger."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock

    def read(self, rollout_id: str) -> RolloutState:
        """The state now. Raises LedgerError, CommandRefused (no such rollout), CorruptLedger (with an alert)."""
        try:
            events = self._ledger.events(rollout_id)
            if not events:
                raise CommandRefused(f"there is no rollout {rollout_id!r}")
            return fold(events)
        except CorruptLedger as error:
            self._ledger.outbox.add(_corrupt(rollout_id, str(error), self._clock()))
            raise

    def append(self, state: RolloutState, events: Sequence[Event]) -> RolloutState:
        """Number the events after `state`, write them with their alerts, and give the state after them.

        Raises LedgerConflict when somebody else has written since `state` was read.
        """
        numbered: list[Event] = []
        alerts: list[Alert] = []
        for event in events:
            event = event.model_copy(update={"seq": state.seq + 1})
            state = step(state, event)
            numbered.append(event)
            alerts += alerts_of(state, event)
        self._ledger.append(*numbered, alerts=alerts)
        return state


def _corrupt(rollout_id: str, problem: str, at: datetime) -> Alert:
    try:
        model, version = named(rollout_id)
    except ValueError:
        model, version = rollout_id, ""
    return Alert(
        key=f"{rollout_id}:corrupt",
        severity="critical",
        model=model,
        version=version,
        rollout_id=rollout_id,
        title=f"{model} version {version}: the rollout's record cannot be read; it stopped, traffic stays",
        body=problem,
        at=at,
    )
