"""Drift between two windows of the prediction log, scored by Evidently."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pipelines.manifest.model import Drift
from pipelines.rollout.evidence import Verdict
from resources.monitoring.columns import Column, as_written, comparable, prepare, series
from resources.monitoring.drift_report import ColumnDrift, Comparison, DriftReport
from resources.monitoring.evidently_report import run_report, save_html, scores
from resources.monitoring.evidently_workspace import add_to_workspace
from resources.monitoring.one_by_one import as_many_as_possible, in_short
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
    reference, current = (as_written(_sample(side, drift), drift.columns) for side in (reference, current))
    ready, skipped = prepare(reference, current, drift.columns or comparable(reference, current))
    limits = _thresholds(ready, _units(reference, current, comparison), drift, calibrated or {})
    plan = {c.label: (c, limit) for c, limit in zip(ready, limits, strict=True) if math.isfinite(limit)}
    skipped |= {c.column: _too_few(c) for c in ready if c.label not in plan}

    def evaluate(chosen: Mapping[str, tuple[Column, float]]) -> Any:
        columns, limits = zip(*chosen.values(), strict=True)
        return run_report(columns, limits, at=window_end, title=title, tags=[comparison.value])

    snapshot, broken = as_many_as_possible(plan, evaluate)
    found, without = ({}, {}) if snapshot is None else scores(snapshot)
    for label, why in (broken | without).items():
        skipped[plan[label][0].column] = why
    scored = _scored([plan[label] for label in plan if label in found], found)
    if not scored:
        report = replace(report, columns=_unscored(skipped, drift))
        return replace(report, reason=f"no column could be compared: {_listed(skipped) or 'none was found'}")
    report = _judged(report, scored, skipped, drift)
    return _published(report, snapshot, reports_dir, workspace, keep_html=keep_html, keep_runs=keep_runs)


def _published(
    report: DriftReport,
    snapshot: Any,
    reports_dir: Path | None,
    workspace: Path | None,
    *,
    keep_html: int,
    keep_runs: int,
) -> DriftReport:
    """With the links to what could be written: a page that cannot be is no reason to lose the verdict."""
    labels = [metric["config"]["column"] for metric in snapshot.dict()["metrics"]]
    try:
        if reports_dir is not None:
            report = replace(report, html=save_html(snapshot, reports_dir, report, keep=keep_html))
        if workspace is not None:
            link = add_to_workspace(snapshot, workspace, model=report.model, labels=labels, keep=keep_runs)
            report = replace(report, link=link)
    except Exception as error:  # noqa: BLE001 -- a full disk, or whatever a renderer makes of odd values
        return replace(report, unsaved=in_short(error))
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


def _too_few(column: Column) -> str:
    """Why it is not known what chance gives."""
    was, now = column.reference.count(), column.current.count()
    return f"too few values to tell drift from chance ({was:,} in the reference window, {now:,} in the current one)"


def _scored(chosen: Sequence[tuple[Column, float]], found: Mapping[str, float]) -> tuple[ColumnDrift, ...]:
    return tuple(
        ColumnDrift(
            column=c.column, method=f"{c.method}_nulls" if c.of_nulls else c.method, score=found[c.label],
            threshold=threshold, drifted=found[c.label] >= threshold, note=c.note,
        )
        for c, threshold in chosen
    )  # fmt: skip


def _unscored(skipped: Mapping[str, str], drift: Drift) -> tuple[ColumnDrift, ...]:
    return tuple(
        ColumnDrift(column=name, method="none", score=None, threshold=drift.threshold, drifted=None, note=why)
        for name, why in skipped.items()
    )


def _judged(
    report: DriftReport, scored: Sequence[ColumnDrift], skipped: Mapping[str, str], drift: Drift
) -> DriftReport:
    """A column that the manifest names and that cannot be compared leaves the window unknown."""
    known, bad = {c.column for c in scored}, {c.column for c in scored if c.drifted}
    report = replace(report, columns=(*scored, *_unscored(skipped, drift)), share=len(bad) / len(known))
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
