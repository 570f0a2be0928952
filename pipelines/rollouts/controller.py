"""The controller: starts rollouts, drives them, and takes orders. See `Controller`."""

import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_never

from pipelines.core.errors import CommandRefused, LedgerConflict, NotInRegistry
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import Action, Decision, DecisionKind, End, Event, Lapsed, Order
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.sides import Sides
from pipelines.core.rollout.standing import CLOCK_TOLERANCE
from pipelines.core.rollout.state import Phase, RolloutState, owed
from pipelines.core.vocabulary import Evidence
from pipelines.rollouts.actions import ROLLOUT_TAG, Effects, RolloutRegistry, tag_version
from pipelines.rollouts.driver import ROUNDS, Driver, note
from pipelines.rollouts.emergency import EmergencyExit
from pipelines.rollouts.journal import (
    UNNUMBERED,
    Emergency,
    Journal,
    Spool,
    command,
    decided,
    recorded,
    worth_recording,
)
from pipelines.rollouts.last_word import LastWord
from pipelines.rollouts.opening import Opening, check_capabilities
from pipelines.rollouts.sides import Parts, SidesAsked, decide_between_sides
from resources.ledger.ledger import Ledger
from resources.serving.contract import Lapse, ModelArtefact, ServingBackend


def check_order(state: RolloutState, order: Order) -> None:
    """Raise CommandRefused with the reason where the order would have no effect."""
    problem = _problem(state, order)
    if problem is not None:
        raise CommandRefused(f"{order} of {state.rollout_id}: {problem}")


def _problem(state: RolloutState, order: Order) -> str | None:
    if state.phase is Phase.ROLLING_BACK:
        return "it is being rolled back, and nothing gives it traffic again"
    if state.phase is Phase.PROMOTING:
        ends = order is Order.ABORT and Action.PROMOTE not in state.done
        return None if ends else "it is being promoted"
    match order:
        case Order.APPROVE if state.phase is Phase.BAKING:
            return "it is promoted already, and its bake waits for no approval"
        case Order.RESUME if state.paused is None:
            return "it is not paused"
        case Order.PAUSE if state.paused is not None:
            return f"it is paused already, by {state.paused.by}: {state.paused.reason}"
        case Order.APPROVE if state.policy.approval == "none":
            return "its policy asks for no approval"
        case Order.RESUME | Order.PAUSE | Order.APPROVE:
            return None
        case Order.ABORT | Order.ROLL_BACK_NOW | Order.FORCE_PROMOTE:
            return None
        case _:
            assert_never(order)


def _has_lapsed(state: RolloutState, lapse: Lapse) -> bool:
    """Whether this is the share that the ledger thinks is in force, and it lies in a step: a bake has none that lapses."""
    in_force = state.phase in (Phase.SHADOW, Phase.STEPPING) and (state.percent > 0 or state.mirror)
    return in_force and lapse.version == state.version and lapse.at >= state.since - CLOCK_TOLERANCE


# The controller: starts rollouts, drives them, and takes orders. See `Controller`.


log = logging.getLogger(__name__)


def utc_now() -> datetime:
    """The system's clock."""
    return datetime.now(UTC)


class Controller:
    """Drives rollouts on a serving backend and a model registry, with its memory in the ledger.

    Any number of controllers, in any number of processes, may work on the same rollouts: all that one of them keeps
    between calls is an emergency rollback that could be written nowhere. `home` is where such a rollback is kept
    while the ledger is away.
    """

    def __init__(
        self,
        ledger: Ledger,
        backend: ServingBackend,
        registry: RolloutRegistry,
        *,
        home: Path,
        clock: Callable[[], datetime] = utc_now,
        by: str = "rampgate",
    ) -> None:
        self._ledger, self._backend, self._registry = ledger, backend, registry
        journal = Journal(ledger, clock)
        self._parts = Parts(
            ledger=ledger,
            journal=journal,
            effects=Effects(backend, registry),
            sides=SidesAsked(backend, registry),
            last_word=LastWord(ledger, journal, registry),
            spool=Spool(home / "spool"),
            clock=clock,
            by=by,
        )
        self._driver = Driver(self._parts)
        self._opening = Opening(self._parts)
        self._emergency = EmergencyExit(self._parts)

    def start(
        self,
        manifest: RolloutManifest,
        version: str,
        champion: str | None,
        artefact: ModelArtefact,
        salt: str | None = None,
        *,
        policy: Policy | None = None,
        by: str | None = None,
        despite: str = "",
    ) -> str:
        """Open a rollout and return its id; the open one where this version has one already.

        `champion` is the version that is served, None where nothing is. `despite`: what the registry says to the
        contrary, where a person accepts it; the rollout then goes by what is served alone.

        Whether a version that failed before may be tried again is the caller's to check. Raises ManifestError
        where the backend cannot do what the manifest asks, CommandRefused where another version is under way.
        """
        policy = Policy.of(manifest) if policy is None else policy
        asked = manifest.model_copy(update={"steps": policy.steps})
        check_capabilities(asked, self._backend.capabilities(manifest.model))
        return self._opening.start(
            manifest,
            version,
            champion,
            artefact,
            salt=salt,
            policy=policy,
            by=by or self._parts.by,
            despite=despite,
        )

    def refuse(self, model: str, version: str, reason: str, *, by: str | None = None) -> str:
        """Record that a version failed validation before a rollout of it, and tag it in the registry.

        Where the registry did not take the tags last time, only they are written again. Raises RegistryError.
        """
        untold = self._untold(model, version, reason)
        identity = untold or self._opening.refuse(model, version, reason, by=by or self._parts.by)
        try:
            tag_version(self._registry, model, version, identity, End.REFUSED, reason)
        except NotInRegistry as error:
            log.warning("%s: refused, and gone before it could be tagged: %s", identity, error)
        self._parts.last_word.put_right(model, tagged=(version,))
        return identity

    def _untold(self, model: str, version: str, reason: str) -> str | None:
        """The refusal for the same reason that is in the ledger, and not in the registry."""
        rows = [row for row in self._ledger.rollouts(model) if row.version == version]
        if not rows or rows[-1].end is not End.REFUSED:
            return None
        last = self.state(rows[-1].rollout_id)
        known = self._registry.version(model, version)
        is_told = known is None or known.tags.get(ROLLOUT_TAG) == last.rollout_id
        return None if is_told or last.end_reason != reason else last.rollout_id

    def sides(self, model: str, version: str) -> Sides:
        """What is served, and what the registry says. Raises ServingError, RegistryError where one cannot be asked."""
        return self._parts.sides.ask(model, version)

    def state(self, rollout_id: str) -> RolloutState:
        """The rollout as the ledger has it. Raises CommandRefused, LedgerError, CorruptLedger."""
        return self._parts.journal.read(rollout_id)

    def owes(self, rollout_id: str) -> bool:
        """Whether `drive` has something to carry out that was decided already."""
        if self._parts.spool.get(rollout_id) is not None:
            return True
        return owed(self.state(rollout_id)) is not None

    def assess(self, rollout_id: str, evidence: Iterable[Evidence] = ()) -> Decision:
        """Decide without acting: fast enough for a sensor. Evidence and holds are recorded where they are news.

        `roll_back`: call `roll_back_now`. `advance`, `promote`, or `owes()`: have `drive` called by a job.
        """
        items = tuple(evidence)
        for _ in range(ROUNDS):
            self._emergency.settle(rollout_id)
            state, now = self._parts.read(rollout_id), self._parts.clock()
            decision, given = decide_between_sides(self._parts, state, items, now)
            try:
                self._note(state, decision, given, now)
            except LedgerConflict:
                continue
            return decision
        raise LedgerConflict(f"{rollout_id}: the decision could not be written")

    def drive(self, rollout_id: str, evidence: Iterable[Evidence] = ()) -> Decision:
        """Carry out what was decided, decide, and so on until something has to be waited for.

        A failed action is in the ledger, alerted and tried again by the next call. Raises LedgerError,
        CorruptLedger, CommandRefused (no such rollout).
        """
        self._emergency.settle(rollout_id)
        return self._driver.drive(rollout_id, tuple(evidence))

    def record(self, rollout_id: str, evidence: Iterable[Evidence]) -> None:
        """Keep evidence for the decisions to come."""
        items = tuple(evidence)
        if items:
            self._write(
                rollout_id,
                lambda state: recorded(state, items, at=self._parts.clock(), by=self._parts.by),
            )

    def lapsed(self, rollout_id: str, lapse: Lapse) -> None:
        """Write down that the serving side took the share away by itself; once, and not of a share that has changed since."""
        for _ in range(ROUNDS):
            state = self._parts.read(rollout_id)
            if not _has_lapsed(state, lapse):
                return
            event = Lapsed(
                rollout_id=rollout_id,
                seq=UNNUMBERED,
                at=self._parts.clock(),
                by=self._parts.by,
                taken_at=lapse.at,
                percent=state.percent,
                mirror=state.mirror,
                reason=lapse.reason,
            )
            with suppress(LedgerConflict):
                self._parts.journal.append(state, [event])
                return
        raise LedgerConflict(f"{rollout_id}: the lapse could not be written")

    def command(self, rollout_id: str, order: Order, *, by: str, reason: str) -> Decision:
        """Take a person's order. Raises CommandRefused where it makes no sense now, or gives no reason.

        `roll_back_now` takes the traffic away before it returns; every other order is carried out by `drive`.
        """
        if not reason.strip():
            raise CommandRefused(f"{order} of {rollout_id}: the reason is empty, expected why")
        if order is Order.ROLL_BACK_NOW:
            return self.roll_back_now(rollout_id, reason, by=by, ordered=True)

        def event(state: RolloutState) -> Event:
            check_order(state, order)
            return command(state, order, at=self._parts.clock(), by=by, reason=reason)

        self._emergency.settle(rollout_id)
        state = self._write(rollout_id, event)
        return decide(state, (), self._parts.clock())

    def roll_back_now(
        self,
        rollout_id: str,
        reason: str,
        evidence: Iterable[Evidence] = (),
        *,
        by: str | None = None,
        ordered: bool = False,
    ) -> Decision:
        """Traffic to 0 at once and recorded, even while the ledger is away; `drive` does the rest.

        Holds instead where the champion is known to be unhealthy, unless a person `ordered` it. A promotion under
        way is told, and turns back if it still can. The decision's rule is `emergency` where the ledger does not
        have it yet, and `unrecorded` where this process alone knows of it.

        Raises StillInTraffic where the traffic could not be taken away, after that was recorded, and CommandRefused
        where there is no such rollout; nothing else.
        """
        emergency = Emergency(
            rollout_id=rollout_id,
            at=self._parts.clock(),
            by=by or self._parts.by,
            reason=reason,
            evidence=tuple(evidence),
            ordered=ordered,
        )
        return self._emergency.roll_back(emergency)

    def _note(
        self, state: RolloutState, decision: Decision, items: tuple[Evidence, ...], now: datetime
    ) -> None:
        if state.phase is Phase.ENDED:
            return
        waits = decision.kind in (DecisionKind.CONTINUE, DecisionKind.HOLD)
        if waits and not state.winding_up:
            note(self._parts, state, decided(state, decision, items, at=now, by=self._parts.by), items)
        elif news := worth_recording(state, items):
            self._parts.journal.append(state, [recorded(state, news, at=now, by=self._parts.by)])

    def _write(self, rollout_id: str, make: Callable[[RolloutState], Event]) -> RolloutState:
        for _ in range(ROUNDS):
            state = self._parts.read(rollout_id)
            if state.phase is Phase.ENDED:
                raise CommandRefused(f"{rollout_id} has ended: {state.end}, {state.end_reason}")
            try:
                return self._parts.journal.append(state, [make(state)])
            except LedgerConflict:
                continue
        raise LedgerConflict(f"{rollout_id}: could not be written to")
