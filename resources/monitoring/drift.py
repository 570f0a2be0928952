"""Drift between two windows of the prediction log, scored by Evidently."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

import pandas as pd

from pipelines.errors import NotMeasured
from pipelines.manifest.model import Drift
from pipelines.rollout.evidence import Verdict
from resources.monitoring.columns import Column, comparable, prepare
from resources.monitoring.evidently_report import (
    WorkspaceLink,
    add_to_workspace,
    run_report,
    save_html,
    scores,
)
from resources.monitoring.sampling_noise import noise_thresholds

_SEED = 20260103
UNIT = "unit_id"


class Comparison(StrEnum):
    """What is compared with what."""

    CANARY_VS_STABLE = "canary_vs_stable"
    """The same window, assigned at random: any difference is the rollout's doing."""
    CURRENT_VS_REFERENCE = "current_vs_reference"
    """A window and an earlier period: the world may have changed too."""


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """One column's score. `drifted` is None where it could not be scored; `note` says why."""

    column: str
    method: str
    """`wasserstein` (normed by the reference's standard deviation), `jensenshannon`, `jensenshannon_nulls`."""
    score: float | None
    threshold: float
    drifted: bool | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """What Evidently says about a window."""

    model: str
    comparison: Comparison
    window_start: datetime
    window_end: datetime
    reference_rows: int
    current_rows: int
    columns: tuple[ColumnDrift, ...]
    share: float | None
    """Drifted columns among those compared."""
    verdict: Verdict
    reason: str
    pending: bool = False
    html: Path | None = None
    link: WorkspaceLink | None = None

    @property
    def drifted(self) -> tuple[str, ...]:
        """The drifted columns, worst (score over threshold) first."""
        bad = [c for c in self.columns if c.drifted and c.score is not None]
        return tuple(
            dict.fromkeys(c.column for c in sorted(bad, key=lambda c: -(c.score or 0) / c.threshold))
        )

    def frame(self) -> pd.DataFrame:
        """One row per column and method, for the lake's drift table."""
        rows = [
            (self.window_start, self.window_end, self.comparison.value, c.column, c.method, c.score,
             c.threshold, c.drifted, c.note)
            for c in self.columns
        ]  # fmt: skip
        names = "window_start window_end comparison column method score threshold drifted note"
        table = pd.DataFrame(rows, columns=names.split())
        return table.astype({"score": "float64", "threshold": "float64", "drifted": "boolean"})


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

    A column drifts when its score reaches its threshold: the manifest's (or, per column, `calibrated`:
    thresholds from past whole windows), but never below what chance alone gives at these row counts.
    Frames with a `unit_id` column have their units kept together when chance is measured.
    The window fails when the share of drifted columns reaches the manifest's. With `reports_dir` an HTML
    report is saved, with `workspace` the run is added to what `evidently ui` shows.
    """
    base = _Window(model, comparison, window_start, window_end, len(reference), len(current))
    short = _insufficient(reference, current, drift)
    if short is not None:
        return base.unknown(short, pending=True)
    reference, current = _sample(reference, drift), _sample(current, drift)
    wanted = drift.columns or comparable(reference, current)
    ready, skipped = prepare(reference, current, wanted)
    if not ready:
        return base.unknown(f"no column could be compared: {_listed(skipped) or 'none was found'}")
    thresholds = _thresholds(ready, reference, current, drift, comparison, calibrated or {})
    snapshot = run_report(ready, thresholds, at=window_end, title=title, tags=[comparison.value])
    try:
        scored = _scored(ready, thresholds, scores(snapshot))
    except NotMeasured as why:
        return base.unknown(str(why))
    missing = {c: why for c, why in skipped.items() if c in drift.columns}
    unscored = [_unscored(c, why, drift) for c, why in skipped.items()]
    html = link = None
    if reports_dir is not None:
        html = save_html(
            snapshot, reports_dir, model=model, comparison=comparison.value, at=window_end, keep=keep_html
        )
    if workspace is not None:
        panels = {kind.value: [c.label for c in ready] for kind in Comparison}
        link = add_to_workspace(snapshot, workspace, model=model, columns=panels, keep=keep_runs)
    return base.judged([*scored, *unscored], missing, drift, html, link)


@dataclass(frozen=True)
class _Window:
    model: str
    comparison: Comparison
    start: datetime
    end: datetime
    reference_rows: int
    current_rows: int

    def unknown(self, reason: str, *, pending: bool = False) -> DriftReport:
        return self._report((), None, Verdict.UNKNOWN, reason, pending=pending)

    def judged(
        self,
        columns: Sequence[ColumnDrift],
        missing: Mapping[str, str],
        drift: Drift,
        html: Path | None,
        link: WorkspaceLink | None,
    ) -> DriftReport:
        known = {c.column for c in columns if c.drifted is not None}
        bad = {c.column for c in columns if c.drifted}
        share = len(bad) / len(known)
        says = f"{len(bad)} of {len(known)} columns drifted (limit {drift.share:.0%}){_worst(columns)}"
        verdict = Verdict.FAIL if bad and share >= drift.share else Verdict.PASS
        if verdict is Verdict.PASS and missing:
            verdict, says = Verdict.UNKNOWN, f"{says}; not compared: {_listed(missing)}"
        return self._report(tuple(columns), share, verdict, says, html=html, link=link)

    def _report(
        self,
        columns: tuple[ColumnDrift, ...],
        share: float | None,
        verdict: Verdict,
        reason: str,
        *,
        pending: bool = False,
        html: Path | None = None,
        link: WorkspaceLink | None = None,
    ) -> DriftReport:
        return DriftReport(
            model=self.model, comparison=self.comparison, window_start=self.start, window_end=self.end,
            reference_rows=self.reference_rows, current_rows=self.current_rows, columns=columns, share=share,
            verdict=verdict, reason=reason, pending=pending, html=html, link=link,
        )  # fmt: skip


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


def _thresholds(
    ready: Sequence[Column],
    reference: pd.DataFrame,
    current: pd.DataFrame,
    drift: Drift,
    comparison: Comparison,
    calibrated: Mapping[str, float],
) -> list[float]:
    """Per comparison; the place where calibration on past whole windows comes in is `calibrated`."""
    by_unit = comparison is Comparison.CANARY_VS_STABLE and UNIT in reference and UNIT in current
    units = (reference[UNIT], current[UNIT]) if by_unit else None
    noise = noise_thresholds(ready, units=units)
    return [
        max(calibrated.get(column.column, drift.threshold), chance)
        for column, chance in zip(ready, noise, strict=True)
    ]


def _scored(
    ready: Sequence[Column], thresholds: Sequence[float], found: Mapping[str, float]
) -> list[ColumnDrift]:
    return [
        ColumnDrift(
            column=c.column, method=f"{c.method}_nulls" if c.of_nulls else c.method, score=found[c.label],
            threshold=threshold, drifted=found[c.label] >= threshold, note=c.note,
        )
        for c, threshold in zip(ready, thresholds, strict=True)
    ]  # fmt: skip


def _unscored(column: str, why: str, drift: Drift) -> ColumnDrift:
    return ColumnDrift(
        column=column, method="none", score=None, threshold=drift.threshold, drifted=None, note=why
    )


def _worst(columns: Sequence[ColumnDrift], most: int = 3) -> str:
    bad = sorted((c for c in columns if c.drifted), key=lambda c: -(c.score or 0) / c.threshold)
    named = [f"{c.column} {c.score:.3f} (threshold {c.threshold:.3f}, {c.method})" for c in bad[:most]]
    return f": {', '.join(named)}{' and more' if len(bad) > most else ''}" if named else ""


def _listed(why: Mapping[str, str]) -> str:
    return ", ".join(f"{column} ({reason})" for column, reason in why.items())
