"""Drift between two windows of the prediction log, scored by Evidently."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from pipelines.errors import NotMeasured
from pipelines.manifest.model import Drift
from pipelines.rollout.evidence import Verdict
from resources.monitoring.columns import Column, comparable, prepare, series
from resources.monitoring.drift_report import ColumnDrift, Comparison, DriftReport
from resources.monitoring.evidently_report import run_report, save_html, scores
from resources.monitoring.evidently_workspace import add_to_workspace
from resources.monitoring.sampling_noise import noise_thresholds

UNIT = "unit_id"
_SEED = 20260103
_NAMED = 3
"""Drifted columns that a reason names."""


def compare(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    drift: Drift,
    *,
    model: str,
    title: str,
    comparison: Comparison,
    window_start: datetime,
    window_end: datetime,
    reports_dir: Path | None = None,
    workspace: Path | None = None,
    calibrated: Mapping[str, float] | None = None,
    keep_html: int = 20,
    keep_runs: int = 50,
) -> DriftReport:
    """Score every column of `current` against `reference` (one row per answered prediction).

    A column drifts when its score reaches its threshold: the manifest's (or `calibrated`: per column, from
    past whole windows), but never below what chance alone gives at these row counts. Frames with a
    `unit_id` column have the rows of a unit kept together when chance is measured. The window fails
    when the share of drifted columns reaches the manifest's.

    With `reports_dir` a self-contained HTML report is saved under `<model>/<comparison>/`; with `workspace`
    the run is added to what `evidently ui` shows. The newest `keep_html` and `keep_runs` stay.
    """
    report = DriftReport(
        model=model, comparison=comparison, window_start=window_start, window_end=window_end,
        reference_rows=len(reference), current_rows=len(current),
    )  # fmt: skip
    short = _insufficient(reference, current, drift)
    if short is not None:
        return replace(report, reason=short, pending=True)
    reference, current = _sample(reference, drift), _sample(current, drift)
    ready, skipped = prepare(reference, current, drift.columns or comparable(reference, current))
    if not ready:
        return replace(report, reason=f"no column could be compared: {_listed(skipped) or 'none was found'}")
    thresholds = _thresholds(ready, _units(reference, current, comparison), drift, calibrated or {})
    snapshot = run_report(ready, thresholds, at=window_end, title=title, tags=[comparison.value])
    try:
        scored = _scored(ready, thresholds, scores(snapshot))
    except NotMeasured as why:
        return replace(report, reason=str(why))
    report = _judged(report, scored, skipped, drift)
    if reports_dir is not None:
        report = replace(report, html=save_html(snapshot, reports_dir, report, keep=keep_html))
    if workspace is not None:
        labels = [column.label for column in ready]
        report = replace(
            report, link=add_to_workspace(snapshot, workspace, model=model, labels=labels, keep=keep_runs)
        )
    return report


def _insufficient(reference: pd.DataFrame, current: pd.DataFrame, drift: Drift) -> str | None:
    for side, frame in (("current", current), ("reference", reference)):
        if len(frame) < drift.min_rows:
            return f"insufficient data: {len(frame)} {side} rows, {drift.min_rows} needed"
    return None


def _sample(frame: pd.DataFrame, drift: Drift) -> pd.DataFrame:
    """The same rows every time, so that a window compared twice scores the same."""
    if len(frame) <= drift.sample_rows:
        return frame
    return frame.sample(drift.sample_rows, random_state=_SEED)


def _units(
    reference: pd.DataFrame, current: pd.DataFrame, comparison: Comparison
) -> tuple[pd.Series, pd.Series] | None:
    """What was assigned at random; windows in time were not assigned at all."""
    if comparison is Comparison.CURRENT_VS_REFERENCE or UNIT not in reference or UNIT not in current:
        return None
    return series(reference, UNIT), series(current, UNIT)


def _thresholds(
    ready: Sequence[Column],
    units: tuple[pd.Series, pd.Series] | None,
    drift: Drift,
    calibrated: Mapping[str, float],
) -> list[float]:
    noise = noise_thresholds(ready, units=units)
    return [
        max(calibrated.get(c.column, drift.threshold), least) for c, least in zip(ready, noise, strict=True)
    ]


def _scored(
    ready: Sequence[Column], thresholds: Sequence[float], found: Mapping[str, float]
) -> tuple[ColumnDrift, ...]:
    return tuple(
        ColumnDrift(
            column=c.column, method=f"{c.method}_nulls" if c.of_nulls else c.method, score=found[c.label],
            threshold=threshold, drifted=found[c.label] >= threshold, note=c.note,
        )
        for c, threshold in zip(ready, thresholds, strict=True)
    )  # fmt: skip


def _judged(
    report: DriftReport, scored: Sequence[ColumnDrift], skipped: Mapping[str, str], drift: Drift
) -> DriftReport:
    """A column that the manifest names and that cannot be compared leaves the window unknown."""
    known, bad = {c.column for c in scored}, {c.column for c in scored if c.drifted}
    unscored = [
        ColumnDrift(column=name, method="none", score=None, threshold=drift.threshold, drifted=None, note=why)
        for name, why in skipped.items()
    ]
    report = replace(report, columns=(*scored, *unscored), share=len(bad) / len(known))
    says = f"{len(bad)} of {len(known)} columns drifted (limit {drift.share:.0%}){_worst(report)}"
    if bad and len(bad) / len(known) >= drift.share:
        return replace(report, verdict=Verdict.FAIL, reason=says)
    missing = {name: why for name, why in skipped.items() if name in drift.columns}
    if missing:
        return replace(report, reason=f"{says}; not compared: {_listed(missing)}")
    return replace(report, verdict=Verdict.PASS, reason=says)


def _worst(report: DriftReport) -> str:
    named = [
        f"{c.column} {c.score:.3f} (threshold {c.threshold:.3f}, {c.method})" for c in report.drifted[:_NAMED]
    ]
    return f": {', '.join(named)}{' and more' if len(report.drifted) > _NAMED else ''}" if named else ""


def _listed(why: Mapping[str, str]) -> str:
    return ", ".join(f"{column} ({reason})" for column, reason in why.items())
