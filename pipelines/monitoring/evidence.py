"""Monitoring reports as evidence for a rollout."""

from datetime import datetime, timedelta

from pipelines.core.manifest.model import Drift
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict
from pipelines.monitoring.data_checks import DataCheckReport
from resources.checks.evidently import Comparison, DriftReport

_SEVERITY = (OnFail.ROLL_BACK, OnFail.HOLD, OnFail.WARN)

_DRIFT_NAMES = {
    Comparison.CANARY_VS_STABLE: "drift_canary",
    Comparison.CURRENT_VS_REFERENCE: "drift_reference",
}


def from_data_checks(report: DataCheckReport, *, at: datetime, valid_for: timedelta) -> Evidence:
    """`data_quality`: asks for the gravest action among the checks that failed.

    `valid_for` is how long the window speaks for the present: two windows' length is a good choice.
    It is pending only where every unknown check merely waits for rows.
    """
    unsure = [r for r in report.results if r.verdict is Verdict.UNKNOWN]
    return Evidence(
        name="data_quality",
        source="data_quality",
        verdict=report.verdict,
        reason=report.reason,
        at=at,
        on_fail=_gravest(report),
        needed_for=NeededFor.ADVANCE,
        pending=report.verdict is Verdict.UNKNOWN
        and all(r.pending for r in unsure)
        and not report.incomplete,
        valid_for=valid_for,
        values={
            "window_start": report.window_start.isoformat(),
            "window_end": report.window_end.isoformat(),
            "rows": report.rows,
            "rows_checked": report.rows_checked,
            "checks": len(report.results),
            "failed": sum(r.verdict is Verdict.FAIL for r in report.results),
            "unknown": len(unsure),
        },
    )


def from_drift(report: DriftReport, drift: Drift, *, at: datetime, valid_for: timedelta) -> Evidence:
    """`drift_canary` or `drift_reference`; asks for the manifest's `drift.on_fail`."""
    worst = report.drifted[0] if report.drifted else None
    return Evidence(
        name=_DRIFT_NAMES[report.comparison],
        source="drift",
        verdict=report.verdict,
        reason=report.reason,
        at=at,
        on_fail=drift.on_fail,
        needed_for=NeededFor.ADVANCE,
        pending=report.pending,
        valid_for=valid_for,
        values={
            "window_start": report.window_start.isoformat(),
            "window_end": report.window_end.isoformat(),
            "reference_rows": report.reference_rows,
            "current_rows": report.current_rows,
            "share": report.share,
            "drifted": len({c.column for c in report.drifted}),
            "compared": len({c.column for c in report.columns if c.drifted is not None}),
            "worst_column": worst.column if worst else None,
            "worst_score": worst.score if worst else None,
        },
    )


def _gravest(report: DataCheckReport) -> OnFail:
    asked = {r.on_fail for r in report.results if r.verdict is Verdict.FAIL}
    return next((action for action in _SEVERITY if action in asked), OnFail.HOLD)
