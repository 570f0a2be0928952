"""Experiment statistics from the lake against the same rules written out row by row."""

import math
import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from pipelines.core.errors import LakeError
from pipelines.core.manifest.model import Experiment, Primary
from pipelines.core.metric_types import Missing, UnitValue
from pipelines.core.statistics.effects import Cell, Sums
from pipelines.experiments.look_inputs import Span, newly_final, open_since
from pipelines.experiments.registering import register
from resources.lake.buckets import LoggedUnits, collect
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow
from resources.lake.ingest import ingest_predictions
from resources.lake.measuring import MeasuredMetric, measure_units, outcome_quality
from resources.lake.outcomes import ingest_outcomes
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

LATE = MetricQuery(name="late", kind=UnitValue.ANY, source="outcomes.late")

COST = MetricQuery(name="cost", kind=UnitValue.AMOUNT, source="outcomes.cost")

ERRORS = MetricQuery(name="errors", kind=UnitValue.ANY, source="serving.errors")


def query(*metrics: MetricQuery, **options: Any) -> ExperimentQuery:
    return ExperimentQuery(
        **{
            "champion": "1",
            "challenger": "2",
            "steps": (StepWindow(START, START + HOUR, 0), StepWindow(START + HOUR, START + 2 * HOUR, 1)),
            "metrics": metrics or (LATE,),
            "outcome_window": HOUR,
            "watermark": START + 10 * HOUR,
            "bucket": 2 * HOUR,
        }
        | options
    )


SCORE = MetricQuery(name="score", kind=UnitValue.AMOUNT, source="predictions.outputs.probability")

PAID = MetricQuery(name="paid", kind=UnitValue.AMOUNT, source="outcomes.paid")


class World:
    """Adds predictions and outcomes, then loads them."""

    def __init__(self, lake: Lake, log: Log) -> None:
        self.lake, self.log = lake, log
        self.lines: list[str] = []
        self.outcomes: list[dict[str, Any]] = []

    def seen(self, request: str, version: str, at: timedelta = MINUTE, **options: Any) -> None:
        revision = f"{MODEL}-0000{version}"
        self.lines += prediction(request, version=version, at=at, revision=revision, **options)

    def came_of(self, key: str, at: timedelta = 2 * MINUTE, **values: float) -> None:
        at_text = (START + at).isoformat()
        self.outcomes.append({"id": str(len(self.outcomes)), "key": key, "at": at_text, "values": values})

    def load(self) -> None:
        self.log.segment("all", *self.lines)
        self.log.outcome_file("all", *self.outcomes)
        ingest_predictions(self.lake, MODEL, SCHEMA, self.log.predictions)
        ingest_outcomes(self.lake, MODEL, self.log.outcomes, now=START + 100 * HOUR)

    def cells(self, *metrics: MetricQuery, **options: Any) -> list[Cell]:
        self.load()
        return collect(self.lake, MODEL, query(*metrics, **options)).cells


@pytest.fixture
def world(lake: Lake, log: Log) -> World:
    return World(lake, log)


def test_proportions_count_missing_outcomes_as_zero(world: World) -> None:
    for i in range(4):
        world.seen(f"a{i}", "1")
        world.seen(f"b{i}", "2")
    world.came_of("a0", late=1)
    world.came_of("b0", late=1)
    world.came_of("b1", late=1)
    world.came_of("b2", late=0)
    (cell,) = world.cells(LATE)
    bucket = START.timestamp()
    assert cell == Cell(
        "late",
        0,
        bucket,
        Sums(n=4, sy=1, syy=1, sd=4, sdd=4, syd=1),
        Sums(n=4, sy=2, syy=2, sd=4, sdd=4, syd=2),
    )
    (known,) = collect(world.lake, MODEL, query(replace(LATE, missing=Missing.EXCLUDE))).cells
    assert (known.champion.n, known.challenger.n) == (1, 3)


def test_means_leave_out_missing_outcomes_add_repeated_ones_and_are_capped(world: World) -> None:
    for i in range(3):
        world.seen(f"a{i}", "1")
    world.came_of("a0", cost=2.0)
    world.came_of("a0", cost=3.0)
    world.came_of("a1", cost=50.0)
    (cell,) = world.cells(replace(COST, cap=10.0, reference=4.0))
    assert cell.champion == Sums(n=2, sy=7, syy=37, sd=2, sdd=2, syd=7)
    assert cell.reference == 4.0
    (zero,) = collect(world.lake, MODEL, query(replace(COST, missing=Missing.ZERO))).cells
    assert (zero.champion.n, zero.champion.sy) == (3, 55)


def test_units_without_a_value_at_the_end_of_their_window_are_counted_beside_the_others(world: World) -> None:
    """Nothing came, what came cannot be squared, or one part of a ratio is missing; too early is not missing."""
    per_mile = MetricQuery(
        name="per_mile", kind=UnitValue.RATIO, source="outcomes.cost", denominator="outcomes.miles"
    )
    for unit in ("told", "half", "torn"):
        world.seen(unit, "2")
    world.seen("silent", "2", status=500)
    world.seen("odd", "2", outputs={"probability": [1e200]})
    world.seen("old", "1")
    world.seen("young", "1", at=HOUR + 30 * MINUTE)
    world.came_of("told", cost=3.0, miles=2.0)
    world.came_of("half", cost=3.0)
    for _ in range(2):
        world.came_of("torn", cost=1e50, miles=1e-51)
    cost, ratio, zero, scores, _ = world.cells(
        COST, per_mile, replace(COST, name="zero", missing=Missing.ZERO), SCORE, watermark=START + 2 * HOUR
    )
    assert [(c.challenger.n, c.challenger_lost) for c in (cost, ratio, zero)] == [(2, 3), (1, 4), (4, 1)]
    assert [(c.champion.n, c.champion_lost) for c in (cost, ratio, zero)] == [(0, 1), (0, 1), (1, 0)]
    # That a request failed is `serving.errors`; an answer without a usable number has lost one.
    assert (scores.challenger[:2], scores.challenger_lost) == ((3, 1.5), 1)


def test_a_value_too_large_to_be_squared_leaves_every_sum_finite_wherever_it_stands(world: World) -> None:
    """A caller can send one as an input: one request must not make all further looks unknown."""
    sources = ("predictions.outputs.probability", "predictions.features.distance", "outcomes.cost")
    metrics = [
        MetricQuery(
            name=f"m{i}", kind=UnitValue.RATIO, source=one, denominator=two, covariate="predictions.distance"
        )
        for i, (one, two) in enumerate((a, b) for a in sources for b in sources if a != b)
    ]
    for i, (distance, probability, cost) in enumerate(
        [(2.0, 0.5, 3.0), (1e200, 0.5, 3.0), (2.0, -1e160, 3.0), (2.0, 0.5, 1e200)]
    ):
        world.seen(f"u{i}", "1", inputs={"distance": [distance], "origin": ["JFK"]},
                   outputs={"probability": [probability]})  # fmt: skip
        world.came_of(f"u{i}", cost=cost)
    cells = world.cells(*metrics)
    assert all(math.isfinite(value) for cell in cells for value in cell.champion)
    known = measure_units(world.lake, MODEL, query(*metrics), [MeasuredMetric(None, None)] * len(metrics))
    assert all(each is None or math.isfinite(each.variance + each.kurtosis) for each in known)
    quality = outcome_quality(world.lake, MODEL, query(COST))
    assert (quality.quarantined, quality.reason) == (1, "cost == 1e+200, more than 1e+50")


def test_a_quantile_of_mostly_zeros_does_not_cap_everything_at_0(world: World) -> None:
    """Of a hundred units four buy. What counts as 0 because it is missing is left aside; where zeros were sent, nothing is capped:
    no version could be told from another."""
    for i in range(100):
        world.seen(f"u{i}", "1")
        world.came_of(f"u{i}", cost=float(i == 0), **({"paid": i + 1.0} if i < 4 else {}))
    world.load()
    zero = replace(PAID, missing=Missing.ZERO)
    asked = query(zero, COST)
    paid, cost = measure_units(
        world.lake, MODEL, asked, [MeasuredMetric(None, 0.5), MeasuredMetric(None, 0.9)]
    )
    assert paid is not None and cost is not None
    assert (paid.units, paid.cap, paid.value) == (100, 2.5, 0.08)
    assert (cost.cap, cost.value) == (None, 0.01)
    spent = Primary.model_validate(
        {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%", "winsorise": 0.9}
    )
    constants = register(spent, Experiment(primary=spent), {"cost": cost}, origin="a history")
    assert constants is not None
    assert (
        constants.origin == "a history; nothing is capped, since `winsorise: 0.9` would make all values one"
    )


def test_a_unit_counts_once_its_window_has_passed(world: World) -> None:
    world.seen("early", "1", at=MINUTE)
    world.seen("late", "1", at=30 * MINUTE)
    world.load()

    def counted(watermark: timedelta) -> float:
        return sum(
            cell.champion.n
            for cell in collect(world.lake, MODEL, query(LATE, watermark=START + watermark)).cells
        )

    assert counted(HOUR) == 0
    assert counted(HOUR + MINUTE) == 1
    assert counted(2 * HOUR) == 2
    (errors,) = collect(world.lake, MODEL, query(ERRORS, watermark=START + HOUR)).cells
    assert errors.champion.n == 2, "a request's own error is known at once"


def test_outcomes_outside_the_window_do_not_count(world: World) -> None:
    world.seen("a", "1", at=10 * MINUTE)
    for at in (9 * MINUTE, 71 * MINUTE):
        world.came_of("a", at=at, cost=100.0)
    for at in (10 * MINUTE - timedelta(seconds=4), 70 * MINUTE):
        world.came_of("a", at=at, cost=1.0)
    (cell,) = world.cells(COST)
    assert cell.champion.sy == 2.0


def test_failures_and_slow_answers(world: World) -> None:
    slow = MetricQuery(name="slow", kind=UnitValue.ANY, source="serving.over_slo", slo_ms=100.0)
    world.seen("a", "1", latency_ms=100.0)
    world.seen("b", "1", latency_ms=101.0)
    world.seen("c", "2", status=500, latency_ms=500.0)
    errors, slowness = world.cells(ERRORS, slow)
    assert (errors.champion[:2], errors.challenger[:2]) == ((2, 0), (1, 1))
    assert (slowness.champion[:2], slowness.challenger[:2]) == ((2, 1), (1, 1))


@pytest.mark.parametrize("by_request", [True, False])
def test_a_request_that_every_attempt_failed_is_no_versions_error(world: World, by_request: bool) -> None:
    """As in the live counters; of an attempt that was not logged nothing is known, and the failure stays one."""
    a_second = timedelta(seconds=1)
    for call, unit, statuses in (
        ("refused", "u1", (400, 400)),
        ("good", "u2", (400, 200)),
        ("once", "u3", (500,)),
    ):
        for number, status in enumerate(statuses):
            version, at = "2" if number == 0 else "1", MINUTE + number * a_second
            world.seen(f"{call}{number}", version, at=at, call=call, unit=unit, status=status)
    for number in (1, 2):
        world.seen(
            f"champion{number}", "1", call="champion", unit="u4", status=422, at=MINUTE + number * a_second
        )
    (cell,) = world.cells(ERRORS, by_request=by_request)
    assert (cell.challenger.n, cell.challenger.sy) == (3, 2)
    assert (cell.champion.n, cell.champion.sy) == (1, 0)


def test_a_failure_that_was_retried_on_the_champion_is_the_challengers(world: World) -> None:
    world.seen("a", "2", at=MINUTE, status=500)
    world.seen("a", "1", at=MINUTE + timedelta(seconds=1))
    (cell,) = world.cells(ERRORS)
    assert cell.champion.n == 0
    assert cell.challenger[:2] == (1, 1)


def test_a_call_that_was_asked_again_counts_once_in_a_look_by_the_attempt_that_its_caller_got(
    world: World,
) -> None:
    """A frozen champion, or canary, that answers late all the same leaves two records of one call."""
    cost_per_mile = MetricQuery(
        name="per_mile", kind=UnitValue.RATIO, source="outcomes.cost", denominator="predictions.distance"
    )
    score = MetricQuery(name="score", kind=UnitValue.AMOUNT, source="predictions.outputs.probability")
    for version in ("1", "2"):
        for call, at, by, probability in (
            ("late", MINUTE, version, 1.0),
            ("late", MINUTE + timedelta(seconds=1), "1", 0.25),
            ("other", 2 * MINUTE, version, 0.75),
        ):
            world.seen(
                f"{call}{version}", by, at=at, unit=f"u{version}", outputs={"probability": [probability]},
                inputs={"distance": [2.0], "origin": ["JFK"]},
            )  # fmt: skip
        world.came_of(f"u{version}", at=3 * MINUTE, cost=3.0)
    crossed = {"steps": (StepWindow(START, START + HOUR, 0),), "by_request": False}
    miles, scores = world.cells(cost_per_mile, score, **crossed)
    for side in ("champion", "challenger"):
        counted = getattr(miles, side)
        assert (counted.n, counted.sy, counted.sd) == (1, 3.0, 4.0), side
        assert getattr(scores, side)[:2] == (1, 0.5), side
    assert collect(world.lake, MODEL, query(score, **crossed)).coverage.crossovers == 0


def test_prediction_columns_covariates_and_ratios(world: World) -> None:
    ratio = MetricQuery(
        name="per_mile", kind=UnitValue.RATIO, source="outcomes.cost", denominator="predictions.distance",
        covariate="predictions.features.distance", covariate_reference=1.0,
    )  # fmt: skip
    score = MetricQuery(name="score", kind=UnitValue.AMOUNT, source="predictions.outputs.probability")
    world.seen("a", "1", inputs={"distance": [2.0], "origin": ["JFK"]}, outputs={"probability": [0.25]})
    world.seen("b", "1", inputs={"distance": [4.0], "origin": ["JFK"]}, status=500)
    world.came_of("a", cost=3.0)
    world.came_of("b", cost=5.0)
    miles, scores = world.cells(ratio, score)
    assert miles.champion == Sums(2, 8, 34, 6, 20, 26, sx=4, sxx=10, sxy=18, sxd=14)
    assert scores.champion[:3] == (1, 0.25, 0.0625)


def test_pinned_shadow_and_other_versions_do_not_count(world: World) -> None:
    world.seen("a", "1")
    world.seen("b", "1", assignment="pinned")
    world.seen("c", "2", assignment="shadow")
    world.seen("d", "3")
    world.seen("e", "1", at=3 * HOUR)
    (cell,) = world.cells(ERRORS)
    assert (cell.champion.n, cell.challenger.n) == (1, 0)


def test_moving_with_the_ramp_is_not_crossing_over(world: World) -> None:
    world.seen("1", "1", unit="moved", at=MINUTE)
    world.seen("2", "2", unit="moved", at=HOUR + MINUTE)
    world.seen("3", "1", unit="crossed", at=MINUTE)
    world.seen("4", "2", unit="crossed", at=2 * MINUTE)
    world.seen("5", "2", unit="back", at=MINUTE)
    world.seen("6", "1", unit="back", at=HOUR + MINUTE)
    world.seen("7", "2", unit="retried", at=MINUTE, status=500)
    world.seen("7", "1", unit="retried", at=MINUTE + timedelta(seconds=1))
    world.seen("8", "1", unit="new", at=HOUR + MINUTE)
    world.seen("9", "1", unit=None)
    found = world.cells(ERRORS, by_request=False, outcome_window=2 * HOUR)
    assert [(c.step, c.champion[:2], c.challenger[:2]) for c in found] == [
        (0, (1, 0), (1, 1)),
        (1, (1, 0), (0, 0)),
    ]
    everything = collect(world.lake, MODEL, query(ERRORS, by_request=False))
    assert everything.coverage == (5, 2, 1, 1)
    assert everything.units == [LoggedUnits(0, 2, 2, 2, 2), LoggedUnits(1, 1, 0, 1, 0)]


def test_where_units_are_requests_a_callers_first_one_is_drawn_and_those_without_a_caller(
    world: World,
) -> None:
    """The gateway sends a unit id where it sent it before: its other requests say nothing of the split."""
    for number in range(5):
        world.seen(f"a{number}", "1", unit="often", at=(number + 1) * MINUTE)
        world.seen(f"b{number}", "2", unit="often too", at=(number + 1) * MINUTE)
    world.seen("c", "2", unit="often", at=HOUR + MINUTE)
    world.seen("d", "2", unit="new", at=HOUR + MINUTE)
    world.seen("e", "1", unit=None, at=HOUR + MINUTE)
    world.seen("f", "1", unit=None, at=HOUR + MINUTE)
    world.load()
    found = collect(world.lake, MODEL, query(ERRORS))
    assert found.units == [LoggedUnits(0, 5, 5, 1, 1), LoggedUnits(1, 2, 2, 2, 1)]


def test_retention(world: World) -> None:
    back = MetricQuery(
        name="back", kind=UnitValue.RETURN, source="predictions.latency_ms", retention=2 * HOUR
    )
    for unit, again in (("soon", HOUR), ("back", 2 * HOUR + MINUTE), ("too late", 4 * HOUR), ("never", None)):
        world.seen(unit, "1", unit=unit, at=MINUTE)
        if again is not None:
            world.seen(f"{unit} again", "1", unit=unit, at=again)
    (cell,) = world.cells(back, by_request=False)
    assert cell.champion[:2] == (4, 1)
    with pytest.raises(LakeError, match="retention needs units"):
        collect(world.lake, MODEL, query(back))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("predictions.nothing", "is not there; allowed: .*distance, origin, probability, latency_ms"),
        ("predictions.origin", "features.origin is VARCHAR, must be a number"),
        ("serving.nothing", "is not there"),
    ],
)
def test_sources_that_are_not_there(world: World, source: str, message: str) -> None:
    with pytest.raises(LakeError, match=message):
        world.cells(MetricQuery(name="m", kind=UnitValue.AMOUNT, source=source))


def test_queries_that_make_no_sense() -> None:
    with pytest.raises(LakeError, match="both version '1'"):
        query(challenger="1")
    with pytest.raises(LakeError, match="overlap or go back"):
        query(steps=(StepWindow(START, START + HOUR, 1), StepWindow(START + HOUR, START + 2 * HOUR, 0)))
    with pytest.raises(LakeError, match="denominator is missing"):
        MetricQuery(name="r", kind=UnitValue.RATIO, source="outcomes.cost")
    with pytest.raises(LakeError, match="slo_ms is missing"):
        MetricQuery(name="s", kind=UnitValue.ANY, source="serving.over_slo")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_against_the_rules_row_by_row(world: World, seed: int) -> None:
    """Many units on a ramp with noise: the cells are what a loop over units says."""
    draw = random.Random(seed)
    requests: list[tuple[str, str, timedelta]] = []
    for i in range(400):
        unit = f"u{draw.randrange(90)}"
        at = timedelta(seconds=draw.uniform(0, 2 * 3600 - 1))
        share = 0.2 if at < HOUR else 0.6
        noise = draw.random() < 0.02
        version = "2" if (hash_share(unit) < share) != noise else "1"
        requests.append((unit, version, at))
        world.seen(f"r{i}", version, unit=unit, at=at, latency_ms=float(i % 7))
    paid: list[tuple[str, timedelta, float]] = []
    for _ in range(300):
        unit, at, cost = (
            f"u{draw.randrange(100)}",
            timedelta(seconds=draw.uniform(0, 3 * 3600)),
            draw.uniform(0, 9),
        )
        paid.append((unit, at, cost))
        world.came_of(unit, at=at, cost=cost)
    watermark = START + 2 * HOUR
    options = {"by_request": False, "bucket": 10 * MINUTE, "watermark": watermark, "clock_skew": timedelta(0)}
    found = world.cells(COST, **options)
    expected = by_the_rules(requests, paid, watermark)
    assert len(expected) > 5
    assert {(c.step, c.bucket): (c.champion[:3], c.challenger[:3]) for c in found} == {
        key: tuple(pytest.approx(sums) for sums in sides) for key, sides in expected.items()
    }
    all_units = query(COST, **options)
    spans = {"cost": Span(START + 95 * MINUTE, watermark)}
    open_ones = replace(all_units, values_since=open_since(all_units, spans))
    valued = collect(world.lake, MODEL, open_ones).cells
    assert len(valued) < len(found)
    assert side_by_side(newly_final(valued, open_ones, spans)) == {
        key: pytest.approx(sums) for key, sums in side_by_side(newly_final(found, all_units, spans)).items()
    }


def side_by_side(found: list[Cell]) -> dict[tuple[int, float], tuple[float, ...]]:
    return {(cell.step, cell.bucket): (*cell.champion, *cell.challenger) for cell in found}


def hash_share(unit: str) -> float:
    return random.Random(unit).random()


def by_the_rules(
    requests: list[tuple[str, str, timedelta]], paid: list[tuple[str, timedelta, float]], watermark: datetime
) -> dict[tuple[int, float], list[tuple[float, float, float]]]:
    """n, sum and sum of squares per (step, bucket), champion and challenger."""
    cells: dict[tuple[int, float], list[tuple[float, float, float]]] = {}
    for unit in sorted({unit for unit, _, _ in requests}):
        own = sorted((at, version) for u, version, at in requests if u == unit)
        champion_steps = [int(at >= HOUR) for at, version in own if version == "1"]
        challenger_steps = [int(at >= HOUR) for at, version in own if version == "2"]
        if champion_steps and challenger_steps and max(champion_steps) >= min(challenger_steps):
            continue
        exposed, version = own[0]
        costs = [cost for u, at, cost in paid if u == unit and exposed <= at <= exposed + HOUR]
        if START + exposed + HOUR > watermark or not costs:
            continue
        bucket = START.timestamp() + exposed // (10 * MINUTE) * 600
        sides = cells.setdefault((int(exposed >= HOUR), bucket), [(0, 0, 0), (0, 0, 0)])
        n, sy, syy = sides[version == "2"]
        sides[version == "2"] = (n + 1, sy + sum(costs), syy + sum(costs) ** 2)
    return cells


def test_outcomes_find_a_request_by_its_callers_id_and_one_of_several_requests_counts_for_none(
    lake: Lake, log: Log
) -> None:
    world = World(lake, log)
    for number, version in enumerate(("1", "2"), start=1):
        world.seen(f"record-{number}", version, call=f"call-{number}", caller=f"own-{number}")
        world.seen(f"batch-{number}", version, call=f"batch-call-{number}", caller="batch")
    world.seen("retried", "1", call="call-2", caller="own-2", at=2 * MINUTE)
    world.came_of("own-1", paid=3)
    world.came_of("own-2", paid=5, at=3 * MINUTE)
    world.came_of("batch", paid=100)
    (cell,) = world.cells(PAID)
    assert (cell.champion.n, cell.champion.sy) == (1, 3)
    assert (cell.challenger.n, cell.challenger.sy) == (1, 5)
    left_out = outcome_quality(lake, MODEL, query(PAID))
    assert (left_out.keys, left_out.unknown, left_out.ambiguous) == (3, 0, 1)
    assert "1 outcome keys name several requests" in left_out.sentence


def test_a_column_of_either_side_is_read_whatever_it_is_called(lake: Lake, log: Log) -> None:
    """The same name on both sides is told apart by the side; case does not count."""
    both = Column("score of $x", "double"), Column("It's {x}", "double")
    log.segment(
        "1",
        *prediction("a", at=MINUTE, inputs={"score of $x": [1.0], "It's {x}": [2.0]}, outputs={"score of $x": [4.0], "It's {x}": [8.0]}),
    )  # fmt: skip
    ingest_predictions(lake, MODEL, ModelSchema(both, both), log.predictions)
    sources = {
        "predictions.features.score of $x": 1.0, "predictions.features.it's {x}": 2.0,
        "predictions.outputs.Score Of $x": 4.0, "predictions.outputs.It's {x}": 8.0,
    }  # fmt: skip
    metrics = [
        MetricQuery(name=f"m{i}", kind=UnitValue.AMOUNT, source=source) for i, source in enumerate(sources)
    ]
    found = {cell.metric: cell.champion.sy for cell in collect(lake, MODEL, query(*metrics)).cells}
    assert list(found.values()) == list(sources.values())
    one = MetricQuery(name="m", kind=UnitValue.AMOUNT, source="predictions.score of $x")
    with pytest.raises(
        LakeError, match=r"is both: write predictions\.features\.score of \$x or predictions\.outputs"
    ):
        collect(lake, MODEL, query(one))
