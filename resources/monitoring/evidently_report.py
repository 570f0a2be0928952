"""Scores and the HTML report, from Evidently."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from resources.monitoring.columns import Column
from resources.monitoring.drift_report import DriftReport
from resources.monitoring.folder import keep_newest, report_folder, stamp, write_whole


def run_report(
    columns: Sequence[Column], thresholds: Sequence[float], *, at: datetime, title: str, tags: Sequence[str]
) -> Any:
    """An Evidently Snapshot with one ValueDrift, explicit in method and threshold, per column.

    The presets score every column three times and draw three figures each; this scores and draws once.
    """
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    types = DataDefinition(
        numerical_columns=[c.label for c in columns if c.method == "wasserstein"],
        categorical_columns=[c.label for c in columns if c.method == "jensenshannon"],
    )
    reference, current = (
        Dataset.from_pandas(pd.DataFrame(side), data_definition=types)
        for side in ({c.label: c.reference for c in columns}, {c.label: c.current for c in columns})
    )
    metrics = [
        ValueDrift(column=c.label, method=c.method, threshold=threshold)
        for c, threshold in zip(columns, thresholds, strict=True)
    ]
    report = Report(metrics, include_tests=True)
    return report.run(current, reference, timestamp=at, name=title, tags=list(tags))


def scores(snapshot: Any) -> tuple[dict[str, float], dict[str, str]]:
    """Column label -> score, and why there is none of the others: no score is ever NaN or infinite."""
    found: dict[str, float] = {}
    without: dict[str, str] = {}
    for metric in snapshot.dict()["metrics"]:
        label, value = metric["config"]["column"], metric["value"]
        if isinstance(value, int | float) and math.isfinite(value):
            found[label] = float(value)
        else:
            without[label] = f"Evidently gave no score: {value!r}"
    return found, without


def save_html(snapshot: Any, reports: Path, about: DriftReport, *, keep: int) -> Path:
    """`reports/<model>/<comparison>/<window end>.html`: one self-contained file of about 4 MB."""
    folder = report_folder(reports, about.model, about.comparison.value)
    page = folder / f"{stamp(about.window_end)}.html"
    write_whole(page, snapshot.get_html_str(as_iframe=False))
    keep_newest(folder, keep)
    return page
