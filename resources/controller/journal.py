"""Reading a rollout's state from the ledger, and writing the events that follow it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import reduce
from typing import NamedTuple

from pipelines.errors import CommandRefused, CorruptLedger, LedgerError
from pipelines.rollout.alerts import Alert, alerts_of
from pipelines.rollout.events import (
    Event,
)
from pipelines.rollout.fold import fold, step
from pipelines.rollout.ids import named
from pipelines.rollout.state import Phase, RolloutState
from resources.containment import in_words, say
from resources.ledger import Ledger

log = logging.getLogger(__name__)
Clock = Callable[[], datetime]


class _Known(NamedTuple):
    state: RolloutState
    last: Event
    """The event that led to it: where the ledger has another one there, it is not the same ledger any more."""


class Journal:
    """One writer's view of the ledger. A long rollout is folded once, and from then on only its news."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger, self._clock = ledger, clock
        self._known: dict[str, _Known] = {}

    def read(self, rollout_id: str) -> RolloutState:
        """The state now. Raises LedgerError, CommandRefused (no such rollout), CorruptLedger (with an alert)."""
        try:
            return self._read(rollout_id)
        except CorruptLedger as error:
            tell_corrupt(self._ledger, rollout_id, error, self._clock())
            raise

    def _read(self, rollout_id: str) -> RolloutState:
        known = self._known.pop(rollout_id, None)
        if known is not None:
            news = self._ledger.events(rollout_id, since=known.state.seq)
            if news and news[0] == known.last:
                return self._keep(reduce(step, news[1:], known.state), news[-1])
        events = self._ledger.events(rollout_id)
        if not events:
            raise CommandRefused(f"there is no rollout {rollout_id!r}")
        return self._keep(fold(events), events[-1])

    def _keep(self, state: RolloutState, last: Event) -> RolloutState:
        if state.phase is not Phase.ENDED:
            self._known[state.rollout_id] = _Known(state, last)
        return state

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
            alerts += _alerts_of(state, event)
        self._ledger.append(*numbered, alerts=alerts)
        return state


def tell_corrupt(ledger: Ledger, rollout_id: str, error: CorruptLedger, at: datetime) -> None:
    """Alert that nothing drives or watches this rollout, for its record cannot be read."""
    with suppress(LedgerError):  # a ledger that takes no alert must not hide what was read
        ledger.outbox.add(_corrupt(rollout_id, str(error), at))


def _alerts_of(state: RolloutState, event: Event) -> tuple[Alert, ...]:
    """No event is lost because its alert could not be worded; somebody is told that much."""
    try:
        return alerts_of(state, event)
    except Exception as error:  # noqa: BLE001 -- see above
        say(log, logging.ERROR, f"{state.rollout_id} seq {event.seq}: no alert: {in_words(error)}", error)
        return (_unworded(state, event, in_words(error)),)


def _unworded(state: RolloutState, event: Event, problem: str) -> Alert:
    return Alert(
        key=f"{state.rollout_id}:unworded:{event.seq}",
        severity="critical",
        model=state.model,
        version=state.version,
        rollout_id=state.rollout_id,
        title=f"{state.model} version {state.version}: {event.kind}, which could not be put into words",
        body=f"{problem}; the report and the ledger have it (seq {event.seq})",
        at=event.at,
    )


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
        body=f"{problem}; nobody watches its guardrails until it can be read: the order roll_back_now takes its traffic away",
        at=at,
    )
