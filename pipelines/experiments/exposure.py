"""Recomputes who should have got which version, and compares it with what the gateway did.

Where assignment is sticky it is a pure function of the unit, the rollout's salt and the share in force:
a unit is the challenger's if xxh64("<salt>:<unit>") mod 10000 lies below 100 times the percentage.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import xxhash

from pipelines.core.rollout.state import RolloutState, Weight
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from resources.lake.buckets import Coverage
from resources.lake.connection import Lake
from resources.lake.exposure import Seen, first_sides

TOTAL = 10_000
"""Hashes are taken modulo this: shares have a resolution of 0.01 %."""

TOLERANCE = timedelta(seconds=1)
"""Around a change of the share: a request may have been routed before it and be logged after it."""

MOST_ROWS = 100_000
"""The most recent requests that one check reads."""

ALLOWED_SHARE, ALLOWED_OF_SMALLER = 0.01, 0.1
"""How many may be elsewhere, of all and of the smaller side's, whichever is less: a canary's failed answer is given by the
stable side, and at 1 % of traffic all of the canary's units are few among all."""

FEWEST = 5
"""Fewer are no pattern."""


def allowed_elsewhere(every: float, smaller: float | None) -> float:
    """How many of so many; `smaller`: those of the side that has fewer."""
    allowed = ALLOWED_SHARE * every
    return allowed if smaller is None else min(allowed, max(ALLOWED_OF_SMALLER * smaller, FEWEST - 1))


@dataclass(frozen=True, kw_only=True)
class ExposureCheck:
    """What the gateway did against what it should have done."""

    compared: int
    mismatches: int
    uncertain: int
    """Within the span of a change of the share, or of a unit whose bytes are not known: either version is right."""
    without_unit: int
    """Requests without a unit id: assigned at random, nothing to recompute."""
    example: str = ""
    """The first mismatch, in words."""
    smaller: int | None = None
    """Of the compared, those that belong to the side that has fewer of them; None from an earlier release."""

    @property
    def share(self) -> float:
        """Mismatches among the compared."""
        return self.mismatches / self.compared if self.compared else 0.0

    @property
    def holds(self) -> bool:
        """Whether the split is the one that was asked for; true as well where nothing could be compared."""
        return self.mismatches <= allowed_elsewhere(self.compared, self.smaller)

    @property
    def sentence(self) -> str:
        """In words."""
        if not self.compared:
            return "No request with a unit id could be compared yet."
        told = f"{self.mismatches:,} of {self.compared:,} requests went elsewhere than their unit belongs"
        return f"{told} ({self.example})." if self.example else f"{told}."


def belongs_to_challenger(unit: str, salt: str, percent: float, *, charset: str = "utf-8") -> bool:
    """Where a unit belongs at this share; a larger share only adds units.

    The gateway hashes bytes, as they came: `charset` is the one in which the caller sent the id.
    """
    return xxhash.xxh64(f"{salt}:".encode() + unit.encode(charset)).intdigest() % TOTAL < percent * 100


def recompute(seen: Iterable[Seen], *, salt: str, weights: Sequence[Weight]) -> ExposureCheck:
    """Compare each request with the share that was in force when it came.

    Args:
        seen: requests in any order, those without a unit with an empty one.
        salt: of the rollout.
        weights: every change of the share, in order.
    """
    compared = mismatches = uncertain = without = challenger = 0
    example = ""
    for request in seen:
        if not request.unit:
            without += 1
            continue
        percent = _percent_at(request.at, weights)
        if percent is None:
            uncertain += 1
            continue
        sides = _sides(request.unit, salt, percent)
        if len(sides) > 1:
            uncertain += 1
            continue
        compared += 1
        challenger += True in sides
        if request.is_challenger not in sides:
            mismatches += 1
            example = example or _words(request, percent)
    return ExposureCheck(
        compared=compared,
        mismatches=mismatches,
        uncertain=uncertain,
        without_unit=without,
        example=example,
        smaller=min(challenger, compared - challenger),
    )


def check_exposure(lake: Lake, state: RolloutState, *, until: datetime) -> ExposureCheck:
    """The rollout's most recent requests. Raises `LakeError`."""
    if not state.weights:
        return ExposureCheck(compared=0, mismatches=0, uncertain=0, without_unit=0)
    return recompute(_seen(lake, state, until), salt=state.salt, weights=state.weights)


def _seen(lake: Lake, state: RolloutState, until: datetime) -> Sequence[Seen]:
    return first_sides(
        lake,
        state.model,
        challenger=state.version,
        champion=state.champion,
        start=state.weights[0].begun,
        until=until,
        most=MOST_ROWS,
    )


def _sides(unit: str, salt: str, percent: float) -> set[bool]:
    """Where a unit may belong: the log has its text, whose bytes were UTF-8 or, from older clients, Latin-1."""
    sides = {belongs_to_challenger(unit, salt, percent)}
    with suppress(UnicodeEncodeError):
        sides.add(belongs_to_challenger(unit, salt, percent, charset="latin-1"))
    return sides


def _percent_at(at: datetime, weights: Sequence[Weight]) -> float | None:
    """The share in force; None where a change was under way, or before the first."""
    percent: float | None = None
    for weight in weights:
        if at >= weight.at + TOLERANCE:
            percent = weight.percent
        elif at >= weight.begun - TOLERANCE:
            return None
    return percent


def _words(request: Seen, percent: float) -> str:
    went, belongs = ("challenger", "champion") if request.is_challenger else ("champion", "challenger")
    return f"unit {request.unit[:40]!r} went to the {went} at {percent:g} % and belongs to the {belongs}"


# Evidence about the split itself: who got which version, and whether units stayed where they belong.


NAME = "assignment"


def assignment_evidence(
    coverage: Coverage,
    exposure: ExposureCheck | None,
    *,
    units: Sequence[StepUnits],
    at: datetime,
    valid_for: timedelta,
) -> Evidence:
    """Holds where units do not stay where they belong: comparisons would be of mixed groups.

    Args:
        coverage: of the look.
        exposure: None where the serving side assigns every request by itself.
        units: of each step, crossovers included.
        at: when the look was taken.
        valid_for: until when it counts.
    """
    smaller = min(sum(step.champion for step in units), sum(step.challenger for step in units))
    allowed = allowed_elsewhere(coverage.units, smaller)
    crossed = coverage.crossovers >= FEWEST and coverage.crossovers > allowed
    astray = exposure is not None and not exposure.holds
    return Evidence(
        name=NAME,
        source="assignment",
        verdict=Verdict.FAIL if crossed or astray else Verdict.PASS,
        reason=_reason(coverage, allowed, exposure),
        at=at,
        on_fail=OnFail.HOLD,
        valid_for=valid_for,
        values={
            "units": coverage.units,
            "crossovers": coverage.crossovers,
            "moved": coverage.moved,
            "rows_without_unit": coverage.rows_without_unit,
            "mismatches": exposure.mismatches if exposure else None,
            "compared": exposure.compared if exposure else None,
        },
    )


def _reason(coverage: Coverage, allowed: float, exposure: ExposureCheck | None) -> str:
    parts = [
        f"{coverage.crossovers:,} of {coverage.units:,} units were seen on both versions and are left out (allowed:"
        f" {allowed:,.0f}, {ALLOWED_SHARE:.0%} of all or {ALLOWED_OF_SMALLER:.0%} of the smaller side's)."
    ]
    if coverage.rows_without_unit:
        parts.append(f"{coverage.rows_without_unit:,} answers carried no unit id and are counted nowhere.")
    if exposure is not None:
        parts.append(exposure.sentence)
    return " ".join(parts)
