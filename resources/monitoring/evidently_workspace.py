"""Evidently's workspace: the folder that `evidently ui` reads, one project per model."""

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resources.files import move
from resources.monitoring.drift_report import Comparison, WorkspaceLink

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
