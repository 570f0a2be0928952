"""Data checks through Great Expectations itself."""

import re
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.manifest.model import Check, DataChecks
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.monitoring.data_checks import check_window
from resources.checks.expectations import check_names

pytestmark = [
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]

GOOD = (
    Check(column="features.distance", type="not_null"),
    Check(column="features.distance", type="between", min=-500, max=2000, mostly=0.99),
    Check(column="features.distance", type="unique"),
    Check(column="features.distance", type="mean_between", min=600, max=800),
    Check(column="features.carrier", type="in_set", values=("AA", "B6", "DL", "UA")),
    Check(column="features.carrier", type="matches", regex=r"^[A-Z0-9]{2}$"),
)


@pytest.fixture
def run(window, during, tmp_path):
    def check(frame, *checks, **config):
        return check_window(
            frame, DataChecks(checks=checks, **config), model="flight-delay", docs_dir=tmp_path, **during
        )

    return check


def test_a_good_window_passes_every_kind_of_check(run, window):
    report = run(window(400, 1), *GOOD)
    assert [r.verdict for r in report.results] == [Verdict.PASS] * len(GOOD)
    assert report.verdict is Verdict.PASS
    assert "6 checks passed on 400 rows" in report.reason


@pytest.mark.parametrize("check", GOOD, ids=lambda check: check.type)
def test_a_bad_window_fails_and_says_which_column_and_how_much(run, window, check):
    frame = window(400, 1)
    frame[check.column] = frame[check.column].astype(object)
    spoilt = {"not_null": None, "between": 9e9, "unique": 1.0, "mean_between": 9e9}.get(check.type, "??")
    frame.loc[:99, check.column] = spoilt
    if check.column == "features.distance":
        frame[check.column] = frame[check.column].astype(float)
    (result,) = run(frame, check).results
    assert result.verdict is Verdict.FAIL
    assert check.column in result.reason
    if check.type != "mean_between":
        assert result.unexpected_share == pytest.approx(0.25)
        assert "25.00%" in result.reason


def test_mostly_decides_which_share_is_bad(run, window):
    frame = window(400, 1)
    frame.loc[:39, "features.distance"] = np.nan
    strict, lenient = (Check(column="features.distance", type="not_null", mostly=m) for m in (0.95, 0.85))
    assert [r.verdict for r in run(frame, strict, lenient).results] == [Verdict.FAIL, Verdict.PASS]


@pytest.mark.parametrize(
    ("check", "why"),
    [
        (Check(column="features.gone", type="not_null"), "available: features.distance, features.hour"),
        (Check(column="features.carrier", type="matches", regex="^[A-"), "broke: "),
        (Check(column="features.carrier", type="between", min=0), "between needs numbers"),
        (Check(column="features.hour", type="matches", regex="x"), "matches needs text"),
        (Check(column="features.void", type="between", min=0), "holds no values"),
        (Check(column="features.void", type="mean_between", min=0), "holds no values"),
    ],
)
def test_a_check_that_cannot_run_is_unknown_and_spares_the_others(run, window, check, why):
    frame = window(300, 1).assign(**{"features.void": np.nan})
    report = run(frame, GOOD[0], check)
    assert [r.verdict for r in report.results] == [Verdict.PASS, Verdict.UNKNOWN]
    assert why in report.results[1].reason
    assert not report.results[1].pending
    assert report.verdict is Verdict.UNKNOWN


def test_too_few_rows_are_unknown_and_pending(run, window):
    report = run(window(50, 1), *GOOD, min_rows=200)
    assert {(r.verdict, r.pending) for r in report.results} == {(Verdict.UNKNOWN, True)}
    assert report.reason == "insufficient data: 50 rows, 200 needed"
    assert report.page is None


def test_without_checks_empty_columns_are_still_found(run, window):
    frame = window(300, 1)
    frame[["features.hour", "outputs.score"]] = np.nan
    report = run(frame.assign(unit_id="u"))
    failed = {r.column: r.on_fail for r in report.results if r.verdict is Verdict.FAIL}
    assert failed == {"features.hour": OnFail.WARN, "outputs.score": OnFail.HOLD}
    assert "unit_id" not in {r.column for r in report.results}
    assert report.verdict is Verdict.FAIL


def test_a_check_that_only_warns_never_fails_the_window(run, window):
    report = run(window(300, 1), Check(column="features.hour", type="between", max=1, on_fail=OnFail.WARN))
    assert report.results[0].verdict is Verdict.FAIL
    assert report.verdict is Verdict.PASS
    assert "features.hour" in report.reason


def test_big_windows_are_sampled(run, window):
    report = run(window(1000, 1), GOOD[0], sample_rows=300)
    assert (report.rows, report.rows_checked) == (1000, 300)


def test_the_page_needs_no_network_and_shows_what_could_not_run(run, window):
    frame = window(400, 1)
    frame.loc[:99, "features.carrier"] = "<b>"
    page = run(frame, *GOOD, Check(column="features.gone", type="not_null")).page
    html = page.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", html)
    assert not re.findall(r"""href=["']\.\./""", html)
    assert '<td class="text-warning">unknown</td><td>features_gone__not_null</td><td>hold</td>' in html
    assert [html.count(f'<td class="text-{each}</td>') for each in ('danger">fail', 'success">pass')] == [
        2,
        4,
    ]
    assert "An unexpected Exception" not in html
    assert "<b>" not in html
    assert page.name in (page.parent / "index.html").read_text()


def test_pages_are_replaced_when_a_window_is_checked_again_and_bounded_in_number(window, during, tmp_path):
    def at(hour: int) -> Path:
        moved = {name: time + timedelta(hours=hour) for name, time in during.items()}
        return check_window(
            window(250, hour), DataChecks(checks=GOOD[:1]), model="m", docs_dir=tmp_path, keep=2, **moved
        ).page

    pages = [at(0), at(0), at(1), at(2)]
    assert pages[0] == pages[1]
    assert sorted(tmp_path.glob("m/2*.html")) == pages[2:]


def test_names_are_unique_and_fit_for_dagster():
    names = check_names((*GOOD, GOOD[1]))
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_]+", name) for name in names)
    assert names[-1] == "features_distance__between_2"
