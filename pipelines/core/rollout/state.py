"""What is known about a rollout: a fold over its events (`pipelines.core.rollout.fold`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Command,
    Decided,
    DecisionKind,
    End,
    Intent,
    Lapsed,
)
from pipelines.core.rollout.policy import Policy
from pipelines.core.vocabulary import Evidence


class Phase(StrEnum):
    """Where a rollout is."""

    STARTING = "starting"
    """The version is not running yet."""
    VALIDATING = "validating"
    """Running without traffic."""
    SHADOW = "shadow"
    STEPPING = "stepping"
    PROMOTING = "promoting"
    BAKING = "baking"
    """Promoted; the previous champion stays warm, and harm restores it."""
    ROLLING_BACK = "rolling_back"
    ENDED = "ended"


class Weight(NamedTuple):
    """A change of the traffic share; between `begun` and `at` either share may have been in force."""

    begun: datetime
    at: datetime
    percent: float


class Trouble(NamedTuple):
    """An action that keeps failing."""

    action: Action
    since: datetime
    """The first of these failures."""
    attempts: int
    message: str
    final: bool
    own: int
    """How many of the attempts failed for a reason that is the version's own."""


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """One rollout after `seq` events."""

    rollout_id: str
    seq: int
    model: str
    version: str
    champion: str | None
    """The version that was served when it started: its other side. None where nothing was served. After a person's promotion
    the version whose place it took."""
    despite: str = ""
    """The registry's disagreement at the start, where a person accepted it."""
    artefact: Artefact
    salt: str
    policy: Policy
    manifest_digest: str
    started_at: datetime
    latest: datetime | None = None
    """When the last event was written."""
    phase: Phase
    step: int = -1
    """Index into the policy's ramp; -1 before the first step."""
    percent: float = 0.0
    """Share of live traffic in force, as last confirmed by the serving side."""
    since: datetime
    """When the current step came into force; before the first one, when the rollout started."""
    mirror: bool = False
    lapsed: Lapsed | None = None
    """The share of this step was taken away because nobody watched it, and was not given again yet."""
    promotion: Decided | None = None
    """The decision to promote, once the bake has begun."""
    deployed: bool = False
    exposed: bool = False
    """Live traffic was ever asked for, whether or not it was confirmed."""
    evidence: Mapping[str, Evidence] = field(default_factory=dict[str, Evidence])
    """The latest recorded evidence of each name."""
    unknown_since: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """Evidence in the way that could not be measured: since which decision."""
    paused: Command | None = None
    approved: Command | None = None
    """A person's approval of leaving the current step."""
    ordered: Command | None = None
    """A person's abort or rollback."""
    forced: Command | None = None
    """A person's forced promotion."""
    pending: Intent | None = None
    """An intent without an outcome."""
    done: frozenset[Action] = frozenset()
    """What is finished of the promotion or rollback under way."""
    trouble: Trouble | None = None
    landed: bool = False
    """A promotion turned out to have taken effect before the rollback that was to prevent it."""
    weights: tuple[Weight, ...] = ()
    last: Decided | None = None
    """The last decision."""
    end: End | None = None
    end_reason: str = ""

    @property
    def ending(self) -> Decided | None:
        """The decision to promote or to roll back that is being carried out."""
        return self.last if self.winding_up else None

    @property
    def forcing(self) -> bool:
        """A person's promotion is being carried out: it goes past a disagreement, and its reason says so."""
        return self.ending is not None and self.ending.decision.rule == "forced"

    @property
    def bakes(self) -> bool:
        """Whether a bake follows the promotion: there is a version to go back to, and it has not baked yet."""
        return self.policy.bake > timedelta(0) and self.champion is not None and self.promotion is None

    @property
    def exposure(self) -> int:
        """Number of the share in force, from the ramp's first: a share that is given again is another one."""
        return self._exposure_at(None)

    @property
    def bake_exposure(self) -> int | None:
        """Number of the bake's share; None before there is one."""
        return None if self.promotion is None else self._exposure_at(self.since)

    def _exposure_at(self, time: datetime | None) -> int:
        shares = [weight.at for weight in self.weights if weight.percent > 0]
        given = sum(time is None or at <= time for at in shares)
        shadows = sum(each == "shadow" for each in self.policy.ramp)
        return shadows + given - 1 if given else self.step

    @property
    def to_be_taken_back(self) -> bool:
        """Live traffic was asked for, and has not been taken away."""
        return self.exposed and not self.policy.dry_run and Action.TRAFFIC_OFF not in self.done

    @property
    def winding_up(self) -> bool:
        """A promotion or rollback was decided."""
        return self.phase in _WINDING_UP

    @property
    def decided(self) -> DecisionKind | None:
        """The kind of the last decision."""
        return None if self.last is None else self.last.decision.kind


class Owed(NamedTuple):
    """The next thing to do that needs no decision; `action` None: only the end is left to be written."""

    action: Action | None


_WINDING_UP = {
    Phase.PROMOTING: (Action.PROMOTE, Action.REGISTER),
    Phase.ROLLING_BACK: (Action.TRAFFIC_OFF, Action.RESTORE, Action.REGISTER),
}


def owed(state: RolloutState) -> Owed | None:
    """What follows from decisions already taken; None when a decision is due, or all is done."""
    if state.pending is not None:
        return Owed(state.pending.action)
    if state.phase is Phase.STARTING:
        return Owed(Action.DEPLOY)
    if state.phase is Phase.BAKING and Action.REGISTER not in state.done:
        return Owed(Action.REGISTER)
    if state.phase not in _WINDING_UP:
        return None
    left = [action for action in _steps(state) if action not in state.done]
    return Owed(left[0] if left else None)


def _steps(state: RolloutState) -> tuple[Action, ...]:
    if state.phase is Phase.PROMOTING and state.policy.dry_run:
        return (Action.PROMOTE, Action.RESTORE, Action.REGISTER)
    if state.phase is Phase.PROMOTING and state.bakes:
        return (Action.BAKE,)
    steps = _WINDING_UP[state.phase]
    if state.landed:
        return (Action.REGISTER,)
    if not state.exposed:
        steps = tuple(action for action in steps if action is not Action.TRAFFIC_OFF)
    return steps
