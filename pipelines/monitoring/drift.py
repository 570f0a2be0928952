"""How large a drift score can be by chance alone: a permutation null, family-wise over columns.

The score between two finite windows of one distribution is not zero; it shrinks with the square root of
the row count. Here the labels "reference" and "current" are shuffled (whole units where the assignment
was by unit), every column is scored again, and the thresholds are such that without drift any of the columns
passes its own with probability `FAMILY_WISE` (max-z, Westfall and Young 1993).
The assignment to a canary is randomised, so there the shuffle is the true null. Two windows in time are
not exchangeable, so there it is only a floor under a threshold from elsewhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.core.manifest.model import Drift
from pipelines.core.vocabulary import Verdict
from pipelines.monitoring.data_checks import as_many_as_possible, in_short
from resources.checks.columns import FrameColumn, as_written, comparable, prepare, series
from resources.checks.evidently import (
    ColumnDrift,
    Comparison,
    DriftReport,
    add_to_workspace,
    run_report,
    save_html,
    scores,
)

SHUFFLES = 400

FAMILY_WISE = 0.01
"""The chance that any column passes its threshold without drift, per comparison."""

_ROWS = 4000

_RESAMPLING_SEED = 20260102

_FEWEST = 20
"""Values of a column among the rows that are shuffled; fewer do not say what chance gives."""

_UNEVEN = 4.0
"""Deviations from the mean at which a column's score is reached by chance in `FAMILY_WISE` of the shuffles, from
which it is ruled by a few far values: of a score near normal it is 2.3."""

_ROUNDING = 1e-3
"""What Evidently's score and that of a shuffle may differ by: a score that chance reaches as well is no drift."""

Labels = NDArray[np.float32]
"""rows x shuffles: 1 where the row counts as current."""


def noise_thresholds(
    columns: Sequence[FrameColumn], *, units: tuple[pd.Series, pd.Series] | None = None
) -> tuple[float, ...]:
    """One threshold per column, in the units of its score; NaN for a column whose values do not tell.

    One column's values never spoil the threshold of another.
    `units` holds the unit ids of the reference and the current rows; rows of one unit stay together.
    Above 4,000 rows a sample is shuffled and the result scaled by the square root of the row counts.
    """
    if not columns:
        return ()
    sizes = len(columns[0].reference), len(columns[0].current)
    rng = np.random.default_rng(_RESAMPLING_SEED)
    clusters = _clusters(sizes, units)
    kept = _subset(sizes, clusters, rng)
    labels = _shuffles(clusters[kept], kept >= sizes[0], rng)
    scores = np.stack([_scores(column, kept, labels) for column in columns])
    shrink = np.sqrt(
        _per_row(sizes) / _per_row((int((kept < sizes[0]).sum()), int((kept >= sizes[0]).sum())))
    )
    return tuple(float(t) for t in _family_wise(scores) * shrink * (1 + _ROUNDING))


def _per_row(sizes: tuple[int, int]) -> float:
    return 1 / sizes[0] + 1 / sizes[1]


def _clusters(sizes: tuple[int, int], units: tuple[pd.Series, pd.Series] | None) -> NDArray[np.intp]:
    """Rows of one unit share a number; without units, or where a unit is on both sides, each row is alone."""
    alone = np.arange(sum(sizes))
    if units is None:
        return alone
    codes = pd.factorize(pd.concat(units, ignore_index=True))[0]
    codes = np.where(codes < 0, codes.max() + 1 + alone, codes)
    both = np.intersect1d(codes[: sizes[0]], codes[sizes[0] :])
    return alone if len(both) else pd.factorize(codes)[0]


def _subset(sizes: tuple[int, int], clusters: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Row numbers to shuffle: the smaller side whole if it fits, whole clusters, about `_ROWS` in all."""
    smaller = min(min(sizes), _ROWS // 2)
    keep: list[NDArray[np.intp]] = []
    for start, size in ((0, sizes[0]), (sizes[0], sizes[1])):
        mine = clusters[start : start + size]
        ids = np.unique(mine)
        share = min(1.0, (smaller if size == min(sizes) else _ROWS - smaller) / size)
        chosen = rng.permutation(ids)[: max(1, round(share * len(ids)))]
        keep.append(start + np.flatnonzero(np.isin(mine, chosen)))
    return np.concatenate(keep)


def _shuffles(clusters: NDArray[np.intp], current: NDArray[np.bool_], rng: np.random.Generator) -> Labels:
    """Random labels, as many current clusters as there are."""
    ids, first, rows = np.unique(clusters, return_index=True, return_inverse=True)
    mine = int(current[first].sum())
    drawn = np.zeros((len(ids), SHUFFLES), dtype=np.float32)
    for shuffle in range(SHUFFLES):
        drawn[rng.permutation(len(ids))[:mine], shuffle] = 1
    return drawn[rows]


def _scores(column: FrameColumn, kept: NDArray[np.intp], labels: Labels) -> NDArray[np.float64]:
    """The column's score under each shuffle."""
    values = pd.concat([column.reference, column.current], ignore_index=True).to_numpy()[kept]
    present = pd.notna(values)
    if present.sum() < _FEWEST:
        return np.full(labels.shape[1], np.nan)
    if column.method == "wasserstein":
        return _wasserstein(values[present].astype(np.float64), labels[present])
    return _jensen_shannon(values[present], labels[present])


def _wasserstein(values: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Area between the two distribution functions over the reference's standard deviation."""
    order = np.argsort(values, kind="stable")
    values, ours = values[order], labels[order]
    now = np.maximum(ours.sum(axis=0), 1)
    was = np.maximum(len(values) - ours.sum(axis=0), 1)
    gaps = np.cumsum(ours, axis=0)[:-1]
    gaps *= 1 / now + 1 / was
    gaps -= np.arange(1, len(values), dtype=np.float32)[:, None] / was
    area = np.diff(values).astype(np.float32) @ np.abs(gaps, out=gaps)
    centred = (values - values.mean()).astype(np.float32)
    mean = (centred.sum() - centred @ ours) / was
    square = ((centred**2).sum() - (centred**2) @ ours) / was
    return area / np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-3)


def _jensen_shannon(values: NDArray[np.object_], labels: Labels) -> NDArray[np.float64]:
    codes, levels = pd.factorize(values)
    every = np.bincount(codes, minlength=len(levels)).astype(np.float64)[:, None]
    now = np.stack([labels[codes == level].sum(axis=0) for level in range(len(levels))]).astype(np.float64)
    was = every - now
    p, q = was / np.maximum(was.sum(axis=0), 1), now / np.maximum(now.sum(axis=0), 1)
    middle = (p + q) / 2
    return np.sqrt(np.maximum(_divergence(p, middle) + _divergence(q, middle), 0) / 2)


def _divergence(p: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=p > 0)
    return (p * np.log(ratio)).sum(axis=0)


def _family_wise(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per column (rows of `scores`): mean + z * deviation, with one z for all columns.

    A column that a few far values rule lands many deviations out whenever they change sides: with a part in the
    one z it would blind all the others. It gets the largest of its own scores instead.
    """
    told = np.isfinite(scores).all(axis=1)
    thresholds = np.full(len(scores), np.nan)
    thresholds[told] = scores[told].max(axis=1)
    mean, deviation = scores[told].mean(axis=1), scores[told].std(axis=1)
    z = (scores[told] - mean[:, None]) / np.where(deviation > 0, deviation, np.inf)[:, None]
    rank = math.ceil((SHUFFLES + 1) * (1 - FAMILY_WISE)) - 1
    even = np.sort(z, axis=1)[:, rank] <= _UNEVEN
    if even.any():
        shared = np.sort(z[even].max(axis=0))[rank]
        thresholds[np.flatnonzero(told)[even]] = (mean + shared * deviation)[even]
    return thresholds


# Drift between two windows of the prediction log, scored by Evidently.


UNIT = "unit_id"

_SEED = 20260103

_NAMED = 3
"""Drifted columns that a reason names."""


KEPT_PAGES = 20
"""HTML reports of a comparison; about 4 MB each."""


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
    keep_runs: int = 50,
) -> DriftReport:
    """Score every column of `current` against `reference` (one row per answered prediction).

    A column drifts when its score reaches its threshold: the manifest's, but never below what chance alone
    gives at these row counts. Frames with a `unit_id` column have the rows of a unit kept together when chance is measured. The window fails
    when the share of drifted columns reaches the manifest's.

    With `reports_dir` a self-contained HTML report is saved under `<model>/<comparison>/`; with `workspace`
    the run is added to what `evidently ui` shows. The newest `KEPT_PAGES` and `keep_runs` stay.
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
    limits = _thresholds(ready, _units(reference, current, comparison), drift)
    plan = {c.label: (c, limit) for c, limit in zip(ready, limits, strict=True) if math.isfinite(limit)}
    skipped |= {c.column: _too_few(c) for c in ready if c.label not in plan}

    def evaluate(chosen: Mapping[str, tuple[FrameColumn, float]]) -> Any:
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
    return _published(report, snapshot, reports_dir, workspace, keep_runs=keep_runs)


def _published(
    report: DriftReport,
    snapshot: Any,
    reports_dir: Path | None,
    workspace: Path | None,
    *,
    keep_runs: int,
) -> DriftReport:
    """With the links to what could be written: a page that cannot be is no reason to lose the verdict."""
    labels = [metric["config"]["column"] for metric in snapshot.dict()["metrics"]]
    try:
        if reports_dir is not None:
            report = replace(report, html=save_html(snapshot, reports_dir, report, keep=KEPT_PAGES))
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
    ready: Sequence[FrameColumn],
    units: tuple[pd.Series, pd.Series] | None,
    drift: Drift,
) -> list[float]:
    noise = noise_thresholds(ready, units=units)
    return [max(drift.threshold, least) for least in noise]


def _too_few(column: FrameColumn) -> str:
    """Why it is not known what chance gives."""
    was, now = column.reference.count(), column.current.count()
    return f"too few values to tell drift from chance ({was:,} in the reference window, {now:,} in the current one)"


def _scored(
    chosen: Sequence[tuple[FrameColumn, float]], found: Mapping[str, float]
) -> tuple[ColumnDrift, ...]:
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
