"""What `decide` answers."""

from dataclasses import dataclass
from enum import StrEnum

from pipelines.rollout.policy import Severity


class DecisionKind(StrEnum):
    """`continue` waits for time or data; `hold` waits because something is in the way."""

    CONTINUE = "continue"
    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class End(StrEnum):
    """How a rollout ends."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    ABORTED = "aborted"
    COMPARED = "compared"
    """An A/B test is over and the champion stays."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision, with everything that explains it."""

    kind: DecisionKind
    rule: str
    """The rule that decided, by name."""
    reason: str
    """In words, with numbers."""
    step: int | None = None
    """For `advance`: the index of the next step in the policy's ramp."""
    percent: float | None = None
    """For `advance`: the share of traffic of that step, 0 for shadow."""
    end: End | None = None
    """For `promote` and `roll_back`: how the rollout will have ended."""
    evidence: tuple[str, ...] = ()
    """Names of the evidence that decided."""
    unknown: tuple[str, ...] = ()
    """Evidence in the way that could not be measured; each counts towards `max_unknown`."""
    severity: Severity = "info"
