"""Scores from Evidently, its HTML report, and its workspace (what `evidently ui` reads)."""

import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipelines.errors import NotMeasured
from resources.monitoring.columns import Column
from resources.monitoring.folder import keep_newest, report_folder, stamp, write_whole

_PROJECTS = uuid.UUID("8f0c1f0e-54a5-4f0b-9c1e-2d1f6a1f7a10")
"""The namespace of project ids: a model's project has the same id wherever it is made."""


class WorkspaceLink(NamedTuple):
    """Where a run is in the Evidently UI."""

    project_id: str
    run_id: str

    @property
    def path(self) -> str:
        """To append to the UI's address."""
        return f"/projects/{self.project_id}/reports/{self.run_id}"


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


def scores(snapshot: Any) -> dict[str, float]:
    """Column label -> score. Raises NotMeasured for a score that is not a number."""
    found: dict[str, float] = {}
    for metric in snapshot.dict()["metrics"]:
        label, value = metric["config"]["column"], metric["value"]
        if not pd.api.types.is_number(value) or pd.isna(value):
            raise NotMeasured(f"Evidently gave no score for {label}: {value!r}")
        found[label] = float(value)
    return found


def save_html(snapshot: Any, reports: Path, *, model: str, comparison: str, at: datetime, keep: int) -> Path:
    """`reports/<model>/<comparison>/<time>.html`: one self-contained file of about 4 MB; the newest stay."""
    folder = report_folder(reports, model, comparison)
    page = folder / f"{stamp(at)}.html"
    write_whole(page, snapshot.get_html_str(as_iframe=False))
    keep_newest(folder, keep)
    return page


def add_to_workspace(
    snapshot: Any, workspace: Path, *, model: str, columns: Mapping[str, Sequence[str]], keep: int
) -> WorkspaceLink:
    """Add a run to the model's project; scores and figures only, never rows. The `keep` newest stay.

    A running UI watches the folder: it would read half-written files once per written block, and the
    thread that watches dies of a half-written project. So everything is made beside it and moved in whole.
    `columns` is comparison -> columns, for the project's dashboard.
    """
    from evidently.ui.workspace import Workspace

    project = str(uuid.uuid5(_PROJECTS, model))
    workspace.mkdir(parents=True, exist_ok=True)
    aside = workspace.with_name(f"{workspace.name}.{uuid.uuid4().hex}")
    try:
        made = Workspace(str(aside))
        _make_project(made, project, model, columns)
        run = str(made.add_run(project, snapshot, include_data=False).id)
        if not _moved(aside / project, workspace / project):
            (workspace / project / "snapshots").mkdir(exist_ok=True)
            (aside / project / "snapshots" / f"{run}.json").replace(
                workspace / project / "snapshots" / f"{run}.json"
            )
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _prune(workspace / project / "snapshots", keep)
    return WorkspaceLink(project, run)


def _make_project(made: Any, project: str, model: str, columns: Mapping[str, Sequence[str]]) -> None:
    from evidently.sdk.models import ProjectModel

    entry = made.add_project(ProjectModel(id=uuid.UUID(project), name=model))
    for comparison, names in columns.items():
        entry.dashboard.add_panel(_panel(comparison, names))


def _panel(comparison: str, names: Sequence[str]) -> Any:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    return line_plot_panel(
        title=f"Drift score per column: {comparison.replace('_', ' ')}",
        values=[
            PanelMetric(metric="ValueDrift", legend=name, tags=[comparison], metric_labels={"column": name})
            for name in names
        ],
    )


def _moved(made: Path, final: Path) -> bool:
    """Move a new project in; False if it is there already, also if another process was first."""
    if final.exists():
        return False
    try:
        made.rename(final)
    except OSError:
        if final.exists():
            return False
        raise
    return True


def _prune(folder: Path, keep: int) -> None:
    """Run ids are UUIDv7: they sort by time."""
    for old in sorted(folder.glob("*.json"), reverse=True)[keep:]:
        old.unlink(missing_ok=True)
