"""The plan of the whole decision: what it promises is what rollouts of a healthy version do."""

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.sequential_parts.promotion import planned, promoted
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.healthy import Awaited
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.look_spec import ErrorBudget, MetricSpec
from pipelines.core.statistics.planning import Baseline, duration_words
from pipelines.core.statistics.power import Design, SequentialMethod, power_each
from pipelines.core.statistics.promotion import Course, Stage, play
from pipelines.core.statistics.proportions import same_units

MARGIN = 0.2


def cost(
    number: int = 0, *, method: SequentialMethod = SequentialMethod.ANYTIME, power: float = 0.8
) -> Awaited:
    design = Design(method=method, looks=5 if method.is_planned else 20, one_sided=True)
    spec = MetricSpec(
        name=f"cost{number}",
        kind=EffectKind.MEAN,
        margin=MARGIN,
        baseline=5.0,
        method=method,
        planned_information=design.information(MARGIN, power),
    )
    baseline = Baseline(name=spec.name, kind=EffectKind.MEAN, value=5.0, variance=25.0, units_per_day=20_000)
    return Awaited(spec=spec, baseline=baseline)


def course(*metrics: Awaited, max_days: float = 2.0, **changes: object) -> Course:
    made = Course(
        stages=(Stage(0.1, 0.5), Stage(0.5, 0.25)),
        metrics=metrics,
        budget=ErrorBudget(0.05, len(metrics)),
        units_per_day=20_000,
        max_days=max_days,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_planned_and_realised_promotions_are_within_three_points() -> None:
    """A skewed revenue and a guardrail; units assigned by chance, variances estimated."""
    made, played = planned(1, runs=1500)
    realised = promoted(np.random.default_rng(3), made, 1500, looks=80)
    assert 0.75 < played.chance(made.max_days) < 0.85
    assert realised == pytest.approx(played.chance(made.max_days), abs=0.03)


def test_all_metrics_must_hold_at_once() -> None:
    alone, ten = (play(course(*map(cost, range(count)), max_days=1.5), runs=1500) for count in (1, 10))
    each = alone.chance(1.5) / 0.99
    assert 0.7 < each < 0.9
    assert ten.chance(1.5) < 1.5 * each**10, "ten at some 80 % are not at 80 % together"
    least, most = ten.bounds(1.5)
    assert least <= ten.chance(1.5) <= most <= alone.chance(1.5) + 0.03


def test_the_bounds_hold_where_one_metric_is_all_of_them() -> None:
    """Metrics that are one and the same hold together as often as it does alone: the upper end."""
    alone, three = (play(course(*map(cost, range(count))), runs=1500) for count in (1, 3))
    least, most = three.bounds(2.0)
    assert least <= alone.chance(2.0) <= most + 0.03


def test_each_is_planned_for_what_all_together_need() -> None:
    assert power_each(0.8, 1) == pytest.approx(0.8)
    assert power_each(0.8, 4) == pytest.approx(0.95)
    assert 1 - 4 * (1 - power_each(0.8, 4)) == pytest.approx(0.8), "however they depend on each other"


def test_planned_looks_that_end_with_80_percent_each_never_end_together() -> None:
    """After the last planned look nothing is tested any more: more time does not help."""
    method = SequentialMethod.GROUP_SEQUENTIAL
    for power, low, high in ((0.8, 0.2, 0.4), (power_each(0.8, 5), 0.78, 0.9)):
        metrics = [cost(i, method=method, power=power) for i in range(5)]
        assert low < play(course(*metrics, max_days=20.0), runs=1500).chance(20.0) < high


def test_no_rollout_is_promoted_before_the_floors_of_its_steps() -> None:
    played = play(course(cost(), max_days=5.0), runs=500)
    assert played.days.min() >= 0.75
    assert played.chance(0.7) == 0
    assert play(course(cost(), max_days=0.5), runs=500).chance(0.5) == 0
    assert math.isinf(play(course(cost(), max_days=0.5), runs=500).days_until(0.8))


def test_outcomes_that_come_late_promote_late() -> None:
    soon, late = (
        play(course(replace(cost(), window_days=days), max_days=5.0), runs=500).days_until(0.8)
        for days in (0.0, 1.0)
    )
    assert late == pytest.approx(soon + 1.0, abs=0.25)


def test_a_metric_without_variance_holds_once_there_are_units_enough() -> None:
    constant = replace(cost(), baseline=replace(cost().baseline, variance=0.0))
    smaller = 20_000 * 0.1 * 0.5
    assert smaller > same_units(0.05)
    assert play(course(constant), runs=200).chance(2.0) == pytest.approx(0.99)
    assert play(course(constant, units_per_day=50), runs=200).chance(2.0) == 0


def test_the_same_course_is_the_same_plan() -> None:
    one, other = (play(course(cost()), runs=300) for _ in range(2))
    assert (one.promoted == other.promoted).all()


def test_what_compares_nothing_is_refused() -> None:
    with pytest.raises(ParameterError, match="nothing would be compared"):
        play(course(cost(), stages=(Stage(0.0, 1.0),)))
    with pytest.raises(ParameterError, match="units_per_day"):
        play(course(cost(), units_per_day=0.0))


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (6.94e-05, "6 seconds"),
        (1e-9, "less than a second"),
        (1 / 86400, "1 second"),
        (0.01, "14 minutes"),
        (1.5, "36 hours"),
        (5.32, "5.3 days"),
        (114.2, "114 days"),
        (12_345.0, "12,345 days"),
        (math.inf, "never"),
    ],
)
def test_durations_are_told_as_a_person_says_them(days: float, words: str) -> None:
    assert duration_words(days) == words
