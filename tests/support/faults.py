"""A world whose n-th external call goes wrong, and a record of the order in which things took effect."""

import errno
import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from pipelines.core.errors import LedgerError, RegistryError, ServingError
from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.events import Decided, Decision, DecisionKind, End, Ended, Event
from pipelines.core.rollout.fold import fold
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.emergency import EMERGENCY
from resources.ledger.ledger import Ledger
from tests.support.memory_backend import Effect, MemoryBackend, MemoryRegistry, World
from tests.support.rollouts import MODEL, Clock, replay

ROLL_BACK = "decided roll_back"

BETWEEN_QUESTION_AND_ORDER = (
    "read ledger",
    "before set_canary_percent",
    "before deploy_canary",
)
"""What changes by hand just there is noticed by the next question: no lock keeps people away."""

REGISTRY_CALLS = ("alias", "tag", "version")


class Crash(BaseException):
    """The process is gone. Nothing in the code under test can catch it."""


FULL = ("full_ledger", "full_spool", "full_gateway", "full_disk")
"""Where there is no space left, from the fault's call on until the operation ends."""


class Fault(NamedTuple):
    """What happens at the `at`-th external call of an operation, counted from 1."""

    kind: str
    """crash | error | ledger_down | meanwhile | by_hand (which asks no lock) | one of FULL."""
    at: int
    meanwhile: Callable[[Controller], object] | None = None
    """For `meanwhile`: what another controller does just then."""


@dataclass
class Calls:
    """Counts external calls and lets the fault happen."""

    fault: Fault | None = None
    count: int = 0
    locked: bool = False
    other: Controller | None = None
    late: bool = False

    def __call__(self, name: str) -> None:
        self.count += 1
        fault = self.fault
        if fault is None:
            return
        if fault.kind == "ledger_down" and name.endswith("ledger"):
            raise LedgerError("the ledger is away")
        if fault.kind == "by_hand" and self.count >= fault.at and name not in BETWEEN_QUESTION_AND_ORDER:
            self.interfere()
        if fault.kind in FULL and self.count >= fault.at:
            _no_space(fault.kind, name)
        if self.count != fault.at:
            return
        if fault.kind == "crash":
            raise Crash(name)
        if fault.kind == "error":
            raise _error(name)
        if fault.kind == "meanwhile":
            self.late = self.locked
            if not self.locked:
                self.interfere()

    def interfere(self) -> None:
        fault, self.fault, self.late = self.fault, None, False
        if fault is not None and fault.meanwhile is not None and self.other is not None:
            fault.meanwhile(self.other)


def _no_space(where: str, name: str) -> None:
    """Raise what the part raises on a full disk; locks and library calls raise it as it is."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    if name == "lock ledger" and where in ("full_ledger", "full_disk"):
        raise full
    if name == "before ledger" and where in ("full_ledger", "full_disk"):
        raise LedgerError("cannot write: database or disk is full") from full
    if where in ("full_gateway", "full_disk") and name.startswith("before ") and "status" not in name:
        raise full


@contextmanager
def full_spool(fault: Fault | None) -> Generator[None]:
    """No new file can be written; what was reserved can."""
    if fault is None or fault.kind not in ("full_spool", "full_disk"):
        yield
        return
    with patch("resources.files.write", side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))):
        yield


def _error(name: str) -> Exception:
    if name.endswith("ledger"):
        return LedgerError(f"no answer: {name}")
    if any(word in name for word in REGISTRY_CALLS):
        return RegistryError(f"no answer: {name}")
    return ServingError(f"no answer: {name}")


class FaultyLedger(Ledger):
    """A real ledger in memory, that tells the world when a rollback was decided."""

    def __init__(self, world: World) -> None:
        super().__init__("sqlite://")
        self.world, self.calls = world, Calls()

    def append(self, *events: Event, alerts: Iterable[Alert] = ()) -> None:
        self.calls("before ledger")
        super().append(*events, alerts=alerts)
        for event in events:
            if isinstance(event, Decided) and event.decision.kind is DecisionKind.ROLL_BACK:
                self.world.effects.append(Effect(ROLL_BACK, "", 0))
        self.calls("after ledger")

    def events(self, rollout_id: str, *, since: int = 1) -> tuple[Event, ...]:
        self.calls("read ledger")
        return super().events(rollout_id, since=since)

    @contextmanager
    def _exclusive(self, name: str, wait: timedelta) -> Generator[bool]:
        self.calls("lock ledger")
        with super().exclusive(name, wait=wait) as held:
            self.calls.locked = True
            try:
                yield held
            finally:
                self.calls.locked = False
        if self.calls.late:
            self.calls.interfere()

    def exclusive(self, name: str, *, wait: timedelta):
        return self._exclusive(name, wait)


@dataclass
class FaultyRig:
    """One rollout in a world that survives crashes; every operation is done by a fresh controller."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.ledger = FaultyLedger(self.world)

    def do(self, operation: Callable[[Controller], object], fault: Fault | None = None) -> int:
        """Run one operation with a fault; returns how many external calls it made."""
        other = self.controller()
        calls = Calls(fault=fault, other=other)
        self.ledger.calls = calls
        try:
            with full_spool(fault):
                done = operation(self.controller(calls))
            if isinstance(done, Decision) and done.rule == EMERGENCY:
                self.world.effects.append(Effect(ROLL_BACK, "", 0))
        finally:
            if calls.late:
                calls.interfere()
            self.ledger.calls = Calls()
        return calls.count

    def controller(self, calls: Calls | None = None) -> Controller:
        """A fresh controller; without `calls`, nothing goes wrong on its side."""
        calls = calls or Calls()
        return Controller(
            self.ledger,
            MemoryBackend(self.world, calls),
            MemoryRegistry(self.world, calls),
            home=self.folder,
            clock=self.clock,
        )

    def check_if_started(self, rollout_id: str) -> None:
        """`check`, or nothing where the crash came before the first event."""
        if self.ledger.rollouts(open_only=False):
            self.check(rollout_id)

    def check(self, rollout_id: str, version: str = "2") -> None:
        """What must hold whatever happened."""
        effects = self.world.effects
        promotions = [e for e in effects if e.call == "promote" and e.version == version]
        assert len(promotions) <= 1, "promoted twice"
        events = self.ledger.events(rollout_id)
        state = fold(events)
        forced = any(isinstance(event, Decided) and event.decision.rule == "forced" for event in events)
        for promotion in promotions:
            assert forced or promotion.over == state.champion, (
                "promoted over a version that it was not compared with"
            )
        share, decided = 0.0, False
        for effect in effects:
            decided = decided or effect.call == ROLL_BACK
            if effect.version == version:
                assert not (decided and effect.percent > share), f"weight grew after the rollback: {effects}"
                share = effect.percent
        assert sum(isinstance(event, Ended) for event in events) <= 1
        replay(events)

    def check_end(self, rollout_id: str, champion: str | None = "1", version: str = "2") -> End | None:
        """Ledger, serving side and registry agree on how it ended."""
        self.check(rollout_id, version)
        events = self.ledger.events(rollout_id)
        end = events[-1]
        assert isinstance(end, Ended), f"not ended: {events[-3:]}"
        status = self.world.of(MODEL)
        expected = version if end.end is End.PROMOTED else champion
        assert (status.stable.version if status.stable else None) == expected
        assert self.world.aliases.get((MODEL, "champion")) == expected
        assert status.canary is None
        assert self.world.tags[MODEL, version, "rampgate.status"] == end.end
        if any(effect.call == ROLL_BACK for effect in self.world.effects):
            assert end.end is not End.PROMOTED, "a rollback was lost"
        return end.end
