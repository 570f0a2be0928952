"""Asks both sides, serving and registry, what a rollout stands between."""

import logging
from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.errors import RegistryError, ServingError
from pipelines.rollout.evidence import Evidence, Verdict
from pipelines.rollout.policy import REGISTERED, SERVED
from pipelines.rollout.sides import Registered, Sides, cannot_tell, evidence_of, still_served
from pipelines.rollout.state import RolloutState
from resources.controller.registry import CHAMPION, Registry
from resources.serving.backend import ServingBackend

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

    def __init__(self, backend: ServingBackend, registry: Registry) -> None:
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
        registered: Registered | None = None
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

    def _registered(self, model: str, version: str, against: str | None) -> Registered:
        champion = self._registry.version_with_alias(model, CHAMPION)
        other = self._registry.version(model, against) if against else None
        withdrawn = {} if other is not None or not against else {against: GONE}
        mine = self._registry.version(model, version)
        if mine is None or mine.stage == _ARCHIVED_STAGE:
            withdrawn[version] = GONE if mine is None else ARCHIVED
        return Registered(
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
