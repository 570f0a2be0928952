"""Evidence about the split itself: who got which version, and whether units stayed where they belong."""

from datetime import datetime, timedelta

from pipelines.rollout.evidence import Evidence, OnFail, Verdict
from resources.experiment.exposure import ExposureCheck
from resources.lake.buckets import Coverage

NAME = "assignment"
ALLOWED_CROSSOVERS = 0.01
"""Share of the units that may be seen on both versions at one step (a failed answer is given by the stable side)."""
FEWEST_CROSSOVERS = 5
"""Fewer are no pattern."""


def assignment_evidence(
    coverage: Coverage, exposure: ExposureCheck | None, *, at: datetime, valid_for: timedelta
) -> Evidence:
    """Holds where units do not stay where they belong: comparisons would be of mixed groups.

    Args:
        coverage: of the look.
        exposure: None where the serving side assigns every request by itself.
        at: when the look was taken.
        valid_for: until when it counts.
    """
    share = coverage.crossovers / coverage.units if coverage.units else 0.0
    crossed = coverage.crossovers >= FEWEST_CROSSOVERS and share > ALLOWED_CROSSOVERS
    astray = exposure is not None and not exposure.holds
    return Evidence(
        name=NAME,
        source="assignment",
        verdict=Verdict.FAIL if crossed or astray else Verdict.PASS,
        reason=_reason(coverage, share, exposure),
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


def _reason(coverage: Coverage, share: float, exposure: ExposureCheck | None) -> str:
    parts = [
        f"{coverage.crossovers:,} of {coverage.units:,} units ({share:.2%}) were seen on both versions and are left"
        f" out (allowed: {ALLOWED_CROSSOVERS:.0%})."
    ]
    if coverage.rows_without_unit:
        parts.append(f"{coverage.rows_without_unit:,} answers carried no unit id and are counted nowhere.")
    if exposure is not None:
        parts.append(exposure.sentence)
    return " ".join(parts)
