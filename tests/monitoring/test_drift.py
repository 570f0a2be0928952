"""Drift through Evidently itself."""

import re
import uuid

import numpy as np
import pandas as pd
import pytest

from pipelines.core.manifest.model import Drift
from pipelines.core.vocabulary import Verdict
from pipelines.monitoring.drift import compare
from resources.checks.evidently import Comparison

pytestmark = [
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated function 'Dependency':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use of deprecated class 'DependencyKwarg':DeprecationWarning"),
]

CANARY, REFERENCE = Comparison.CANARY_VS_STABLE, Comparison.CURRENT_VS_REFERENCE


@pytest.fixture
def run(during):
    def go(reference, current, *, comparison=CANARY, min_rows=200, **more):
        passed = {name: more.pop(name) for name in ("reports_dir", "workspace") if name in more}
        return compare(
            reference, current, Drift(min_rows=min_rows, **more), model="flight-delay", title="Drift",
            comparison=comparison, **during, **passed,
        )  # fmt: skip

    return go


def by_column(report):
    return {(c.column, c.method): c for c in report.columns}


@pytest.mark.parametrize("rows", [600, 8000])
def test_a_shift_is_found_whatever_the_row_count(run, window, rows):
    report = run(window(rows, 1), window(rows, 2, shift=0.6), share=0.25)
    assert [c.column for c in report.drifted] == ["features.distance"]
    assert report.verdict is Verdict.FAIL
    assert report.share == 0.25
    assert re.search(r"1 of 4 columns drifted .*features.distance 0\.[56]\d+ \(threshold", report.reason)


@pytest.mark.parametrize("rows", [600, 8000])
def test_a_shift_below_the_threshold_is_no_drift_whatever_the_row_count(run, window, rows):
    assert run(window(rows, 1), window(rows, 2, shift=0.05), share=0.01).verdict is Verdict.PASS


def test_the_verdict_is_a_matter_of_the_share(run, window):
    assert run(window(600, 1), window(600, 2, shift=1), share=0.5).verdict is Verdict.PASS


@pytest.mark.parametrize(("comparison", "rows"), [(CANARY, 300), (REFERENCE, 300)])
def test_the_same_distribution_rarely_alarms(run, window, rows, comparison):
    """The manifest asks for the impossible (0.001): only the floor of chance stands between."""
    trials = [
        run(window(rows, 2 * n), window(rows, 2 * n + 1), comparison=comparison, threshold=0.001)
        for n in range(12)
    ]
    assert sum(bool(report.drifted) for report in trials) <= 1


def test_units_are_shuffled_whole(run):
    """Forty units with a hundred rows each: a difference of units is not a difference of arms."""

    def arm(seed: int) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        units = np.repeat(np.arange(40), 100)
        level = rng.normal(size=40)[units]
        return pd.DataFrame(
            {
                "features.x": level + rng.normal(scale=0.1, size=4000),
                "unit_id": [f"{seed}-{u}" for u in units],
            }
        )

    trials = [(arm(2 * n), arm(2 * n + 1)) for n in range(8)]
    with_units = [bool(run(a, b, threshold=0.001).drifted) for a, b in trials]
    as_rows = [bool(run(a[["features.x"]], b[["features.x"]], threshold=0.001).drifted) for a, b in trials]
    assert sum(with_units) == 0
    assert sum(as_rows) > 4


def test_too_few_rows_on_either_side_are_unknown_and_pending(run, window):
    for sizes in ((100, 400), (400, 100)):
        report = run(*(window(size, size) for size in sizes))
        assert (report.verdict, report.pending) == (Verdict.UNKNOWN, True)
        assert "insufficient data: 100" in report.reason


def test_odd_columns_are_handled_and_named(run, window):
    was, now = window(800, 1), window(800, 2)
    rng = np.random.default_rng(3)
    odd = {
        "features.still": (1.0, 1.0),
        "features.stuck": ("x", "x"),
        "features.woke": (1.0, np.where(np.arange(800) % 2, 1.0, 5.0)),
        "features.gone": (1.0, np.nan),
        "features.void": (np.nan, np.nan),
        "features.flag": (rng.random(800) < 0.5, rng.random(800) < 0.5),
        "features.half": (rng.normal(size=800), np.where(np.arange(800) % 2, rng.normal(size=800), np.nan)),
        "features.tiny": (rng.normal(size=800) * 1e-6, (rng.normal(size=800) + 2) * 1e-6),
        "features.when": (pd.Timestamp("2026-01-01"), pd.Timestamp("2026-01-02")),
        "features.kind": (1.0, "one"),
        "features.list": ([[1]] * 800, [[1]] * 800),
        "features.carrier": (was["features.carrier"], np.where(np.arange(800) < 160, "ZZ", now["features.carrier"])),
        "features.id": ([f"a{i}" for i in range(800)], [f"b{i}" for i in range(800)]),
    }  # fmt: skip
    for name, (before, after) in odd.items():
        was[name], now[name] = before, after
    now["features.new"] = 1.0
    columns = by_column(run(was, now))

    drifted = {key for key, c in columns.items() if c.drifted}
    assert drifted == {
        ("features.woke", "wasserstein"),
        ("features.gone", "jensenshannon_nulls"),
        ("features.half", "jensenshannon_nulls"),
        ("features.tiny", "wasserstein"),
        ("features.carrier", "jensenshannon"),
    }
    assert columns["features.still", "wasserstein"].note == "constant"
    assert columns["features.stuck", "jensenshannon"].note == "constant"
    assert columns["features.carrier", "jensenshannon"].note == "1 new categories in 20.0% of rows"
    assert (
        columns["features.gone", "jensenshannon_nulls"].note
        == "100.0% null or infinite, 0.0% in the reference"
    )
    assert columns["features.tiny", "wasserstein"].score == pytest.approx(2, rel=0.15)
    unscored = {c.column: c.note for c in columns.values() if c.drifted is None}
    assert unscored == {
        "features.void": "no values in the reference window",
        "features.when": "a time: it always moves on",
        "features.kind": "numbers in the reference window, text in the current one",
        "features.list": "not a single value per row",
        "features.new": "not in the reference window",
    }


def test_a_named_column_that_is_missing_leaves_the_window_unknown(run, window):
    report = run(window(600, 1), window(600, 2), columns=("features.hour", "features.gone"))
    assert (report.verdict, report.pending) == (Verdict.UNKNOWN, False)
    assert "not compared: features.gone (not in the reference window)" in report.reason


def test_nothing_to_compare_is_unknown(run):
    frame = pd.DataFrame({"unit_id": range(600)})
    assert "no column could be compared" in run(frame, frame).reason


def test_the_html_report_is_one_file(run, window, tmp_path):
    now = window(600, 2)
    now.loc[:99, "features.carrier"] = "</script><script>alert(1)</script>"
    report = run(window(600, 1), now, reports_dir=tmp_path)
    assert report.html == tmp_path / "flight-delay" / "canary_vs_stable" / "20260301T090000Z.html"
    html = report.html.read_text()
    assert "features.distance" in html
    assert "<script>alert(1)" not in html
    assert not re.findall(r"""<(?:script|link)[^>]+(?:src|href)=["'](?:https?:)?//""", html)


def test_the_workspace_is_what_the_evidently_ui_reads(run, window, tmp_path):
    from evidently.ui.workspace import Workspace

    reports = [
        run(window(300, n), window(300, n + 1), comparison=comparison, workspace=tmp_path / "ui")
        for n, comparison in enumerate(Comparison)
    ]
    workspace = Workspace(str(tmp_path / "ui"))
    (project,) = workspace.list_projects()
    assert project.name == "flight-delay"
    assert {str(run) for run in workspace.list_runs(project.id)} == {r.link.run_id for r in reports}
    stored = workspace.get_run(project.id, uuid.UUID(reports[0].link.run_id))
    assert stored.tags == ["canary_vs_stable"]
    assert reports[0].link.path == f"/projects/{project.id}/reports/{reports[0].link.run_id}"
    assert len(workspace.get_dashboard(project.id).panels) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["ui"]


def test_runs_in_the_workspace_are_bounded(window, during, tmp_path):
    links = [
        compare(
            window(300, n), window(300, n + 1), Drift(min_rows=100), model="m", title="t", comparison=CANARY,
            workspace=tmp_path / "ui", keep_runs=2, **during,
        ).link
        for n in range(3)
    ]  # fmt: skip
    kept = {path.stem for path in tmp_path.glob("ui/*/snapshots/*.json")}
    assert kept == {link.run_id for link in links[1:]}
