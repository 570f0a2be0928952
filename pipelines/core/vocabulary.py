"""The words that manifests, checks and rollouts share, evidence first of all. It imports nothing of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum


class Verdict(StrEnum):
    """Pass, fail, or unknown: a check that could not run is unknown, never fail."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"


class OnFail(StrEnum):
    """What a failed check asks for."""

    ROLL_BACK = "roll_back"
    HOLD = "hold"
    WARN = "warn"


class NeededFor(StrEnum):
    """The decision that waits for a pass: every advance (promotion included), or promotion alone."""

    ADVANCE = "advance"
    PROMOTE = "promote"


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One check's verdict on the canary at one moment.

    `pending` marks an unknown that only needs more data (it counts towards the maximum duration);
    any other unknown means that the check could not be carried out (it counts towards `max_unknown`).
    Evidence older than `valid_for` is unknown, whatever it said.
    """

    name: str
    source: str
    """serving | experiment | data_quality | drift | assignment | validation."""
    verdict: Verdict
    reason: str
    """In words, with numbers: this is what alerts and reports print."""
    at: datetime
    on_fail: OnFail = OnFail.HOLD
    needed_for: NeededFor = NeededFor.ADVANCE
    pending: bool = False
    valid_for: timedelta = timedelta(hours=1)
    values: Mapping[str, float | int | str | None] = field(
        default_factory=dict[str, float | int | str | None]
    )
    """The inputs and results of the check, kept so that the decision can be replayed and explained."""


class OnUnknown(StrEnum):
    ROLL_BACK = "roll_back"
    HOLD = "hold"


class OnNewChallenger(StrEnum):
    WAIT = "wait"
    REPLACE = "replace"


class AfterTest(StrEnum):
    KEEP = "keep"
    PROMOTE_IF_BETTER = "promote_if_better"
