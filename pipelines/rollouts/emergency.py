"""The short way out: traffic to zero first, the record after it, the rest for whoever drives next."""

import dataclasses
import logging
from collections.abc import Sequence

from pipelines.core.errors import CommandRefused, LedgerConflict, ServingError, StillInTraffic
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import (
    Action,
    Command,
    Decision,
    DecisionKind,
    Done,
    End,
    Event,
    Failed,
    Intent,
    Order,
    named,
)
from pipelines.core.rollout.fold import before_promotion, merge, step
from pipelines.core.rollout.standing import champion_trouble
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.rollouts.driver import ROUNDS, note
from pipelines.rollouts.journal import (
    Emergency,
    action_id,
    command,
    decided,
    done,
    failed,
    intent,
    recorded,
    worth_recording,
)
from pipelines.rollouts.sides import Parts
from resources.notifier import in_words, say

log = logging.getLogger(__name__)

EMERGENCY, UNRECORDED = "emergency", "unrecorded"
"""Rules of a rollback that the ledger does not have yet: kept on disk, or in this process's memory alone."""

ALREADY = "already"
"""The rule of a rollback to which nothing was added here: the ledger had it, and its traffic change, from somebody else."""


class EmergencyExit:
    """Rollbacks that do not wait."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def roll_back(self, emergency: Emergency) -> Decision:
        """Traffic off, then the record, which goes to the spool where the ledger is away.

        Raises StillInTraffic once all that is done, where the traffic could not be taken away, and CommandRefused
        where there is no such rollout; nothing else.
        """
        try:
            state = self._parts.journal.read(emergency.rollout_id)
            planned = _decision(state, emergency)
        except CommandRefused:
            raise
        except Exception as error:  # noqa: BLE001 -- the brake does not depend on what can be read and decided
            return self._blindly(emergency, error)
        if _too_late(state):
            return planned
        if planned.kind is DecisionKind.HOLD:
            self._hold(state, planned, emergency)
            return planned
        tried = self._traffic_off(state) if state.to_be_taken_back else ()
        return self._told(emergency, planned, tried)

    def _told(self, emergency: Emergency, planned: Decision, tried: Sequence[Event]) -> Decision:
        try:
            decision = self._record(emergency, tried)
        except Exception as error:  # noqa: BLE001 -- what cannot be recorded now is kept until it can
            decision = self._spooled(emergency, planned, error)
        failure = next((event.message for event in tried if isinstance(event, Failed)), None)
        if failure is not None:
            raise StillInTraffic(_not_away(emergency, failure, decision))
        return decision

    def _spooled(self, emergency: Emergency, planned: Decision, error: Exception) -> Decision:
        """Kept in the spool, and where that cannot be written either, in this process's memory."""
        problem = self._parts.spool.keep(emergency)
        reason = f"{planned.reason}; the ledger is told when it is back: {in_words(error)}"
        if problem:
            reason += f"; until then this process alone knows of it: {problem}"
        say(log, logging.ERROR, f"{emergency.rollout_id}: {reason}")
        return dataclasses.replace(planned, rule=UNRECORDED if problem else EMERGENCY, reason=reason)

    def _hold(self, state: RolloutState, planned: Decision, emergency: Emergency) -> None:
        if state.winding_up:
            return
        event = decided(state, planned, emergency.evidence, at=emergency.at, by=emergency.by)
        try:
            note(self._parts, state, event, emergency.evidence)
        except LedgerConflict:
            return
        except Exception as error:  # noqa: BLE001 -- it is decided again at the next look, and noted then
            say(
                log, logging.ERROR, f"{state.rollout_id}: a hold could not be noted: {in_words(error)}", error
            )

    def settle(self, rollout_id: str) -> None:
        """Tell the ledger about a rollback that it missed. Raises LedgerError while it is still away."""
        emergency = self._parts.spool.get(rollout_id)
        if emergency is None:
            return
        if self._record(emergency, ()).kind is DecisionKind.HOLD:
            # The traffic is away already, whatever is known of the champion by now.
            self._record(dataclasses.replace(emergency, ordered=True), ())
        self._parts.spool.drop(rollout_id)

    def _blindly(self, emergency: Emergency, error: Exception) -> Decision:
        """Without what the ledger knows: the traffic goes all the same."""
        trouble = champion_trouble(merge({}, emergency.evidence), emergency.at)
        if trouble is not None and not emergency.ordered:
            reason = f"the champion is unhealthy: {trouble}; the ledger is away: {error}"
            return Decision(
                kind=DecisionKind.HOLD, rule="champion_unhealthy", reason=reason, severity="critical"
            )
        failure = self._try_traffic_off(emergency.rollout_id)
        planned = Decision(
            kind=DecisionKind.ROLL_BACK,
            rule=EMERGENCY,
            reason=emergency.reason,
            end=End.ROLLED_BACK,
            evidence=tuple(item.name for item in emergency.evidence),
            severity="critical",
        )
        decision = self._spooled(emergency, planned, error)
        if failure is not None:
            raise StillInTraffic(_not_away(emergency, failure, decision))
        return decision

    def _traffic_off(self, state: RolloutState) -> Sequence[Event]:
        """Intent and outcome of the traffic change that is made here."""
        begun = intent(state, Action.TRAFFIC_OFF, at=self._parts.clock(), by=self._parts.by)
        with self._parts.patiently(state.model):
            failure = self._try_traffic_off(state.rollout_id)
        at, by = self._parts.clock(), self._parts.by
        if failure is not None:
            return begun, failed(begun, failure, at=at, by=by)
        return begun, done(begun, at=at, by=by)

    def _try_traffic_off(self, rollout_id: str) -> str | None:
        """Why the traffic could not be taken away; None where it was."""
        try:
            self._parts.effects.traffic_off(*named(rollout_id))
        except Exception as error:  # noqa: BLE001 -- whatever went wrong, the rest of the way out is still gone
            failure = str(error) if isinstance(error, ServingError) else in_words(error)
            say(log, logging.ERROR, f"{rollout_id}: traffic could not be taken away: {failure}", error)
            return failure
        return None

    def _record(self, emergency: Emergency, tried: Sequence[Event]) -> Decision:
        for _ in range(ROUNDS):
            state = self._parts.journal.read(emergency.rollout_id)
            events = _events(state, emergency, tried)
            if not events and state.phase is Phase.ROLLING_BACK:
                return dataclasses.replace(decide(state, (), emergency.at), rule=ALREADY)
            try:
                state = self._parts.journal.append(state, events) if events else state
            except LedgerConflict:
                continue
            return decide(state, (), emergency.at)
        raise LedgerConflict(f"{emergency.rollout_id}: the rollback could not be written")


def _not_away(emergency: Emergency, failure: str, decision: Decision) -> str:
    return (
        f"{emergency.rollout_id}: the traffic could NOT be taken away and is tried again: {failure}"
        f" (rolled back because: {decision.reason})"
    )


def _too_late(state: RolloutState) -> bool:
    """Ended, or promoted: there is nothing to take back, and nothing to tell the ledger."""
    return state.phase is Phase.ENDED or Action.PROMOTE in state.done


def _order(state: RolloutState, emergency: Emergency) -> Command:
    return command(state, Order.ROLL_BACK_NOW, at=emergency.at, by=emergency.by, reason=emergency.reason)


def _preamble(state: RolloutState, emergency: Emergency) -> tuple[Event, ...]:
    """An order, unless the evidence alone is enough (or forbids it)."""
    if not emergency.ordered:
        by_evidence = decide(state, emergency.evidence, emergency.at)
        if by_evidence.kind is DecisionKind.ROLL_BACK or by_evidence.rule == "champion_unhealthy":
            return ()
    return (_order(state, emergency),)


def _decision(state: RolloutState, emergency: Emergency) -> Decision:
    """What would be decided; `hold` only where the champion must not get the traffic back."""
    if state.phase is Phase.ROLLING_BACK or _too_late(state):
        return decide(state, (), emergency.at)
    state = before_promotion(state) if state.phase is Phase.PROMOTING else state
    for event in _preamble(state, emergency):
        state = step(state, event.model_copy(update={"seq": state.seq + 1}))
    return decide(state, emergency.evidence, emergency.at)


def _events(state: RolloutState, emergency: Emergency, tried: Sequence[Event]) -> list[Event]:
    """What the ledger has to be told, given what it knows by now."""
    if state.phase is Phase.ENDED:
        return []
    if state.phase is Phase.PROMOTING:
        return _warnings(state, emergency)
    events: list[Event] = []
    if state.phase is not Phase.ROLLING_BACK:
        events = list(_preamble(state, emergency))
        decision = _decision(state, emergency)
        events.append(decided(state, decision, emergency.evidence, at=emergency.at, by=emergency.by))
        if decision.kind is not DecisionKind.ROLL_BACK:
            return events
    free = state.phase is not Phase.ROLLING_BACK or (state.pending is None and not _is_known(state, tried))
    return events + _renamed(state, tried, place=len(events) + 1) if free else events


def _warnings(state: RolloutState, emergency: Emergency) -> list[Event]:
    """While a promotion is under way: whoever carries it out looks at this first, and may still turn back."""
    if Action.PROMOTE in state.done:
        return []
    news = worth_recording(state, emergency.evidence)
    events: list[Event] = [recorded(state, news, at=emergency.at, by=emergency.by)] if news else []
    if emergency.ordered and state.ordered is None:
        events.append(_order(state, emergency))
    return events


def _is_known(state: RolloutState, tried: Sequence[Event]) -> bool:
    """Two who watch have taken the same traffic away, and the ledger has it of the other one."""
    return not state.to_be_taken_back and any(isinstance(event, Done) for event in tried)


def _renamed(state: RolloutState, tried: Sequence[Event], *, place: int) -> list[Event]:
    """The traffic change's intent and outcome, with the id that fits where they are written."""
    identity = action_id(state, Action.TRAFFIC_OFF, place=place)
    known = (Intent, Done, Failed)
    return [event.model_copy(update={"action_id": identity}) for event in tried if isinstance(event, known)]
