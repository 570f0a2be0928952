"""What the controller's parts share."""

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.rollout.decide import decide
from pipelines.rollout.decision import Decision, DecisionKind
from pipelines.rollout.evidence import Evidence
from pipelines.rollout.fold import before_promotion
from pipelines.rollout.state import Phase, RolloutState
from resources.containment import in_words, say
from resources.controller.effects import Effects
from resources.controller.journal import Journal
from resources.controller.sides import SidesAsked
from resources.controller.spool import Spool
from resources.ledger import Ledger

log = logging.getLogger(__name__)
EMERGENCY_PATIENCE = timedelta(milliseconds=500)
"""How long an emergency waits for a traffic change under way; then it goes first."""
PATIENCE = timedelta(seconds=10)
"""How long an advance waits for another traffic change of the same model."""
_MOVES = (DecisionKind.ADVANCE, DecisionKind.PROMOTE)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The systems and the clock; `by` is who writes unless a call says otherwise."""

    ledger: Ledger
    journal: Journal
    effects: Effects
    sides: SidesAsked
    spool: Spool
    clock: Callable[[], datetime]
    by: str

    def changing_traffic(self, model: str, wait: timedelta) -> AbstractContextManager[bool]:
        """One traffic change of a model at a time; False when `wait` was not enough."""
        return self.ledger.exclusive(f"traffic:{model}", wait=wait)

    @contextmanager
    def patiently(self, model: str) -> Generator[None]:
        """Wait a moment for a traffic change under way, then go on, whether it is over or there can be no lock."""
        lock = ExitStack()
        try:
            lock.enter_context(self.changing_traffic(model, EMERGENCY_PATIENCE))
        except Exception as error:  # noqa: BLE001 -- the brake waits for no lock, whatever keeps it away
            say(log, logging.WARNING, f"{model}: traffic is taken away without a lock: {in_words(error)}")
        try:
            yield
        finally:
            _let_go(lock, model)


def _let_go(lock: ExitStack, model: str) -> None:
    try:
        lock.close()
    except Exception as error:  # noqa: BLE001 -- what was done under the lock is done
        say(log, logging.WARNING, f"{model}: a lock of the ledger ends with its session: {in_words(error)}")


def decide_between_sides(
    parts: Parts, state: RolloutState, evidence: tuple[Evidence, ...], now: datetime
) -> tuple[Decision, tuple[Evidence, ...]]:
    """`decide`, and the evidence it had: both sides were asked a moment ago, for a move just now.

    A rollback does not wait for the answer, nor does what was decided already.
    """
    decision, given = decide(state, evidence, now), evidence
    if state.winding_up or state.phase is Phase.ENDED:
        return decision, given
    for fresh in (True,) if decision.kind in _MOVES else (False, True):
        if decision.kind is DecisionKind.ROLL_BACK or (fresh and decision.kind not in _MOVES):
            break
        given = (*evidence, *parts.sides.evidence(state, now, fresh=fresh))
        decision = decide(state, given, now)
    return decision, given


def would_roll_back(state: RolloutState, evidence: Iterable[Evidence], now: datetime) -> bool:
    """Whether a rollback would be decided if the promotion under way were not."""
    return decide(before_promotion(state), evidence, now).kind is DecisionKind.ROLL_BACK
