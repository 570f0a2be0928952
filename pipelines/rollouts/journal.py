"""Reading a rollout's state from the ledger, writing the events that follow it, and keeping what could not
be written.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from pipelines.core.errors import CommandRefused, CorruptLedger, LedgerError
from pipelines.core.rollout.alerts import Alert, alerts_of
from pipelines.core.rollout.events import (
    Action,
    Command,
    Decided,
    Decision,
    Done,
    Event,
    EvidenceRecorded,
    Failed,
    Intent,
    Order,
    named,
)
from pipelines.core.rollout.fold import fold, step
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence
from resources.files import discard, replace_with_spare, reserve
from resources.ledger.ledger import Ledger
from resources.notifier import in_words, say

UNNUMBERED = 1

_DRY = (Action.SET_PERCENT, Action.PROMOTE, Action.TRAFFIC_OFF)


def decided(
    state: RolloutState, decision: Decision, evidence: Iterable[Evidence], *, at: datetime, by: str
) -> Decided:
    """A decision, with the evidence that the ledger does not have yet."""
    new = tuple(item for item in evidence if is_newer(state, item))
    return Decided(rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, decision=decision, evidence=new)


def recorded(state: RolloutState, evidence: Iterable[Evidence], *, at: datetime, by: str) -> EvidenceRecorded:
    """Evidence that no decision follows from yet."""
    return EvidenceRecorded(
        rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, evidence=tuple(evidence)
    )


def intent(
    state: RolloutState,
    action: Action,
    *,
    at: datetime,
    by: str,
    place: int = 1,
    over: str | None = None,
) -> Intent:
    """The intent to be written as the `place`-th event after `state`; an advance has its step from the decision."""
    moving = action in (Action.SET_PERCENT, Action.SHADOW)
    decision = state.last.decision if moving and state.last is not None else None
    return Intent(
        rollout_id=state.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=action_id(state, action, place=place),
        action=action,
        percent=_percent(state, action, decision),
        step=None if decision is None else decision.step,
        dry=state.policy.dry_run and action in _DRY,
        over=over,
    )


def _percent(state: RolloutState, action: Action, decision: Decision | None) -> float | None:
    """The share that the action gives; None where it gives none."""
    if action is Action.BAKE:
        return max(100.0 - state.policy.holdback, state.percent)
    return None if decision is None else decision.percent


def action_id(state: RolloutState, action: Action, *, place: int = 1) -> str:
    """An id that no other intent of the rollout has: it names the seq of the intent."""
    return f"{action}@{state.seq + place}"


def done(
    todo: Intent,
    *,
    at: datetime,
    by: str,
    message: str = "",
    landed: bool = False,
    unregistered: bool = False,
) -> Done:
    """The intent was carried out."""
    return Done(
        rollout_id=todo.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=todo.action_id,
        message=message,
        landed=landed,
        unregistered=unregistered,
    )


def failed(
    todo: Intent, message: str, *, at: datetime, by: str, final: bool = False, unclear: bool = False
) -> Failed:
    """The intent could not be carried out."""
    return Failed(
        rollout_id=todo.rollout_id,
        seq=UNNUMBERED,
        at=at,
        by=by,
        action_id=todo.action_id,
        message=message,
        final=final,
        unclear=unclear,
    )


def command(state: RolloutState, order: Order, *, at: datetime, by: str, reason: str) -> Command:
    """A person's order."""
    return Command(rollout_id=state.rollout_id, seq=UNNUMBERED, at=at, by=by, order=order, reason=reason)


def is_newer(state: RolloutState, item: Evidence) -> bool:
    """Whether the ledger does not have this evidence, or something later under its name."""
    known = state.evidence.get(item.name)
    return known is None or (known.at <= item.at and known != item)


def worth_recording(state: RolloutState, evidence: Iterable[Evidence]) -> tuple[Evidence, ...]:
    """Evidence that says something new, or whose record is half as old as it may get."""
    return tuple(item for item in evidence if is_newer(state, item) and _says_more(state, item))


def _says_more(state: RolloutState, item: Evidence) -> bool:
    known = state.evidence.get(item.name)
    if known is None or _gist(known) != _gist(item):
        return True
    crossed = known.at <= state.since < item.at
    return crossed or item.at - known.at >= known.valid_for / 2


def _gist(item: Evidence) -> tuple[object, ...]:
    return item.verdict, item.pending, item.on_fail, item.needed_for


# Reading a rollout's state from the ledger, and writing the events that follow it.


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


# Emergency rollbacks that the ledger could not be told about: one file each, until it can.


_ROOM = 16_384


@dataclass(frozen=True, kw_only=True)
class Emergency:
    """A rollback whose traffic change was made, or tried, without the ledger."""

    rollout_id: str
    at: datetime
    by: str
    reason: str
    evidence: tuple[Evidence, ...] = ()
    ordered: bool = False
    """A person asked for it."""


_EMERGENCY = TypeAdapter(Emergency)


class Spool:
    """The files, in one directory. What cannot be written is held in memory until it can be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Emergency] = {}

    def reserve(self, rollout_id: str) -> None:
        """Make room for the rollout's record, so that a disk that is full later keeps it all the same.

        Raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        reserve(self._path(rollout_id), _ROOM)

    def keep(self, emergency: Emergency) -> str:
        """Keep it across a crash; the first one of a rollout stays.

        Returns why this process alone remembers it; empty where it is on disk.
        """
        problem = self._write(emergency)
        if problem:
            self._held.setdefault(emergency.rollout_id, emergency)
        return problem

    def get(self, rollout_id: str) -> Emergency | None:
        """What is kept for this rollout. A damaged record still says that there was a rollback."""
        held = self._held.get(rollout_id)
        if held is not None:
            if not self._write(held):
                del self._held[rollout_id]
            return held
        path = self._path(rollout_id)
        try:
            return _EMERGENCY.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            return _damaged(rollout_id, path, error)

    def drop(self, rollout_id: str) -> None:
        """The ledger has it, and the rollout gets no more traffic."""
        self._held.pop(rollout_id, None)
        with contextlib.suppress(OSError):
            discard(self._path(rollout_id))

    def _write(self, emergency: Emergency) -> str:
        path = self._path(emergency.rollout_id)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                replace_with_spare(path, _EMERGENCY.dump_json(emergency), from_reserve=True)
        except OSError as error:
            return f"{path}: {error.strerror}"
        return ""

    def _path(self, rollout_id: str) -> Path:
        return self._folder / f"{hashlib.sha256(rollout_id.encode()).hexdigest()[:32]}.json"


def _damaged(rollout_id: str, path: Path, error: Exception) -> Emergency:
    """Its file was written when traffic was taken away: that much is known, and is what the ledger is told."""
    log.error("%s: the record of an emergency rollback is damaged: %s", path, error)
    return Emergency(
        rollout_id=rollout_id,
        at=datetime.now(UTC),
        by="spool",
        reason=f"an emergency rollback whose record cannot be read ({path.name}: {type(error).__name__})",
        ordered=True,
    )
