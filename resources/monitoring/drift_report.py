"""What drift says about a window: scores, thresholds, a verdict, and where to look."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipelines.rollout.evidence import Verdict


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

    def frame(self) -> pd.DataFrame:
        """One row per column and method, for the lake's drift table.

        Columns: window_start, window_end (UTC), comparison, column, method, score, threshold, drifted
        (nullable), note.
        """
        rows = [
            {
                "window_start": self.window_start,
                "window_end": self.window_end,
                "comparison": self.comparison.value,
                "column": c.column,
                "method": c.method,
                "score": c.score,
                "threshold": c.threshold,
                "drifted": c.drifted,
                "note": c.note,
            }
            for c in self.columns
        ]
        table = pd.DataFrame(rows, columns=pd.Index(_COLUMNS))
        return table.astype({"score": "float64", "threshold": "float64", "drifted": "boolean"})


_COLUMNS = (
    "window_start", "window_end", "comparison", "column", "method", "score", "threshold", "drifted", "note",
)  # fmt: skip
