"""One value of one caller must not blind drift, and rounding is no drift."""

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from pipelines.core.manifest.model import Drift
from pipelines.core.vocabulary import Verdict
from pipelines.monitoring.drift import compare
from resources.checks.evidently import Comparison, DriftReport

pytestmark = [
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Call to deprecated function 'Dependency':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Use of deprecated class 'DependencyKwarg':DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning"),
]

ROWS = 300

START = datetime(2026, 3, 1, 8, tzinfo=UTC)

ODD = {
    "-1e308": -1e308,
    "1e11": 1e11,
    "inf": math.inf,
    "nan": math.nan,
}

BASES = {
    "normal": lambda r, shift: r.normal(5 + 2 * shift, 1, ROWS),
    "constant": lambda r, shift: np.full(ROWS, 1.0 + shift),
    "nearly all zero": lambda r, shift: np.where(np.arange(ROWS) % 100 == 0, 3.0, 0.0) + shift,
}


def drift(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> DriftReport:
    was, now = (
        pd.DataFrame({f"features.{name}": pair[side] for name, pair in pairs.items()}) for side in (0, 1)
    )
    return compare(
        was, now, Drift(min_rows=100, columns=tuple(was)), model="m", title="Drift",
        comparison=Comparison.CANARY_VS_STABLE, window_start=START, window_end=START + timedelta(hours=1),
    )  # fmt: skip


def with_one(values: np.ndarray, odd: float) -> np.ndarray:
    changed = values.astype(np.float64)
    changed[17] = odd
    return changed


@pytest.mark.parametrize("shift", [0, 1])
def test_one_value_of_any_size_on_either_side_neither_hides_a_clear_drift_nor_makes_one(shift: int) -> None:
    rng = np.random.default_rng(7)
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for base, make in BASES.items():
        for name, odd in ODD.items() if base == "normal" else [("1e308", 1e308)]:
            was, now = make(rng, 0), make(rng, shift)
            pairs[f"{base}, {name} in the reference"] = with_one(was, odd), now
            pairs[f"{base}, {name} in the current window"] = was, with_one(now, odd)
    report = drift(pairs)
    found = {
        c.column.removeprefix("features."): c.drifted
        for c in report.columns
        if not c.method.endswith("nulls")
    }
    assert found == dict.fromkeys(pairs, bool(shift)), {
        n: c for n, c in found.items() if c is not bool(shift)
    }
    assert report.verdict is (Verdict.FAIL if shift else Verdict.PASS)


def test_a_difference_of_rounding_in_a_constant_column_is_no_drift_and_hides_none() -> None:
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    moved: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for kind, constant in ((np.float64, 0.1), (np.float32, -1e15)):
        one = kind(constant)
        ulp = np.nextafter(one, kind(np.inf))
        half = np.where(np.arange(ROWS) % 2 == 0, one, ulp).astype(kind)
        single = with_one(np.full(ROWS, one), ulp).astype(kind)
        same = np.full(ROWS, one)
        name = f"{kind.__name__} {constant}"
        pairs |= {
            f"{name} half": (half, same),
            f"{name} one": (same, single),
            f"{name} all": (same, np.full(ROWS, ulp)),
        }
        moved |= {f"{name} half": (half, same * kind(2)), f"{name} one": (single, same * kind(2))}
    quiet = drift(pairs)
    assert {c.column: c.score for c in quiet.columns if c.drifted is not False} == {}
    assert quiet.verdict is Verdict.PASS
    loud = drift(moved)
    assert {c.column: c.score for c in loud.columns if c.drifted is not True} == {}
    assert loud.verdict is Verdict.FAIL


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_one_value_in_a_constant_column_is_no_drift_of_the_window(constant: float) -> None:
    """Chance puts it on either side: one caller must not be able to stop a rollout by it."""
    same = np.full(ROWS, constant)
    assert drift({"x": (same, with_one(same, 1e308))}).verdict is Verdict.PASS
    assert drift({"x": (same, with_one(same, 1e308) + 1)}).verdict is Verdict.FAIL
