"""Recomputed exposure against what a gateway did."""

import doctest
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sequential_parts.missing import Scenario, begun, manifest
from pipelines.core.rollout.state import Weight
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.vocabulary import Verdict
from pipelines.experiments.exposure import assignment_evidence, belongs_to_challenger, recompute
from pipelines.experiments.look_inputs import step_windows
from resources.lake.buckets import Coverage
from resources.lake.exposure import Seen

DOCS = Path(__file__).resolve().parents[2] / "docs" / "experiments.md"

T0 = datetime(2026, 3, 2, tzinfo=UTC)

MINUTE = timedelta(minutes=1)

WEIGHTS = (Weight(T0, T0 + MINUTE / 6, 10), Weight(T0 + 10 * MINUTE, T0 + 11 * MINUTE, 50))


def seen(unit: str, minute: float, *, percent: float, wrong: bool = False) -> Seen:
    return Seen(unit, T0 + minute * MINUTE, belongs_to_challenger(unit, "salt", percent) is not wrong)


def test_a_faithful_gateway_has_no_mismatch() -> None:
    units = [f"u{i}" for i in range(2000)]
    early = [seen(u, 5, percent=10) for u in units]
    late = [seen(u, 20, percent=50) for u in units]
    found = recompute([*early, *late], salt="salt", weights=WEIGHTS)
    assert (found.compared, found.mismatches, found.uncertain) == (4000, 0, 0)
    assert found.holds


def test_another_salt_and_a_random_split_are_found_out() -> None:
    units = [f"u{i}" for i in range(2000)]
    assert not recompute([seen(u, 5, percent=10) for u in units], salt="other", weights=WEIGHTS).holds
    flip = random.Random(1)
    coin = [Seen(u, T0 + 5 * MINUTE, flip.random() < 0.1) for u in units]
    found = recompute(coin, salt="salt", weights=WEIGHTS)
    assert found.share > 0.1
    assert "belongs to the" in found.sentence


def test_while_a_share_changes_either_version_is_right() -> None:
    found = recompute(
        [seen("a", 10.5, percent=50), seen("a", 10.5, percent=10, wrong=True)], salt="salt", weights=WEIGHTS
    )
    assert (found.compared, found.uncertain, found.holds) == (0, 2, True)


def test_a_few_failed_answers_given_by_the_champion_are_no_broken_split() -> None:
    rows = [seen(f"u{i}", 5, percent=10, wrong=i < 5) for i in range(1000)]
    found = recompute(rows, salt="salt", weights=WEIGHTS)
    assert (found.mismatches, found.holds) == (5, True)


def test_at_one_percent_what_may_go_astray_is_a_share_of_the_canary_not_of_all() -> None:
    """All of the canary's units are less than a hundredth of all units."""
    weights = (WEIGHTS[0]._replace(percent=1.0),)
    rows = [seen(f"u{i}", 5, percent=1) for i in range(2000)]
    astray = [row._replace(is_challenger=False) for row in rows]
    found = recompute(astray, salt="salt", weights=weights)
    assert found.smaller == found.mismatches > 0
    assert found.share < 0.015
    assert not found.holds
    for crossovers, verdict in ((11, Verdict.FAIL), (10, Verdict.PASS)):
        said = assignment_evidence(
            Coverage(10_000, crossovers, 0, 0),
            None,
            units=(StepUnits(0, 9_900, 100, 0.01),),
            at=T0,
            valid_for=MINUTE,
        )
        assert said.verdict is verdict, said.reason


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_unit_ids_beyond_ascii_are_no_broken_split_in_whatever_bytes_they_came(charset: str) -> None:
    units = [f"Zoë-{i}" for i in range(2000)]
    went = [Seen(u, T0 + 5 * MINUTE, belongs_to_challenger(u, "salt", 10, charset=charset)) for u in units]
    found = recompute(went, salt="salt", weights=WEIGHTS)
    assert (found.mismatches, found.holds) == (0, True)
    assert found.compared > 1500
    assert found.compared + found.uncertain == 2000


def test_a_random_split_of_units_beyond_ascii_is_found_out() -> None:
    flip = random.Random(1)
    coin = [Seen(f"李-{i}", T0 + 5 * MINUTE, flip.random() < 0.1) for i in range(2000)]
    assert not recompute(coin, salt="salt", weights=WEIGHTS).holds


def test_requests_without_a_unit_are_counted_apart() -> None:
    found = recompute([Seen("", T0 + 5 * MINUTE, True)], salt="salt", weights=WEIGHTS)
    assert (found.without_unit, found.compared) == (1, 0)


@given(st.text(), st.text(), st.floats(0, 100), st.floats(0, 100))
def test_a_larger_share_only_adds_units(unit: str, salt: str, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert belongs_to_challenger(unit, salt, large) or not belongs_to_challenger(unit, salt, small)
    assert not belongs_to_challenger(unit, salt, 0)
    assert belongs_to_challenger(unit, salt, 100)


def test_the_documented_recomputation() -> None:
    failed, tried = doctest.testfile(str(DOCS), module_relative=False)
    assert (failed, tried) == (0, 2)


def test_where_all_traffic_is_given_to_the_challenger_nothing_is_compared() -> None:
    """A bake without a holdback: units that reach the champion all the same got there by chance."""
    times = [T0 + k * MINUTE for k in range(4)]
    weights = tuple(Weight(at, at, percent) for at, percent in zip(times, (10.0, 50.0, 100.0), strict=False))
    state = replace(begun(manifest(Scenario())), weights=weights)
    found = [(window.step, window.start, window.end) for window in step_windows(state, times[3])]
    assert found == [(0, times[0], times[1]), (1, times[1], times[2])]
