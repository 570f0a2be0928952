"""Evidently behind two functions: score a comparison of two frames, and keep its report for Evidently's UI."""

import math
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipelines.core.vocabulary import Verdict
from resources.checks.columns import FrameColumn
from resources.checks.pages import DRAWN, keep_newest, meta, report_folder, stamp
from resources.files import move, write_whole


class Comparison(StrEnum):
    """What is compared with what."""

    CANARY_VS_STABLE = "canary_vs_stable"
    """The same window, assigned at random: any difference is the rollout's doing."""
    CURRENT_VS_REFERENCE = "current_vs_reference"
    """A window and an earlier period: the world may have changed too."""


class WorkspaceLink(NamedTuple):
    """Where a run is in the Evidently UI."""

    project_id: str
    run_id: str

    @property
    def path(self) -> str:
        """To append to the UI's address."""
        return f"/projects/{self.project_id}/reports/{self.run_id}"


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """One column's score. `drifted` is None where it could not be scored; `note` says why."""

    column: str
    method: str
    """`wasserstein` (normed by the reference's standard deviation), `jensenshannon`,
    `jensenshannon_nulls` (of which rows are null), or `none` where it could not be scored."""
    score: float | None
    threshold: float
    drifted: bool | None
    note: str = ""

    @property
    def severity(self) -> float:
        """Score over threshold: from 1 the column has drifted."""
        return (self.score or 0) / self.threshold


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """One comparison of two windows. Before it is judged it is unknown."""

    model: str
    comparison: Comparison
    window_start: datetime
    window_end: datetime
    reference_rows: int
    current_rows: int
    columns: tuple[ColumnDrift, ...] = ()
    share: float | None = None
    """Drifted columns among those compared."""
    verdict: Verdict = Verdict.UNKNOWN
    reason: str = "not compared"
    pending: bool = False
    html: Path | None = None
    link: WorkspaceLink | None = None
    unsaved: str = ""
    """Why the HTML report or the run in the Evidently UI could not be written."""

    @property
    def drifted(self) -> tuple[ColumnDrift, ...]:
        """The drifted columns, worst first."""
        return tuple(sorted((c for c in self.columns if c.drifted), key=lambda c: -c.severity))


# Scores and the HTML report, from Evidently.


def run_report(
    columns: Sequence[FrameColumn],
    thresholds: Sequence[float],
    *,
    at: datetime,
    title: str,
    tags: Sequence[str],
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


# Evidently's workspace: the folder that `evidently ui` reads, one project per model.


_PROJECTS = uuid.UUID("8f0c1f0e-54a5-4f0b-9c1e-2d1f6a1f7a10")
"""The namespace of project ids: a model's project has the same id whoever makes it."""

_RUNS = "snapshots"


def add_to_workspace(
    snapshot: Any, workspace: Path, *, model: str, labels: Sequence[str], keep: int
) -> WorkspaceLink:
    """Add a run to the model's project: scores and figures, never rows. The `keep` newest stay.

    `labels` are the report's columns: a new project gets a dashboard of their scores over time.

    A running UI watches the folder: it would parse a run once per block written, the thread that watches
    ends at a half-written project, and it never looks into a folder that was moved in. So folders are
    made in place, and files are made beside the workspace and moved in whole, the project's first.
    """
    from evidently.ui.workspace import Workspace

    project = str(uuid.uuid5(_PROJECTS, model))
    workspace.mkdir(parents=True, exist_ok=True)
    aside = workspace.with_name(f"{workspace.name}.{uuid.uuid4().hex}")
    try:
        made = Workspace(str(aside))
        _make_project(made, project, model, labels)
        run = str(made.add_run(project, snapshot, include_data=False).id)
        _move_in(aside / project, workspace / project, run)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _prune(workspace / project / _RUNS, keep)
    return WorkspaceLink(project, run)


def _move_in(made: Path, final: Path, run: str) -> None:
    (final / _RUNS).mkdir(parents=True, exist_ok=True)
    for name in ("dashboard.json", "metadata.json"):
        if not (final / name).exists():
            move(made / name, final / name)
    name = f"{_RUNS}/{run}.json"
    move(made / name, final / name)


def _make_project(made: Any, project: str, model: str, labels: Sequence[str]) -> None:
    from evidently.sdk.models import PanelMetric, ProjectModel
    from evidently.sdk.panels import line_plot_panel

    entry = made.add_project(ProjectModel(id=uuid.UUID(project), name=model))
    for kind in Comparison:
        lines = [
            PanelMetric(metric="ValueDrift", legend=label, tags=[kind.value], metric_labels={"column": label})
            for label in labels
        ]
        entry.dashboard.add_panel(line_plot_panel(f"Drift scores, {kind.value.replace('_', ' ')}", lines))


def _prune(folder: Path, keep: int) -> None:
    """Run ids are UUIDv7: they sort by time."""
    for old in sorted(folder.glob("*.json"), reverse=True)[keep:]:
        old.unlink(missing_ok=True)
