"""A look: conclusions and words from cells, and what it refuses."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.look import Look, analyse
from pipelines.core.statistics.look_spec import Conclusion, Direction, LookSpec, MetricSpec
from pipelines.core.statistics.metric_look import MetricLook, odds
from pipelines.core.statistics.power import SequentialMethod
from pipelines.core.statistics.srm import StepUnits

ERRORS = MetricSpec(name="errors", kind=EffectKind.PROPORTION, margin=0.005)

COST = MetricSpec(name="cost", kind=EffectKind.MEAN, mde=0.05, is_primary=True)

SHARES = {0: 0.1, 1: 0.5}


def arm(n: float, y: float) -> Sums:
    return Sums(n=n, sy=y, syy=y)


def proportion_cells(
    rate1: float, rate0: float, *, name: str = "errors", units: int = 500, buckets: int = 40, seed: int = 0
) -> list[Cell]:
    """A ramp 10 % -> 50 % with a base rate that falls by half at the second step."""
    rng = np.random.default_rng(seed)
    cells = list[Cell]()
    for step, share in SHARES.items():
        for bucket in range(buckets):
            n1 = int(rng.binomial(units, share))
            x1 = rng.binomial(n1, rate1 / (1 + step))
            x0 = rng.binomial(units - n1, rate0 / (1 + step))
            cells.append(Cell(name, step, 1e9 * step + 60.0 * bucket, arm(units - n1, x0), arm(n1, x1)))
    return cells


def mean_cells(mean1: float, mean0: float, *, buckets: int = 40, reference: float = 0.0) -> list[Cell]:
    rng = np.random.default_rng(1)
    cells = list[Cell]()
    for step, share in SHARES.items():
        for bucket in range(buckets):
            n1 = int(rng.binomial(500, share))
            y1 = rng.gamma(4, mean1 / 4, n1) - reference
            y0 = rng.gamma(4, mean0 / 4, 500 - n1) - reference
            one, zero = (Sums(len(y), float(y.sum()), float((y * y).sum())) for y in (y1, y0))
            cells.append(Cell("cost", step, 60.0 * bucket, zero, one, reference))
    return cells


def look(cells: list[Cell], *metrics: MetricSpec, **changes: object) -> Look:
    return analyse(cells, LookSpec(metrics=metrics, shares=SHARES, **changes))  # type: ignore[arg-type]


def test_an_equal_version_is_non_inferior_and_promotable() -> None:
    found = look(proportion_cells(0.01, 0.01) + mean_cells(5, 5), COST, ERRORS)
    assert [metric.conclusion for metric in found.metrics] == [Conclusion.NON_INFERIOR] * 2
    assert found.is_promotable
    assert found.harmful == ()
    assert found.primary is found.metrics[0]
    assert "Not worse by more than the accepted" in found.sentences[0]


def test_a_failing_version_is_harmful() -> None:
    found = look(proportion_cells(0.03, 0.01, buckets=5) + mean_cells(5, 5), COST, ERRORS)
    assert found.harmful == ("errors",)
    assert not found.is_promotable
    (sentence,) = (line for line in found.sentences if line.startswith("errors"))
    assert "The challenger is worse: evidence of harm" in sentence


@pytest.mark.parametrize("better", list(Direction))
def test_direction_decides_what_harm_is(better: Direction) -> None:
    cost = dataclasses.replace(COST, better=better)
    worse, improved = (5.6, 4.4) if better is Direction.LOWER else (4.4, 5.6)
    assert look(mean_cells(worse, 5), cost).metrics[0].conclusion is Conclusion.WORSE
    assert look(mean_cells(improved, 5), cost).metrics[0].conclusion is Conclusion.BETTER


@pytest.mark.parametrize("baseline", [None, 0.1, 0.45, 0.9])
def test_fewer_conversions_are_harm_at_any_base_rate(baseline: float | None) -> None:
    rate = baseline or 0.1
    spec = MetricSpec(
        name="errors", kind=EffectKind.PROPORTION, better=Direction.HIGHER, mde=0.05, baseline=baseline
    )
    lost = proportion_cells(0.8 * rate, rate)
    gained = proportion_cells(min(1.25 * rate, 1.0), rate)
    assert look(lost, spec).metrics[0].conclusion is Conclusion.WORSE
    assert look(gained, spec).metrics[0].conclusion is Conclusion.BETTER


def likely(name: str) -> list[Cell]:
    """Some evidence of harm, the same for each."""
    return [Cell(name, 0, float(k), arm(450, 1), arm(50, k % 4 == 0)) for k in range(30)]


def test_evidence_of_metrics_that_mature_together_adds_up_and_others_does_not() -> None:
    names = ("a", "b", "c")
    cells = [cell for name in names for cell in likely(name)]
    metrics = [MetricSpec(name=name, kind=EffectKind.PROPORTION, margin=0.005) for name in names]
    one = math.exp(look(likely("a"), metrics[0]).metrics[0].harm.value)
    alpha = 3 / (2.5 * one)  # m / alpha: what takes all three
    together = look(cells, *metrics, alpha=alpha)
    assert together.harmful == names
    assert (
        f"evidence of harm {odds(math.log(one))} to 1, {odds(math.log(3 * one))} to 1 with that of other metrics"
        in together.sentences[0]
    )
    parts = [dataclasses.replace(metric, part=metric.name) for metric in metrics]
    assert look(cells, *parts, alpha=alpha).harmful == ()
    assert all(metric.harm.together is None for metric in look(cells, *parts, alpha=alpha).metrics)


def test_what_is_tested_elsewhere_is_shown_and_never_crosses() -> None:
    spec = dataclasses.replace(ERRORS, part=None)
    found = look(proportion_cells(0.03, 0.01), spec).metrics[0]
    assert found.harm.value > math.log(1e6)
    assert not found.harm.is_crossed
    assert "tested on the live counters" in found.sentence


def noisy(seed: int, noise: float) -> list[Cell]:
    """Normal values; each arm's mean moves by `noise` standard deviations from bucket to bucket."""
    rng = np.random.default_rng(seed)

    def sums(n: int) -> Sums:
        y = rng.normal(1 + noise * rng.normal(), 1, n)
        return Sums(n, float(y.sum()), float((y * y).sum()))

    return [Cell("cost", 0, float(k), sums(450), sums(50)) for k in range(48)]


def test_noise_of_a_version_of_its_own_is_said_and_chance_is_not() -> None:
    said = [look(noisy(seed, 0.5), COST).metrics[0] for seed in range(5)]
    assert all(metric.dispersion is not None and metric.dispersion > 3 for metric in said)
    assert all("as much over time as chance explains" in metric.sentence for metric in said)
    assert all(look(noisy(seed, 0.0), COST).metrics[0].dispersion is None for seed in range(40))
    assert look(noisy(0, 0.5)[:11], COST).metrics[0].dispersion is None


@pytest.mark.parametrize("kind", [EffectKind.MEAN, EffectKind.RATIO])
def test_a_mean_that_gets_worse_late_is_found_without_winning_back_what_was_lost(kind: EffectKind) -> None:
    """A thousand buckets without any difference, then .3 standard deviations."""

    def bucket(k: int) -> Cell:
        mean = 10.3 if k >= 1000 else 10.0
        zero, one = ((n, n * m, n * (1 + m * m)) for n, m in ((90.0, 10.0), (10.0, mean)))
        return Cell("cost", 0, float(k), *(Sums(n, y, yy, n, n, y) for n, y, yy in (zero, one)))

    spec = dataclasses.replace(COST, kind=kind, margin=0.3)
    cells = [bucket(k) for k in range(1200)]
    assert look(cells[:1000], spec).harmful == ()
    found = [more for more in range(10, 200, 10) if look(cells[: 1000 + more], spec).harmful]
    assert found[0] <= 50, "150 buckets by a test that must overcome them"


def test_zero_events_can_prove_a_margin() -> None:
    found = look(proportion_cells(0.0, 0.0), ERRORS).metrics[0]
    assert found.conclusion is Conclusion.NON_INFERIOR
    assert found.worst is not None
    assert 0 < found.worst < 0.005
    assert found.relative is None


def test_simpson_ramp_is_no_harm_by_any_method() -> None:
    cells = [
        Cell("errors", 0, 0.0, arm(9900, 990), arm(100, 10)),
        Cell("errors", 1, 1.0, arm(5000, 2500), arm(5000, 2500)),
    ]
    for baseline in (None, 0.4):
        spec = dataclasses.replace(ERRORS, baseline=baseline)
        found = look(cells, spec).metrics[0]
        assert found.harm.value < 0
        assert found.effect == pytest.approx(0, abs=1e-12)


def test_too_little_is_not_yet() -> None:
    few = [Cell("cost", 0, 0.0, Sums(20, 100, 600), Sums(3, 15, 90))]
    found = look(few, COST, ERRORS)
    assert [metric.conclusion for metric in found.metrics] == [Conclusion.NOT_YET] * 2
    assert "too few to judge" in found.sentences[0]
    assert "there are no units of both versions" in found.sentences[1]
    assert not found.is_promotable


@pytest.mark.parametrize("value", [0.1, 3.0, 0.0])
@pytest.mark.parametrize("reference", [0.0, 0.1])
@pytest.mark.parametrize("method", list(SequentialMethod))
def test_equal_constants_are_within_any_margin_and_are_never_unknown(
    value: float, reference: float, method: SequentialMethod
) -> None:
    def constant(n: int) -> Sums:
        y = value - reference
        return Sums(n=n, sy=n * y, syy=n * y * y)

    def seen(champion: int, challenger: int) -> MetricLook:
        cells = [
            Cell("cost", 0, 0.0, constant(champion), constant(challenger), reference),
            Cell("cost", 1, 1.0, constant(champion), constant(challenger), reference),
        ]
        spec = dataclasses.replace(COST, margin=1e-9, method=method, planned_information=1e3)
        return look(cells, spec).metrics[0]

    few, many = seen(1000, 100), seen(50_000, 50_000)
    assert (few.conclusion, many.conclusion) == (Conclusion.NOT_YET, Conclusion.NON_INFERIOR)
    assert "it takes 410 of each version to call them equal" in few.sentence
    assert f"cost: {value:g} at every one of 100,000 challenger and 100,000 champion units" in many.sentence
    assert "Equal values are within any margin." in many.sentence
    assert not few.harm.is_crossed and not many.harm.is_crossed


def test_different_constants_are_a_difference() -> None:
    cells = [Cell("cost", 0, 0.0, Sums(5000, 15_000, 45_000), Sums(5000, 20_000, 80_000))]
    found = look(cells, COST).metrics[0]
    assert found.conclusion is Conclusion.WORSE and found.effect == 1.0


def test_a_reference_changes_nothing() -> None:
    plain, referred = (look(mean_cells(5.1, 5, reference=r), COST).metrics[0] for r in (0.0, 5.0))
    assert referred.champion == pytest.approx(plain.champion)
    assert referred.interval == pytest.approx(plain.interval)
    assert referred.harm.value == pytest.approx(plain.harm.value)


def test_units_and_sample_ratio() -> None:
    cells = mean_cells(5, 5)
    found = look(cells, COST)
    assert [unit.step for unit in found.units] == [0, 1]
    assert found.srm is not None
    assert not found.srm.is_mismatch
    broken = (StepUnits(0, 20_000, 1_500, 0.1),)
    spec = LookSpec(metrics=(COST,), shares=SHARES, is_final=True)
    mismatched = analyse(cells, spec, units=broken)
    assert mismatched.srm is not None
    assert mismatched.srm.is_mismatch
    assert mismatched.srm.p is not None
    assert not mismatched.is_promotable
    assert "no comparison can be trusted" in mismatched.sentences[-1]


def test_without_planned_shares_nothing_is_promotable() -> None:
    found = analyse(mean_cells(4, 5), LookSpec(metrics=(COST,)))
    assert found.metrics[0].conclusion is Conclusion.BETTER
    assert found.srm is None
    assert not found.is_promotable


def test_more_tests_on_the_budget_ask_for_more_evidence() -> None:
    cells = proportion_cells(0.012, 0.01)
    one, many = (look(cells, ERRORS, tests=m).metrics[0].harm for m in (1, 20))
    assert one.value == many.value
    assert many.boundary - one.boundary == pytest.approx(math.log(20))


def test_group_sequential_looks_spend_their_error() -> None:
    spec = dataclasses.replace(COST, method=SequentialMethod.GROUP_SEQUENTIAL, planned_information=2500.0)
    first = look(mean_cells(5, 5, buckets=10), spec).metrics[0]
    assert first.fraction is not None
    assert 0 < first.fraction < 1
    assert first.harm.scale == "z"
    assert first.harm.boundary > 3
    later = dataclasses.replace(spec, past_fractions=(first.fraction,))
    second = look(mean_cells(5, 5), later).metrics[0]
    assert second.harm.boundary < first.harm.boundary
    assert look(mean_cells(5.5, 5), later).metrics[0].conclusion is Conclusion.WORSE
    same = look(mean_cells(5, 5, buckets=10), later).metrics[0]
    assert same.conclusion is Conclusion.NOT_YET
    assert same.interval is None


def test_covariate_narrows_the_interval() -> None:
    rng = np.random.default_rng(2)

    def sums(n: int) -> Sums:
        x = rng.normal(0, 2, n)
        y = 5 + x + rng.normal(0, 0.5, n)
        return Sums(n, *(float(c.sum()) for c in (y, y * y, y * 0 + 1, y * 0 + 1, y, x, x * x, x * y, x)))

    cells = [Cell("cost", 0, float(b), sums(900), sums(100)) for b in range(10)]
    plain = look(cells, COST).metrics[0].interval
    tight = look(cells, dataclasses.replace(COST, use_covariate=True)).metrics[0].interval
    assert plain is not None
    assert tight is not None
    assert tight.high - tight.low < 0.4 * (plain.high - plain.low)


def test_a_covariate_that_the_answer_had_a_part_in_is_left_aside_and_hides_no_effect() -> None:
    """An input that follows from an earlier answer, say: it differs between the versions as the metric does."""
    rng = np.random.default_rng(2)

    def sums(n: int, effect: float, *, through: bool) -> Sums:
        x = rng.normal(effect if through else 0, 1, n)
        y = 0.9 * x + rng.normal(0 if through else effect, 0.4, n)
        return Sums(n, *(float(c.sum()) for c in (y, y * y, y * 0 + 1, y * 0 + 1, y, x, x * x, x * y, x)))

    adjusted = MetricSpec(name="cost", kind=EffectKind.MEAN, margin=0.1, use_covariate=True)
    for through in (False, True):
        cells = [
            Cell("cost", 0, float(b), sums(1800, 0.0, through=through), sums(200, 0.3, through=through))
            for b in range(10)
        ]
        found = look(cells, adjusted).metrics[0]
        assert found.conclusion is Conclusion.WORSE
        assert found.covariate_differs is through
        assert ("Compared without its covariate" in found.sentence) is through
        assert found.effect == pytest.approx(0.9 * 0.3 if through else 0.3, abs=0.05)


RATIO = MetricSpec(name="per_visit", kind=EffectKind.RATIO, margin=0.5)


@pytest.mark.parametrize(
    "denominators",
    [
        pytest.param(lambda rng, n: np.zeros(n), id="all 0"),
        pytest.param(lambda rng, n: np.r_[1.0, np.zeros(n - 1)], id="of one unit alone"),
        pytest.param(lambda rng, n: rng.normal(0, 1, n), id="of both signs"),
        pytest.param(lambda rng, n: np.full(n, -1.0), id="negative"),
    ],
)
@pytest.mark.parametrize("method", [SequentialMethod.ANYTIME, SequentialMethod.GROUP_SEQUENTIAL])
def test_a_ratio_whose_denominators_may_add_up_to_0_at_either_version_says_so_and_is_not_yet(
    denominators: Callable[[np.random.Generator, int], np.ndarray], method: SequentialMethod
) -> None:
    rng = np.random.default_rng(4)
    spec = dataclasses.replace(RATIO, method=method, planned_information=100.0)

    def sums(d: np.ndarray) -> Sums:
        y = rng.normal(3, 1, d.size)
        return Sums(d.size, *(float(c.sum()) for c in (y, y * y, d, d * d, y * d)))

    sound, vanishing = sums(np.ones(500)), sums(denominators(rng, 500))
    for arms in ((sound, vanishing), (vanishing, sound), (vanishing, vanishing)):
        (found,) = look([Cell("per_visit", 0, 0.0, *arms)], spec).metrics
        assert (found.conclusion, found.effect, found.harm.is_crossed) == (Conclusion.NOT_YET, None, False)
        assert "not yet, what it is divided by is not clearly above 0" in found.sentence
        assert "of 500 and 500 units" in found.sentence
    (found,) = look([Cell("per_visit", 0, 0.0, sound, sound)], spec).metrics
    assert found.effect == 0.0


@pytest.mark.parametrize(
    ("champion", "message"),
    [
        (arm(100, math.nan), "errors, champion: sy, syy not finite in 1 bucket"),
        (arm(math.inf, 1), "n not finite"),
        (arm(-5, 0), "n == -5, must not be negative"),
        (Sums(n=10, sy=11, syy=200), "11 events in 10 units"),
        (Sums(n=10, sy=-1, syy=1), "-1 events in 10 units"),
        (Sums(n=10, sy=9, syy=1), "above n times sum of y"),
    ],
)
def test_impossible_cells_are_refused(champion: Sums, message: str) -> None:
    with pytest.raises(NotMeasured, match=message):
        look([Cell("errors", 0, 0.0, champion, arm(10, 1))], ERRORS)


def test_double_counting_and_unknown_metrics_are_refused() -> None:
    cell = Cell("errors", 0, 0.0, arm(10, 1), arm(10, 1))
    with pytest.raises(NotMeasured, match="counted twice"):
        look([cell, cell], ERRORS)
    with pytest.raises(NotMeasured, match="cells of errors, must be of cost"):
        look([cell], COST)
    with pytest.raises(NotMeasured, match="2 reference values"):
        look([cell, cell._replace(bucket=1.0, reference=0.1)], ERRORS)


def test_bad_specs_are_refused() -> None:
    with pytest.raises(ParameterError, match="neither margin nor mde"):
        MetricSpec(name="errors", kind=EffectKind.PROPORTION)
    with pytest.raises(ParameterError, match="margin == -1"):
        MetricSpec(name="errors", kind=EffectKind.PROPORTION, margin=-1)
    with pytest.raises(ParameterError, match="needs planned_information"):
        MetricSpec(name="cost", kind=EffectKind.MEAN, mde=0.1, method=SequentialMethod.GROUP_SEQUENTIAL)
    with pytest.raises(ParameterError, match="all different"):
        LookSpec(metrics=(COST, COST))
    with pytest.raises(ParameterError, match="more than one primary"):
        LookSpec(metrics=(COST, dataclasses.replace(COST, name="other")))


def test_order_of_cells_does_not_matter() -> None:
    cells = proportion_cells(0.012, 0.01) + mean_cells(5, 5)
    assert look(cells, COST, ERRORS) == look(cells[::-1], COST, ERRORS)


@pytest.mark.parametrize("better", Direction)
@pytest.mark.parametrize("rate", [0.002, 0.05, 0.4, 0.97])
def test_a_coarse_look_at_a_proportion_decides_as_the_full_one(better: Direction, rate: float) -> None:
    rng = np.random.default_rng(round(1e4 * rate))
    decided = set[Conclusion]()
    for look in range(40):
        margin, scale = rng.choice([0.005, 0.05]), rng.choice([0.8, 1.0, 1.3])
        n0, n1 = (int(units) for units in rng.choice([300, 3_000, 30_000], 2))
        cells = [
            Cell("m", 0, bucket, *(arm(n, rng.binomial(n, p)) for n, p in ((n0, rate), (n1, min(scale * rate, 0.99)))))
            for bucket in range(4)
        ]  # fmt: skip
        spec = MetricSpec(name="m", kind=EffectKind.PROPORTION, better=better, margin=margin, baseline=rate)
        full, coarse = (
            analyse(cells, LookSpec(metrics=(dataclasses.replace(spec, is_coarse=is_coarse),))).metrics[0]
            for is_coarse in (False, True)
        )
        assert (full.harm, full.effect) == (coarse.harm, coarse.effect), look
        assert full.is_within_margin is coarse.is_within_margin, (look, full, coarse)
        expected = Conclusion.NON_INFERIOR if full.conclusion is Conclusion.BETTER else full.conclusion
        assert coarse.conclusion is expected
        decided.add(coarse.conclusion)
    assert {Conclusion.NON_INFERIOR, Conclusion.NOT_YET} <= decided
