"""A world whose n-th external call goes wrong, and a record of the order in which things took effect."""

import errno
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeVar, cast
from unittest.mock import patch

from pipelines.core.errors import LedgerError, NotInRegistry, RegistryError, ServingError, VersionFailed
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.decide import replay
from pipelines.core.rollout.events import (
    Action,
    Decided,
    Decision,
    DecisionKind,
    End,
    Ended,
    Event,
    Intent,
    Lapsed,
    Order,
    Started,
    named,
)
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.policy import WATCHED
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.emergency import EMERGENCY
from pipelines.rollouts.start import RolloutSystems, carry_on
from pipelines.rollouts.undo import undo
from resources.ledger.ledger import Ledger
from resources.registry.signature import ModelSchema
from resources.serving.contract import LEASE, ModelArtefact
from resources.serving.lease import LOOK, Keeper
from resources.settings import Settings
from tests.resources.lake.segments_by_hand import SCHEMA, tensors
from tests.support.memory_backend import Effect, MemoryBackend, MemoryRegistry, World, keep_leases
from tests.support.rollouts import MODEL, Clock, artefact, evidence, manifest

T = TypeVar("T")

ROLL_BACK, STARTED, ANSWERED = "decided roll_back", "started", "answered"

BETWEEN_QUESTION_AND_ORDER = (
    "read ledger",
    "before set_canary_percent",
    "before deploy_canary",
)
"""What changes by hand just there is noticed by the next question: no lock keeps people away."""

REGISTRY_CALLS = ("alias", "tag", "version", "signature", "input_example", "artefact")


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
    names: list[str] = field(default_factory=list[str])
    locked: bool = False
    other: Controller | None = None
    late: bool = False

    @property
    def count(self) -> int:
        return len(self.names)

    def __call__(self, name: str) -> None:
        self.names.append(name)
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
    """A real ledger in memory, that tells the world when a rollout began, and when a rollback was decided."""

    def __init__(self, world: World) -> None:
        super().__init__("sqlite://")
        self.world, self.calls = world, Calls()
        self.history: dict[str, list[Event]] = {}
        """What was written, by rollout, oldest first: for looks that are no call of the code under test."""

    def append(self, *events: Event, alerts: Iterable[Alert] = ()) -> None:
        self.calls("before ledger")
        super().append(*events, alerts=alerts)
        for event in events:
            self.history.setdefault(event.rollout_id, []).append(event)
            version = named(event.rollout_id).version
            if isinstance(event, Started):
                self.world.effects.append(Effect(STARTED, "", 0, of=version))
            if isinstance(event, Decided) and event.decision.kind is DecisionKind.ROLL_BACK:
                self.world.effects.append(Effect(ROLL_BACK, "", 0, of=version))
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


class FaultyRegistry(MemoryRegistry):
    """Versions that can be validated: each has a signature, an example and an artefact."""

    def signature(self, model: str, version: str) -> ModelSchema:
        return self._of(model, version, "signature", SCHEMA)

    def input_example(self, model: str, version: str) -> dict[str, Any]:
        example = {"inputs": tensors({"distance": [719.0], "origin": ["JFK"]})}
        return self._of(model, version, "input_example", example)

    def artefact_policy(self, model: str, version: str, allow: tuple[str, ...] = ()) -> tuple[str, ...]:
        return self._of(model, version, "artefact_policy", ())

    def artefact(self, model: str, version: str, *, local: bool = True) -> ModelArtefact:
        return self._of(model, version, "artefact", artefact(version))

    def _of(self, model: str, version: str, what: str, value: T) -> T:
        self._hook(f"before {what}")
        if (model, version) in self.world.deleted:
            raise NotInRegistry(f"Model Version (name={model}, version={version}) not found")
        return value


class ProbedBackend(MemoryBackend):
    """Versions answer a probe, unless the world says that they are broken; the world knows which have."""

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self._hook("before predict")
        if version in self.world.broken:
            raise VersionFailed("HTTP 500: cannot read origin")
        self.world.effects.append(Effect(ANSWERED, "", 0, of=version))
        return {"outputs": tensors({"probability": [0.5]})}


@dataclass
class FaultyRig:
    """One model in a world that survives crashes; every operation is done by a fresh controller."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    world: World = field(default_factory=World)
    watched: bool = True
    """Whether the guardrails' watch lives."""
    called: list[str] = field(default_factory=list[str])
    """The names of the external calls of the last operation, as far as it came."""

    def __post_init__(self) -> None:
        self.ledger = FaultyLedger(self.world)
        self._keeper = Keeper[int](clock=lambda: self.world.now)
        self._sides: dict[Controller, tuple[ProbedBackend, FaultyRegistry]] = {}

    def do(self, operation: Callable[[Controller], object], fault: Fault | None = None) -> int:
        """Run one operation with a fault; returns how many external calls it made."""
        other = self.controller()
        calls = Calls(fault=fault, other=other)
        self.ledger.calls = calls
        acting_on = [event.rollout_id for event in self.last()[:1]]
        try:
            with full_spool(fault):
                done = operation(self.controller(calls))
            if isinstance(done, Decision) and done.rule == EMERGENCY:
                self.world.effects.append(Effect(ROLL_BACK, "", 0, of=named(acting_on[0]).version))
        finally:
            if calls.late:
                calls.interfere()
            self.ledger.calls, self.called = Calls(), calls.names
            self._sides.clear()
        return calls.count

    def controller(self, calls: Calls | None = None) -> Controller:
        """A fresh controller; without `calls`, nothing goes wrong on its side."""
        calls = calls or Calls()
        backend, registry = ProbedBackend(self.world, calls), FaultyRegistry(self.world, calls)
        controller = Controller(self.ledger, backend, registry, home=self.folder, clock=self.clock)
        self._sides[controller] = (backend, registry)
        return controller

    def systems(self, controller: Controller) -> RolloutSystems:
        """What this controller works with, for whatever goes wrong there."""
        backend, registry = self._sides[controller]
        return RolloutSystems(
            settings=Settings.from_environment({"RAMPGATE_HOME": str(self.folder)}),
            ledger=self.ledger,
            lake=None,  # type: ignore[arg-type]
            registry=registry,  # type: ignore[arg-type]
            backend=backend,
            controller=controller,
        )

    def last(self) -> tuple[Event, ...]:
        """The events of the rollout that is open, or else of the last one; none where there is none."""
        written = list(self.ledger.history.values())
        return tuple(written[-1]) if written else ()

    @property
    def last_id(self) -> str:
        """The rollout that is open, or else the last one."""
        return self.last()[0].rollout_id

    @property
    def undoes(self) -> bool:
        """Whether that one brings a previous champion back."""
        started = self.last()[0]
        return isinstance(started, Started) and bool(started.policy.undoes)

    # What people and the sensors do.

    def undo(self, controller: Controller) -> object:
        """In the bake or after it. Raises CommandRefused where there is nothing to go back to."""
        with self._on_time():
            return undo(self.systems(controller), _model(), by="ada", reason="customers call")

    def carry_on(self, controller: Controller) -> object:
        """What a run does: the version is asked for an answer where that is due."""
        with self._on_time():
            return carry_on(self.systems(controller), _model(), self.last_id)

    @contextmanager
    def _on_time(self) -> Generator[None]:
        """What is measured of a version that is started is measured by this rig's clock."""
        with patch("pipelines.rollouts.start.datetime") as clock:
            clock.now.side_effect = lambda zone: self.clock.now.astimezone(zone)
            yield

    def challenge(self, controller: Controller) -> object:
        """Version 4 against what is served; refused while another rollout is open."""
        stable = self.world.of(MODEL).stable
        served = None if stable is None else stable.version
        return controller.start(manifest(), "4", served, artefact("4")) if served != "4" else None

    def replace(self, controller: Controller) -> object:
        """Make way for version 4 (`on_new_challenger: replace`): a bake ends, anything else is aborted."""
        baking = controller.state(self.last_id).phase is Phase.BAKING
        order = Order.FORCE_PROMOTE if baking else Order.ABORT
        return controller.command(self.last_id, order, by="challenger", reason="version 4 is the challenger")

    # Time, the watch, and the leases that the serving side keeps by itself.

    def wait(self, duration: timedelta) -> None:
        """Time passes. Whoever watches says so once a second; the serving side looks at its leases twice a second.

        A clock that is set back is the controllers' alone.
        """
        self.clock.tick(duration)
        left = max(0.0, duration.total_seconds())
        detail = min(left, (LEASE + timedelta(seconds=2)).total_seconds())
        for look in range(int(detail / LOOK.total_seconds())):
            self.world.now += LOOK.total_seconds()
            if self.watched and look % 2:
                self._renew()
            keep_leases(self.world, self._keeper)
            self.check_leases()
        self.world.now += left - detail  # whatever nobody watches has lapsed by now
        if self.watched:
            self._renew()
            self.do(self.look)

    def _renew(self) -> None:
        canary = self.world.of(MODEL).canary
        if canary is not None:
            MemoryBackend(self.world).renew(MODEL, canary.version)

    def look(self, controller: Controller) -> None:
        """What the guardrails' watch does: renew the lease, note a lapse, say that it looks again."""
        events = self.last()
        if not events or isinstance(events[-1], Ended):
            return
        rollout_id, version = events[0].rollout_id, named(events[0].rollout_id).version
        lapse = self._sides[controller][0].renew(MODEL, version)
        if lapse is not None:
            controller.lapsed(rollout_id, lapse)
        if any(isinstance(event, Lapsed) for event in events) and controller.state(rollout_id).lapsed:
            again = evidence(WATCHED, Verdict.PASS, self.clock.now, source="serving")
            controller.record(rollout_id, [again])

    def watch_dies(self) -> None:
        """Nobody renews from now on."""
        self.watched = False

    def watch_returns(self, controller: Controller) -> None:
        """Somebody does again."""
        self.watched = True
        self.look(controller)

    # What must hold whatever happened.

    def check_leases(self) -> None:
        """No share stands without a watcher past its lease; a share without a lease is a bake's."""
        world = self.world
        canary, stable = world.of(MODEL).canary, world.of(MODEL).stable
        if canary is None or stable is None or not (canary.percent or world.of(MODEL).mirror):
            return
        if MODEL in world.unleased:
            assert self._was_to_bake(canary.version), f"a share of {canary.percent:g} % has no lease"
            return
        silent = world.now - world.last_word[MODEL]
        assert silent <= (LEASE + 2 * LOOK).total_seconds(), f"nobody has watched it for {silent:g} s"

    def _was_to_bake(self, version: str) -> bool:
        found = [
            events for identity, events in self.ledger.history.items() if named(identity).version == version
        ]
        return any(isinstance(event, Intent) and event.action is Action.BAKE for event in found[-1])

    def check_last(self) -> None:
        """`check` of the model's last rollout, if there is one: a crash may have come before its first event."""
        for event in self.last()[:1]:
            self.check(event.rollout_id)

    def check(self, rollout_id: str) -> None:
        """What must hold of this rollout, and of the leases, whatever happened."""
        self.check_leases()
        events = self.ledger.history[rollout_id]
        assert replay(events) == []
        assert sum(isinstance(event, Ended) for event in events) <= 1
        state = fold(events)
        forced = any(isinstance(event, Decided) and event.decision.rule == "forced" for event in events)
        for effects in self._attempts(state.version):
            _check_attempt(effects, state, forced=forced)

    def check_end(self, rollout_id: str, champion: str | None = "1", version: str = "2") -> End | None:
        """Ledger, serving side and registry agree on how it ended."""
        self.check(rollout_id)
        events = self.ledger.events(rollout_id)
        end = events[-1]
        assert isinstance(end, Ended), f"not ended: {events[-3:]}"
        status = self.world.of(MODEL)
        expected = version if end.end is End.PROMOTED else champion
        assert (status.stable.version if status.stable else None) == expected
        assert self.world.aliases.get((MODEL, "champion")) == expected
        assert status.canary is None
        assert self.world.tags[MODEL, version, "rampgate.status"] == end.end
        assert not self.lost_rollback(version, end.end)
        return end.end

    def ended(self, rollout_id: str) -> End:
        """How it ended, with all that must hold of it."""
        self.check(rollout_id)
        end = self.ledger.events(rollout_id)[-1]
        assert isinstance(end, Ended), f"not ended: {self.ledger.events(rollout_id)[-3:]}"
        return end.end

    def lost_rollback(self, version: str, end: End) -> bool:
        """Whether a rollback of its last rollout was decided, and the version was promoted all the same."""
        decided = any(effect.call == ROLL_BACK for effect in self._attempts(version)[-1])
        return decided and end is End.PROMOTED

    def _attempts(self, version: str) -> list[list[Effect]]:
        """What came into force of this version, by rollout."""
        found: list[list[Effect]] = []
        for effect in self.world.effects:
            if effect.call == STARTED and effect.of == version:
                found.append([])
            elif version in (effect.version, effect.of) and found:
                found[-1].append(effect)
        return found


def _model() -> Model:
    """What its manifest says of the model."""
    return cast("Model", SimpleNamespace(name=MODEL, rollout=manifest()))


def _check_attempt(effects: Sequence[Effect], state: RolloutState, *, forced: bool) -> None:
    promotions = [effect for effect in effects if effect.call == "promote"]
    assert len(promotions) <= 1, "promoted twice"
    for promotion in promotions:
        assert forced or promotion.over == state.champion, (
            "promoted over a version that it was not compared with"
        )
        before = effects[: effects.index(promotion)]
        answered = any(effect.call == ANSWERED for effect in before)
        assert forced or answered or not state.policy.undoes, "undone to a version that had not answered"
    share, decided = 0.0, False
    for effect in effects:
        decided = decided or effect.call == ROLL_BACK
        if not effect.of:
            assert not (decided and effect.percent > share), f"weight grew after the rollback: {effects}"
            share = effect.percent
    _check_bake(effects, state)


def _check_bake(effects: Sequence[Effect], state: RolloutState) -> None:
    """A bake begins at most once, and ends once: the version becomes the stable one, or goes."""
    shares = [effect.call for effect in effects if effect.percent == 100 - state.policy.holdback]
    assert shares.count("set_canary_percent") <= 1, f"the bake began twice: {effects}"
    if not shares:
        return
    ends = [effect.call for effect in effects if effect.call in ("promote", "roll_back")]
    assert len(ends) <= 1, f"the bake ended twice: {effects}"
    assert state.end is None or ends, f"the bake did not end: {effects}"
