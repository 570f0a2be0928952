"""What the rules look at, and the answers that they give."""

from dataclasses import dataclass
from datetime import datetime

from pipelines.core.rollout.events import Decision, DecisionKind, End
from pipelines.core.rollout.policy import Severity
from pipelines.core.rollout.standing import Standing, Status
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict


@dataclass(frozen=True, kw_only=True)
class Case:
    """What the rules look at."""

    state: RolloutState
    standings: tuple[Standing, ...]
    champion_trouble: str | None
    served: Evidence | None = None
    """The latest answer to what is served, and whether the registry agrees."""
    registered: Evidence | None = None
    """The latest answer to whether both versions are in the registry."""
    watched: Evidence | None = None
    """The latest look at the guardrails after a lapse."""
    doubts: tuple[Evidence, ...] = ()
    """Evidence of harm too strong to go on by, and too weak to go back."""
    now: datetime

    @property
    def next_step(self) -> int | None:
        """The index of the step that would come next; None when it is the promotion."""
        following = self.state.step + 1
        first_version = self.state.champion is None
        return None if first_version or following >= len(self.state.policy.ramp) else following

    @property
    def disagreement(self) -> str | None:
        """What is served is not what the rollout started against, or not what the registry says."""
        return self.served.reason if self.served and self.served.verdict is Verdict.FAIL else None

    @property
    def before_traffic(self) -> bool:
        return self.state.phase in (Phase.STARTING, Phase.VALIDATING)

    @property
    def failing(self) -> tuple[Standing, ...]:
        """Failed checks that are not mere warnings."""
        return tuple(s for s in self.standings if s.status is Status.FAIL and s.on_fail is not OnFail.WARN)

    @property
    def harm(self) -> tuple[Standing, ...]:
        """Failed checks that ask for a rollback."""
        return tuple(s for s in self.failing if s.on_fail is OnFail.ROLL_BACK)

    @property
    def in_the_way(self) -> tuple[Standing, ...]:
        """Whatever has not passed and is needed for the next move; a blind rollback guardrail always is."""
        return tuple(s for s in self.standings if s.status is not Status.PASS and self._needed(s))

    def _needed(self, s: Standing) -> bool:
        if s.on_fail is OnFail.WARN:
            return False
        blind = s.status is Status.UNKNOWN and s.on_fail is OnFail.ROLL_BACK
        return blind or self.next_step is None or s.needed_for is NeededFor.ADVANCE

    @property
    def unknown(self) -> tuple[Standing, ...]:
        """What is in the way because it could not be measured."""
        return tuple(s for s in self.in_the_way if s.status is Status.UNKNOWN)


def in_words(items: tuple[Standing, ...]) -> str:
    return "; ".join(s.words for s in items)


def names(items: tuple[Standing, ...]) -> tuple[str, ...]:
    return tuple(s.name for s in items)


def wait(rule: str, reason: str, *, evidence: tuple[Standing, ...] = ()) -> Decision:
    return Decision(kind=DecisionKind.CONTINUE, rule=rule, reason=reason, evidence=names(evidence))


def hold(
    rule: str,
    reason: str,
    *,
    evidence: tuple[Standing, ...] = (),
    unknown: tuple[Standing, ...] = (),
    severity: Severity = "info",
) -> Decision:
    return Decision(
        kind=DecisionKind.HOLD,
        rule=rule,
        reason=reason,
        evidence=names(evidence),
        unknown=names(unknown),
        severity=severity,
    )


def promote(rule: str, reason: str, *, evidence: tuple[Standing, ...] = ()) -> Decision:
    return Decision(
        kind=DecisionKind.PROMOTE, rule=rule, reason=reason, end=End.PROMOTED, evidence=names(evidence)
    )


def roll_back(
    rule: str,
    reason: str,
    *,
    end: End,
    evidence: tuple[Standing, ...] = (),
    severity: Severity = "critical",
) -> Decision:
    return Decision(
        kind=DecisionKind.ROLL_BACK,
        rule=rule,
        reason=reason,
        end=end,
        evidence=names(evidence),
        severity=severity,
    )
