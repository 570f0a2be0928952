"""Columns that callers really send, beside good ones: Evidently and Great Expectations judge every good one all the same."""

import datetime as dt
import math
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from pipelines.core.manifest.model import Check, DataChecks, Drift
from pipelines.core.vocabulary import Verdict
from pipelines.monitoring import drift as drifting
from pipelines.monitoring.data_checks import as_many_as_possible, check_window
from pipelines.monitoring.drift import compare
from resources.checks import expectations
from resources.checks.columns import kind_of
from resources.checks.evidently import Comparison, run_report
from resources.checks.expectations import needs, to_expectation
from resources.registry.signature import ColumnKind

pytestmark = [
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated function 'Dependency':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use of deprecated class 'DependencyKwarg':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]

ROWS = 400

HALF = np.arange(ROWS) % 2 == 0

ODD = {
    "a 64-bit hash": lambda r: r.integers(-(2**63), 2**63 - 1, ROWS),
    "an unsigned hash": lambda r: r.integers(0, 2**64 - 1, ROWS, dtype=np.uint64),
    "the ends of int64": lambda r: r.choice([-(2**63), 2**63 - 1], ROWS),
    "1e30": lambda r: r.normal(size=ROWS) * 1e30,
    "1e200, whose square overflows": lambda r: r.normal(size=ROWS) * 1e200,
    "the ends of double": lambda r: r.choice([-1.7e308, 0, 1.7e308], ROWS),
    "always 1.7e308": lambda r: np.full(ROWS, 1.7e308),
    "one value of 1.7e308": lambda r: np.where(np.arange(ROWS) == 7, 1.7e308, 1.0),
    "denormal": lambda r: r.normal(size=ROWS) * 1e-310,
    "the ends of float": lambda r: r.choice([-3.4e38, 3.4e38], ROWS).astype(np.float32),
    "cauchy": lambda r: r.standard_cauchy(ROWS) * 1e6,
    "only infinite": lambda r: np.full(ROWS, np.inf),
    "both infinities": lambda r: np.where(HALF, np.inf, -np.inf),
    "half infinite": lambda r: np.where(HALF, np.inf, r.normal(size=ROWS)),
    "one value": lambda r: np.full(ROWS, 0.1),
    "one category": lambda r: ["a"] * ROWS,
    "only null": lambda r: pd.Series([None] * ROWS, dtype=object),
    "only NaN": lambda r: np.full(ROWS, np.nan),
    "three values": lambda r: np.where(np.arange(ROWS) < 3, r.normal(size=ROWS), np.nan),
    "booleans": lambda r: r.random(ROWS) < 0.5,
    "booleans and nulls": lambda r: pd.Series(np.where(HALF, None, r.random(ROWS) < 0.5), dtype=object),
    "integers and nulls": lambda r: pd.Series(r.integers(0, 9, ROWS), dtype="Int64").where(HALF),
    "float": lambda r: r.normal(size=ROWS).astype(np.float32),
    "lists": lambda r: [[1.0, 2.0]] * ROWS,
    "times": lambda r: pd.date_range("2026", periods=ROWS),
    "dates": lambda r: [dt.date(2026, 1, 1)] * ROWS,
    "decimals": lambda r: [Decimal(int(n)) for n in r.integers(0, 9, ROWS)],
    "ids": lambda r: [f"id-{n}" for n in r.integers(0, 2**60, ROWS)],
    "empty text, and words for nothing": lambda r: r.choice(["", " ", "nan", "None", "NULL"], ROWS),
    "text and numbers": lambda r: pd.Series([1, "a"] * (ROWS // 2), dtype=object),
}


def table(seed: int, *, shift: float = 0.0, **odd: object) -> pd.DataFrame:
    """A steady column, one that is `shift` standard deviations off, and the odd ones."""
    rng = np.random.default_rng(seed)
    good = {"features.steady": rng.normal(size=ROWS), "outputs.score": rng.normal(shift, 1, ROWS)}
    return pd.DataFrame(good | {f"features.{name}": values for name, values in odd.items()})


@pytest.fixture
def scored(during):
    def go(reference, current, **more):
        return compare(
            reference, current, Drift(min_rows=100, **more), model="m", title="Drift",
            comparison=Comparison.CANARY_VS_STABLE, **during,
        )  # fmt: skip

    return go


@pytest.fixture
def checked(during, tmp_path):
    def go(frame, *checks):
        return check_window(
            frame, DataChecks(checks=checks, min_rows=100), model="m", docs_dir=tmp_path, **during
        )

    return go


@pytest.mark.parametrize("seed", range(5))
def test_no_odd_column_spoils_the_drift_of_the_others(scored, seed):
    """Any kind on either side: it is scored, or named with a reason; the good columns are judged as without it."""
    rng = np.random.default_rng(seed)
    names = list(ODD)
    pairs = {name: (name, name if seed % 2 else rng.choice(names)) for name in names[seed % 2 :: 2]}
    was, now = (
        table(side, shift=side - 1, **{n: ODD[pair[side - 1]](rng) for n, pair in pairs.items()})
        for side in (1, 2)
    )
    report = scored(was, now, share=0.01)
    alone = {c.column: c for c in scored(table(1), table(2, shift=1)).columns}
    for c in report.columns:
        assert math.isfinite(c.threshold), c
        assert (c.score is None) == (c.drifted is None), c
        assert c.note if c.score is None else math.isfinite(c.score), c
    assert {c.column for c in report.columns} == set(was)
    mine = {c.column: c for c in report.columns}
    for name, good in alone.items():
        assert (mine[name].score, mine[name].drifted) == (good.score, good.drifted)
        assert mine[name].threshold <= 1.35 * good.threshold
    assert report.verdict is Verdict.FAIL
    assert "outputs.score" in {c.column for c in report.drifted}


@pytest.mark.parametrize("scale", [1e-310, 1e-30, 1.0, 1e15, 1e30, 1e300])
def test_drift_does_not_depend_on_the_unit_of_a_column(scored, scale):
    rng = np.random.default_rng(3)
    was, same, moved = (rng.normal(m, 1, ROWS) * scale for m in (5, 5, 6))
    still = scored(table(1, x=was), table(2, x=same), columns=("features.x",))
    gone = scored(table(1, x=was), table(2, x=moved), columns=("features.x",))
    assert (still.verdict, gone.verdict) == (Verdict.PASS, Verdict.FAIL)
    assert gone.columns[0].score == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("constant", [0.0, 0.1, -3.0, 1e300, 1e-300])
def test_a_constant_is_no_drift_and_its_end_is(scored, constant):
    was, other = np.full(ROWS, constant), np.where(HALF, constant, 2 * constant + (constant == 0))
    assert scored(table(1, x=was), table(2, x=was), columns=("features.x",)).verdict is Verdict.PASS
    assert scored(table(1, x=was), table(2, x=other), columns=("features.x",)).verdict is Verdict.FAIL


def test_a_column_whose_type_changed_is_unknown_whatever_the_types(scored):
    kinds = {"number": 1.5, "text": "a", "truth": True}
    for old in kinds:
        for new in kinds.keys() - {old}:
            report = scored(
                table(1, x=[kinds[old]] * ROWS), table(2, x=[kinds[new]] * ROWS), columns=("features.x",)
            )
            assert report.verdict is Verdict.UNKNOWN
            assert "in the reference window" in report.reason


def test_what_evidently_raises_on_one_column_makes_that_one_unknown(scored, monkeypatch):
    real = run_report

    def picky(columns, *args, **more):
        if any(c.column == "features.cursed" for c in columns):
            raise FloatingPointError("not that one\nit said")
        return real(columns, *args, **more)

    monkeypatch.setattr(drifting, "run_report", picky)
    was, now = table(1, cursed=1.0), table(2, shift=1, cursed=1.0)
    report = scored(was, now, share=0.01)
    assert (report.verdict, [c.column for c in report.drifted]) == (Verdict.FAIL, ["outputs.score"])
    (cursed,) = [c for c in report.columns if c.drifted is None]
    assert cursed.note == "FloatingPointError"
    named = scored(table(1, cursed=1.0), table(2, cursed=1.0), columns=("features.steady", "features.cursed"))
    assert named.verdict is Verdict.UNKNOWN
    assert "features.cursed (FloatingPointError)" in named.reason
    only = scored(was, now, columns=("features.cursed",))
    assert only.verdict is Verdict.UNKNOWN
    assert [c.column for c in only.columns] == ["features.cursed"]


def test_a_report_that_cannot_be_written_costs_no_verdict(during, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("a file where a folder should be")
    report = compare(
        table(1), table(2, shift=1), Drift(min_rows=100), model="m", title="Drift", reports_dir=taken,
        comparison=Comparison.CANARY_VS_STABLE, **during,
    )  # fmt: skip
    assert (report.verdict, report.html) == (Verdict.FAIL, None)
    assert "Error" in report.unsaved
    checks = DataChecks(checks=(Check(column="features.steady", type="not_null"),))
    quality = check_window(table(1), checks, model="m", docs_dir=taken, **during)
    assert (quality.verdict, quality.page) == (Verdict.PASS, None)
    assert "Error" in quality.unsaved


def test_a_column_named_like_the_nulls_of_another_is_its_own(scored):
    nulls = np.where(HALF, 1.0, np.nan)
    was, now = table(1, x=1.0, **{"x is null": "a"}), table(2, x=nulls, **{"x is null": "a"})
    methods = {(c.column, c.method): c.drifted for c in scored(was, now).columns}
    assert methods["features.x", "jensenshannon_nulls"] is True
    assert methods["features.x is null", "jensenshannon"] is False


def test_a_column_is_found_in_whichever_case_a_manifest_or_an_earlier_version_spells_it(scored, checked):
    was, now = table(1, Wind=1.0), table(2, shift=1.0, Wind=1.0)
    report = scored(was, now, columns=("features.wind", "outputs.Score"))
    assert {c.column: c.drifted for c in report.columns} == {"features.wind": False, "outputs.Score": True}
    spelt = ("features.WIND", "features.wind", "features.Wind")
    found = checked(was, *(Check(column=name, type="between", min=0, max=1) for name in spelt))
    assert [(r.column, r.verdict) for r in found.results] == [(name, Verdict.PASS) for name in spelt]


CHECKS = {
    "not_null": {},
    "unique": {},
    "between": {"min": -1, "max": 1},
    "mean_between": {"min": -1, "max": 1},
    "in_set": {"values": (0, 1)},
    "matches": {"regex": "a"},
}


@pytest.mark.parametrize("name", ODD)
def test_no_odd_column_breaks_a_data_check(checked, name):
    """It passes, fails or is unknown as its kind says; nothing raises, and the page is written."""
    frame = table(1, x=ODD[name](np.random.default_rng(1)))
    checks = [Check(column="features.x", type=kind, **more) for kind, more in CHECKS.items()]
    good = Check(column="features.steady", type="between", min=-9, max=9)
    report = checked(frame, *checks, good)
    assert report.results[-1].verdict is Verdict.PASS
    assert (report.page is not None, report.unsaved) == (True, "")
    values = frame["features.x"]
    for check, result in zip(checks, report.results, strict=False):
        assert "broke" not in result.reason
        assert result.observed is None or math.isfinite(result.observed)
        if check.type != "not_null" and (values.count() == 0 or needs(check, kind_of(values))):
            assert result.verdict is Verdict.UNKNOWN, check


def test_single_precision_is_held_against_single_precision(checked):
    """0.1 in single precision is more than 0.1: no reason to fail."""
    frame = table(1, x=np.full(ROWS, 0.1, dtype=np.float32))
    results = checked(
        frame,
        Check(column="features.x", type="between", max=0.1),
        Check(column="features.x", type="in_set", values=(0.1, 0.7)),
        Check(column="features.x", type="mean_between", min=0.1, max=0.1),
        Check(column="features.x", type="between", min=0.11),
        Check(column="features.x", type="between", max=1e300),
    ).results
    verdicts = [result.verdict for result in results]
    assert verdicts == [Verdict.PASS, Verdict.PASS, Verdict.PASS, Verdict.FAIL, Verdict.PASS]
    assert results[0].expected == "at most 0.1 in all rows"


@pytest.mark.parametrize("nulls", [False, True])
def test_booleans_count_as_0_and_1_with_nulls_and_without(checked, nulls):
    truth = pd.Series(np.where(np.arange(ROWS) % 4 == 0, True, False), dtype=object if nulls else bool)
    frame = table(1, x=truth.where(np.arange(ROWS) > 3, None) if nulls else truth)
    mean, between, text = checked(
        frame,
        Check(column="features.x", type="mean_between", min=0.2, max=0.3),
        Check(column="features.x", type="between", min=0, max=1),
        Check(column="features.x", type="matches", regex="True"),
    ).results
    assert (mean.verdict, between.verdict, text.verdict) == (Verdict.PASS, Verdict.PASS, Verdict.UNKNOWN)


@pytest.mark.parametrize(("held", "asked"), [(1, "1"), ("1", 1), (True, "true"), (1.5, "1.5")])
def test_a_set_of_another_type_is_unknown(checked, held, asked):
    (result,) = checked(
        table(1, x=[held] * ROWS), Check(column="features.x", type="in_set", values=(asked,))
    ).results
    assert (result.verdict, result.pending) == (Verdict.UNKNOWN, False)
    assert "in_set needs" in result.reason


def test_a_mean_that_overflows_is_unknown(checked):
    (result,) = checked(
        table(1, x=np.full(ROWS, 1.7e308)), Check(column="features.x", type="mean_between", max=1)
    ).results
    assert (result.verdict, result.reason) == (
        Verdict.UNKNOWN,
        "features.x has no finite mean in this window",
    )


def test_what_great_expectations_raises_on_one_check_makes_that_one_unknown(checked, monkeypatch):
    def picky(check, name):
        if check.type == "unique":
            raise TypeError("not that one")
        return to_expectation(check, name)

    monkeypatch.setattr(expectations, "to_expectation", picky)
    report = checked(table(1), *(Check(column="features.steady", type=t) for t in ("unique", "not_null")))
    assert [r.verdict for r in report.results] == [Verdict.UNKNOWN, Verdict.PASS]
    assert report.results[0].reason.endswith("broke: TypeError"), "its text may quote data"
    assert report.page is not None


def test_items_that_only_break_together_are_all_named():
    def run(items):
        if len(items) > 1:
            raise ValueError
        return sum(items.values())

    assert as_many_as_possible({"a": 1}, run) == (1, {})
    assert as_many_as_possible({"a": 1, "b": 2}, run) == (None, {"a": "ValueError", "b": "ValueError"})


def test_every_kind_has_a_column_here():
    seen = {kind_of(pd.Series(make(np.random.default_rng(1)))) for make in ODD.values()}
    assert seen == set(ColumnKind)
