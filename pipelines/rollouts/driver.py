"""Drives a rollout: what was decided is carried out, then the next decision is taken.

Each action is an intent in the ledger, a call that may be repeated, and an outcome in the ledger. A crash
between any two of them leaves an intent without an outcome: whoever drives next repeats the call.
"""

import logging
from collections.abc import Iterable
from datetime import datetime

from pipelines.core.errors import (
    LedgerConflict,
    NotInRegistry,
    RegistryError,
    ServingError,
    VersionFailed,
    VersionRefused,
)
from pipelines.core.rollout.alerts import overtaken_registration, unclear_promotion
from pipelines.core.rollout.events import (
    Action,
    Decided,
    Decision,
    DecisionKind,
    Done,
    End,
    Ended,
    Event,
    Failed,
    Intent,
)
from pipelines.core.rollout.fold import step
from pipelines.core.rollout.state import Owed, Phase, RolloutState, owed
from pipelines.core.vocabulary import Evidence
from pipelines.rollouts.actions import outcome
from pipelines.rollouts.journal import decided, done, failed, intent, recorded, worth_recording
from pipelines.rollouts.sides import PATIENCE, Parts, decide_between_sides, in_the_way, would_roll_back
from resources.notifier import in_words, say

ROUNDS = 60

log = logging.getLogger(__name__)

_INCREASES = (Action.SHADOW, Action.SET_PERCENT, Action.BAKE, Action.PROMOTE)

_PROMOTING = (Action.BAKE, Action.PROMOTE)

_MOVES = (DecisionKind.ADVANCE, DecisionKind.PROMOTE, DecisionKind.ROLL_BACK)

_TAKING_BACK = (Action.TRAFFIC_OFF, Action.RESTORE)


class Driver:
    """The loop."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def drive(self, rollout_id: str, evidence: tuple[Evidence, ...]) -> Decision:
        """Go on until something has to be waited for. Raises LedgerError, CorruptLedger.

        Returns the last decision that changed something, or else the one that waits.
        """
        moves: Decision | None = None
        for _ in range(ROUNDS):
            state, now = self._parts.read(rollout_id), self._parts.clock()
            decision, given = decide_between_sides(self._parts, state, evidence, now)
            try:
                goes_on = self._round(state, decision, given, now)
            except LedgerConflict:
                continue
            if decision.kind in _MOVES:
                moves = decision
            if not goes_on:
                return moves or decision
        raise LedgerConflict(f"{rollout_id}: no progress in {ROUNDS} rounds against other controllers")

    def _round(
        self, state: RolloutState, decision: Decision, evidence: tuple[Evidence, ...], now: datetime
    ) -> bool:
        """One decision or action; False when there is nothing more to do for now."""
        if state.phase is Phase.ENDED:
            return False
        due = owed(state)
        if due is not None and state.winding_up:
            return self._carry_out(state, due, evidence)
        event = decided(state, decision, evidence, at=now, by=self._parts.by)
        if decision.kind is DecisionKind.ROLL_BACK:
            self._parts.journal.append(state, [event])
            return True
        if due is not None:
            return self._carry_out(state, due, evidence)
        if decision.kind is DecisionKind.ADVANCE:
            self._advance(state, event)
            return True
        if decision.kind is DecisionKind.PROMOTE:
            self._parts.journal.append(state, [event])
            return True
        note(self._parts, state, event, evidence)
        return False

    def _advance(self, state: RolloutState, event: Event) -> None:
        """Decision and intent in one transaction: a pause in between must not find a decision to carry out."""
        after = step(state, event.model_copy(update={"seq": state.seq + 1}))
        shadow = after.last is not None and after.policy.ramp[after.last.decision.step or 0] == "shadow"
        action = Action.SHADOW if shadow else Action.SET_PERCENT
        self._parts.journal.append(state, [event, intent(after, action, at=event.at, by=self._parts.by)])

    def _carry_out(self, state: RolloutState, due: Owed, evidence: tuple[Evidence, ...]) -> bool:
        if due.action is None:
            self._end(state)
            return True
        if state.pending is None:
            over = self._taken_over(state) if due.action in _PROMOTING and state.forcing else None
            new = intent(state, due.action, at=self._parts.clock(), by=self._parts.by, over=over)
            state = self._parts.journal.append(state, [new])
        if state.pending is None:
            raise AssertionError("an intent was just written")
        if state.pending.action in _INCREASES:
            return self._increase(state, state.pending, evidence)
        if state.pending.action is Action.TRAFFIC_OFF:
            with self._parts.patiently(state.model):
                return self._perform(state, state.pending)
        return self._perform(state, state.pending)

    def _taken_over(self, state: RolloutState) -> str | None:
        """Whose place a person's promotion takes: what was replaced by hand is gone back to, not what it had replaced."""
        try:
            return self._parts.sides.served(state.model) or None
        except ServingError as error:
            say(log, logging.WARNING, f"{state.rollout_id}: cannot tell what is served: {error}")
            return None

    def _increase(self, state: RolloutState, todo: Intent, evidence: tuple[Evidence, ...]) -> bool:
        """More traffic only while nobody else changes it, and only if nobody has taken it back meanwhile.

        The ledger is read last: a brake waits for no lock, and the registry may take a minute to answer.
        """
        with self._parts.changing_traffic(state.model, PATIENCE) as held:
            if not held:
                return False
            asks = not (todo.dry or state.forcing)
            found = self._parts.sides.evidence(state, self._parts.clock(), fresh=True) if asks else ()
            fresh = self._parts.journal.read(state.rollout_id)
            if fresh.pending is None or fresh.pending.action_id != todo.action_id:
                return True
            if fresh.lapsed is not None and fresh.pending.seq < fresh.lapsed.seq:
                return self._settle(fresh, todo, evidence, "the share has lapsed since it was decided")
            if todo.action in _PROMOTING and would_roll_back(fresh, evidence, self._parts.clock()):
                return self._settle(fresh, todo, evidence, "the evidence has turned against it")
            if problem := in_the_way(found):
                return self._settle(fresh, todo, (*evidence, *found), problem)
            return self._perform(fresh, todo)

    def _settle(
        self, state: RolloutState, todo: Intent, evidence: tuple[Evidence, ...], problem: str
    ) -> bool:
        """More traffic that should no longer be given: find out whether a promotion has happened all the same."""
        happened = False
        if todo.action is Action.PROMOTE and not todo.dry:
            happened = self._has_become_stable(state)
        if happened is None:
            return self._unclear(state, todo, problem)
        if happened:
            return self._outcome(state, todo, self._done(todo))
        news = worth_recording(state, evidence)
        at, by = self._parts.clock(), self._parts.by
        events: list[Event] = [recorded(state, news, at=at, by=by)] if news else []
        events.append(self._failed(todo, f"given up: {problem}"))
        self._parts.journal.append(state, events)
        return True

    def _perform(self, state: RolloutState, todo: Intent) -> bool:
        try:
            if todo.action is Action.SET_PERCENT and not todo.dry:
                self._parts.spool.reserve(state.rollout_id)
            self._parts.effects.perform(state, todo)
        except VersionRefused as error:
            return self._outcome(state, todo, self._failed(todo, str(error), final=True))
        except NotInRegistry as error:
            return self._outcome(state, todo, self._unregistered(todo, error))
        except (ServingError, RegistryError) as error:
            return self._not_performed(state, todo, str(error), unclear=not isinstance(error, VersionFailed))
        except Exception as error:  # noqa: BLE001 -- any library's error is an outcome, recorded and tried again
            say(log, logging.ERROR, f"{state.rollout_id}: {todo.action}: {in_words(error)}", error)
            return self._not_performed(state, todo, in_words(error), unclear=True)
        return self._outcome(state, todo, self._done(todo))

    def _not_performed(self, state: RolloutState, todo: Intent, error: str, *, unclear: bool) -> bool:
        if todo.action is Action.PROMOTE:
            return self._promotion_failed(state, todo, error)
        if todo.action in _TAKING_BACK and self._has_become_stable(state):
            return self._outcome(state, todo, self._done(todo, message=error, landed=True))
        return self._outcome(state, todo, self._failed(todo, error, unclear=unclear))

    def _promotion_failed(self, state: RolloutState, todo: Intent, error: str) -> bool:
        """An error may hide that it worked; the intent stays open until the serving side can be asked."""
        happened = self._has_become_stable(state)
        if happened is None:
            return self._unclear(state, todo, error)
        return self._outcome(state, todo, self._done(todo) if happened else self._failed(todo, error))

    def _unclear(self, state: RolloutState, todo: Intent, problem: str) -> bool:
        self._parts.ledger.outbox.add(unclear_promotion(state, todo, problem, self._parts.clock()))
        return False

    def _has_become_stable(self, state: RolloutState) -> bool | None:
        """None where the serving side does not answer."""
        try:
            return self._parts.effects.is_stable(state)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the question has no answer
            say(
                log,
                logging.WARNING,
                f"{state.rollout_id}: the serving side does not answer: {in_words(error)}",
            )
            return None

    def _outcome(self, state: RolloutState, todo: Intent, event: Done | Failed) -> bool:
        """Write the outcome after whatever others wrote meanwhile; False when the action has to be repeated."""
        for _ in range(ROUNDS):
            try:
                self._parts.journal.append(state, [event])
            except LedgerConflict:
                state = self._parts.journal.read(state.rollout_id)
                if state.pending is None or state.pending.action_id != todo.action_id:
                    self._superseded(state, todo)
                    return True
            else:
                return isinstance(event, Done) or event.final
        raise LedgerConflict(f"{state.rollout_id}: the outcome of {todo.action_id} could not be written")

    def _superseded(self, state: RolloutState, todo: Intent) -> None:
        """What came into force after its rollout was taken back must not stay."""
        if todo.action is Action.REGISTER:
            self._put_right(state)
            return
        if todo.dry or todo.action not in (Action.DEPLOY, *_INCREASES):
            return
        if state.phase is Phase.ENDED or Action.RESTORE in state.done:
            if not self._is_live_again(state):
                self._parts.effects.clean_up(state)
        elif state.phase is Phase.ROLLING_BACK and todo.action is not Action.DEPLOY:
            self._parts.effects.traffic_off(state.model, state.version)

    def _put_right(self, state: RolloutState) -> None:
        """Others went on while this was written into the registry: the last word is the ledger's."""
        both = tuple(each for each in (state.version, state.champion) if each is not None)
        named = both if state.promotion is not None or state.end is End.PROMOTED else ()
        try:
            self._parts.last_word.put_right(state.model, tagged=both, named=named)
        except RegistryError as error:
            self._parts.ledger.outbox.add(overtaken_registration(state, str(error), self._parts.clock()))

    def _is_live_again(self, state: RolloutState) -> bool:
        latest = self._parts.ledger.latest(state.model)
        return (
            latest is not None and latest.rollout_id != state.rollout_id and latest.version == state.version
        )

    def _end(self, state: RolloutState) -> None:
        end, reason = outcome(state)
        event = Ended(
            rollout_id=state.rollout_id,
            seq=1,
            at=self._parts.clock(),
            by=self._parts.by,
            end=end,
            reason=reason,
            dry=state.policy.dry_run,
        )
        self._parts.journal.append(state, [event])
        self._parts.spool.drop(state.rollout_id)

    def _done(self, todo: Intent, *, message: str = "", landed: bool = False) -> Done:
        return done(todo, at=self._parts.clock(), by=self._parts.by, message=message, landed=landed)

    def _unregistered(self, todo: Intent, error: NotInRegistry) -> Done:
        """Final: whatever was deleted is not written on later either, and must not keep the next rollout waiting."""
        message = f"the version is gone from the registry: {error}"
        return done(todo, at=self._parts.clock(), by=self._parts.by, message=message, unregistered=True)

    def _failed(self, todo: Intent, message: str, *, final: bool = False, unclear: bool = False) -> Failed:
        at, by = self._parts.clock(), self._parts.by
        return failed(todo, message, at=at, by=by, final=final, unclear=unclear)


def note(parts: Parts, state: RolloutState, event: Decided, evidence: Iterable[Evidence]) -> None:
    """Write a decision that changes nothing, if it or its evidence says something new."""
    last = None if state.last is None else state.last.decision
    new = event.decision
    same = last is not None and (
        (last.kind, last.rule, last.step, last.unknown) == (new.kind, new.rule, new.step, new.unknown)
    )
    if not same or worth_recording(state, evidence):
        parts.journal.append(state, [event])
