"""Scores and the HTML report, from Evidently."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from resources.files import write_whole
from resources.monitoring.columns import Column
from resources.monitoring.drift_report import DriftReport
from resources.monitoring.folder import keep_newest, report_folder, stamp
from resources.monitoring.page_style import DRAWN, meta


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
    write_whole(page, _inert(snapshot.get_html_str(as_iframe=False)))
    keep_newest(folder, keep)
    return page


def _inert(html: str) -> str:
    """The page with its data as text that ends no script: Evidently writes it between tags as it is.

    The data begin at the first script, and end where the one before the page's root does, whose name is random.
    Raises ValueError for a page of another shape.
    """
    before, opening, rest = html.partition("<script>\n    var ")
    data, root, after = rest.partition(f'<div id="root_{rest.partition(" ")[0]}">')
    data, closing, between = data.rpartition("</script>")
    if not (opening and root and closing):
        raise ValueError(
            "Evidently's page has another shape than the one that is known: its data are not made safe"
        )
    before = before.replace("<head>", f"<head>{meta(DRAWN)}", 1)
    return "".join((before, opening, data.replace("<", "\\u003c"), closing, between, root, after))
