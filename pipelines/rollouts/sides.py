"""Asks both sides, serving and registry, what a rollout stands between."""

import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.core.errors import LedgerConflict, RegistryError, ServingError
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import ClockSet, Decision, DecisionKind
from pipelines.core.rollout.fold import before_promotion
from pipelines.core.rollout.policy import REGISTERED, SERVED
from pipelines.core.rollout.sides import CHAMPION, RegistrySide, Sides, cannot_tell, evidence_of, still_served
from pipelines.core.rollout.standing import CLOCK_TOLERANCE
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, Verdict
from pipelines.rollouts.actions import Effects, RolloutRegistry
from pipelines.rollouts.journal import UNNUMBERED, Journal, Spool
from pipelines.rollouts.last_word import LastWord
from resources.ledger.ledger import Ledger
from resources.notifier import in_words, say
from resources.serving.contract import ServingBackend

log = logging.getLogger(__name__)

RECENT = timedelta(seconds=15)
"""A rollout that waits asks this often; a move asks when it is made."""

GONE = "is not in the registry any more (deleted; or the registered model was deleted or renamed)"

ARCHIVED = "is archived in the registry"

_ARCHIVED_STAGE = "Archived"


class _Asked(NamedTuple):
    rollout_id: str
    at: datetime
    found: tuple[Evidence, ...]


class SidesAsked:
    """One writer's questions. What it remembers only saves asking again while a rollout waits."""

    def __init__(self, backend: ServingBackend, registry: RolloutRegistry) -> None:
        self._backend, self._registry = backend, registry
        self._asked: dict[str, _Asked] = {}

    def ask(self, model: str, version: str) -> Sides:
        """Both sides now. Raises ServingError, RegistryError: not knowing is not "nothing is served"."""
        served = self.served(model)
        return Sides(served=served, registered=self._registered(model, version, served))

    def served(self, model: str) -> str | None:
        """The stable revision's version; None: asked, and nothing is served. Raises ServingError."""
        stable = self._backend.status(model).stable
        return None if stable is None else stable.version

    def evidence(self, state: RolloutState, now: datetime, *, fresh: bool) -> tuple[Evidence, ...]:
        """`SERVED` and `REGISTERED`; where all is well, only for a move, and where the ledger says otherwise."""
        known = self._asked.get(state.model)
        if fresh or known is None or known.rollout_id != state.rollout_id or abs(now - known.at) > RECENT:
            known = self._asked[state.model] = _Asked(state.rollout_id, now, self._ask(state, now))
        return tuple(item for item in known.found if fresh or _is_news(state, item))

    def _ask(self, state: RolloutState, now: datetime) -> tuple[Evidence, ...]:
        """The serving side is asked last: nobody waits for a slow registry between its answer and what follows."""
        registered: RegistrySide | None = None
        try:
            registered = self._registered(state.model, state.version, state.champion)
        except RegistryError as error:
            log.warning("%s: the registry cannot be asked: %s", state.rollout_id, error)
        try:
            served = self.served(state.model)
        except ServingError as error:
            return (cannot_tell(str(error), now),)
        if registered is None:
            return _without_registry(state, served, now)
        return evidence_of(state, Sides(served=served, registered=registered), now)

    def _registered(self, model: str, version: str, against: str | None) -> RegistrySide:
        champion = self._registry.version_with_alias(model, CHAMPION)
        other = self._registry.version(model, against) if against else None
        withdrawn = {} if other is not None or not against else {against: GONE}
        mine = self._registry.version(model, version)
        if mine is None or mine.stage == _ARCHIVED_STAGE:
            withdrawn[version] = GONE if mine is None else ARCHIVED
        return RegistrySide(
            champion=None if champion is None else champion.version,
            withdrawn=withdrawn,
            aliases=() if other is None else other.aliases,
        )


def _without_registry(state: RolloutState, served: str | None, now: datetime) -> tuple[Evidence, ...]:
    """An open rollout goes on, except that what the registry said last, and was in the way, stays so."""
    found = still_served(state, served, now)
    known = state.evidence.get(SERVED)
    held = known is not None and known.verdict is Verdict.FAIL
    return () if held and found.verdict is Verdict.PASS else (found,)


def _is_news(state: RolloutState, item: Evidence) -> bool:
    known = state.evidence.get(item.name)
    return item.verdict is not Verdict.PASS or (known is not None and known.verdict is not Verdict.PASS)


def in_the_way(evidence: tuple[Evidence, ...]) -> str:
    """Why no more traffic may be given on this evidence of the sides; empty where it may."""
    return "; ".join(
        item.reason
        for item in evidence
        if item.name in (SERVED, REGISTERED) and item.verdict is not Verdict.PASS
    )


# What the controller's parts share.


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
    last_word: LastWord
    spool: Spool
    clock: Callable[[], datetime]
    by: str

    def read(self, rollout_id: str) -> RolloutState:
        """The state now. A clock that was set back since its last event is written down first: nothing waits for it to come
        to the same time again. Raises what the journal raises."""
        state, now = self.journal.read(rollout_id), self.clock()
        if state.phase is Phase.ENDED or state.latest is None or state.latest - now <= CLOCK_TOLERANCE:
            return state
        event = ClockSet(rollout_id=rollout_id, seq=UNNUMBERED, at=now, by=self.by, back=state.latest - now)
        with suppress(LedgerConflict):
            return self.journal.append(state, [event])
        return self.journal.read(rollout_id)

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
