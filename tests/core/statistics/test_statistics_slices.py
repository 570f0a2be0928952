"""Slices: the metric's money spread over all units and parts of them is still a fair bet, and tells where the harm is."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.inputs import Array, ParameterError
from pipelines.core.statistics.look import Look, analyse
from pipelines.core.statistics.look_spec import Conclusion, Direction, LookSpec, MetricSpec
from pipelines.core.statistics.metric_look import MetricLook
from pipelines.core.statistics.power import SequentialMethod
from pipelines.core.statistics.slices import (
    FEWEST_UNITS,
    PART,
    Slice,
    SliceColumn,
    Sliced,
    SliceSums,
    log_weights,
    slices_of,
)

CARRIER, ORIGIN = SliceColumn("carrier", ("AA", "BB", "CC")), SliceColumn("origin", ("JFK", "LAX"))

EMPTY = 2
"""Slices of each column that hold nobody here: other values, and none."""


def spec(kind: EffectKind = EffectKind.PROPORTION, **changes: object) -> MetricSpec:
    made = MetricSpec(name="m", kind=kind, margin=0.1, planned_information=4_000.0, sliced_part="now")
    return replace(made, **changes)  # type: ignore[arg-type]


def arm(rng: np.random.Generator, units: int, rates: Array, batches: int, kind: EffectKind) -> Array:
    """Sums of a slice each, shape (slices, batches, 10): 0 or 1 per unit, or skewed and divided by 1 or 2."""
    found = np.zeros((len(rates), batches, 10))
    for place, rate in enumerate(rates):
        y = (rng.random((batches, units)) < rate).astype(float)
        d = np.ones_like(y)
        if kind is not EffectKind.PROPORTION:
            y *= rng.lognormal(0, 0.5, y.shape)
        if kind is EffectKind.RATIO:
            d += rng.random(y.shape) < 0.5
        columns = (np.ones_like(y), y, y * y, d, d * d, y * d)
        found[place, :, :6] = np.stack([each.sum(axis=1) for each in columns], axis=-1)
    return found


def sums(
    rng: np.random.Generator, worse: dict[int, float], *, batches: int, kind: EffectKind, units: int = 60
) -> SliceSums:
    """Three carriers with a rate of .2 each; at the challenger's `worse` ones it is as given."""
    rates = np.array([worse.get(place, 0.2) for place in range(3)])
    champion = arm(rng, 3 * units, np.full(3, 0.2), batches, kind)
    challenger = arm(rng, units, rates, batches, kind)
    nobody = np.zeros((EMPTY, batches, 10))
    return SliceSums(
        np.zeros(batches), np.concatenate([champion, nobody]), np.concatenate([challenger, nobody])
    )


def upto(given: SliceSums, batches: int) -> SliceSums:
    return SliceSums(
        given.steps[:batches], given.champion[:, :batches], given.challenger[:, :batches], given.reference
    )


def cells(given: SliceSums, name: str = "m") -> list[Cell]:
    """All units together: each is in one of the column's slices."""
    zero, one = given.champion.sum(axis=0), given.challenger.sum(axis=0)
    return [Cell(name, 0, float(b), Sums(*zero[b]), Sums(*one[b])) for b in range(len(zero))]


def looked(
    given: SliceSums, *, columns: tuple[SliceColumn, ...] = (CARRIER,), **changes: object
) -> MetricLook:
    kind = changes.pop("kind", EffectKind.PROPORTION)
    asked = LookSpec(metrics=(spec(kind, **changes),), tests=20)  # type: ignore[arg-type]
    return analyse(cells(given), asked, sliced=Sliced(columns, {"m": given})).metrics[0]


def alone(given: SliceSums, place: int, kind: EffectKind) -> float:
    """ln e-value of one slice, as a metric of its own without slices."""
    part = SliceSums(given.steps, given.champion[[place]], given.challenger[[place]])
    wider = spec(kind, planned_information=4_000.0 / (3 + EMPTY))
    return analyse(cells(part), LookSpec(metrics=(wider,), tests=20)).metrics[0].harm.value


every_kind = pytest.mark.parametrize("kind", EffectKind)


@every_kind
def test_the_evidence_is_the_weighted_sum_of_that_of_all_units_and_of_each_slice(kind: EffectKind) -> None:
    given = sums(np.random.default_rng(1), {1: 0.25}, batches=6, kind=kind, units=int(FEWEST_UNITS))
    found = looked(given, kind=kind)
    whole = analyse(cells(given), LookSpec(metrics=(spec(kind),), tests=20)).metrics[0].harm.value
    each = [*(math.exp(alone(given, place, kind)) for place in range(3)), *[1.0] * EMPTY]
    wanted = (1 - PART) * math.exp(whole) + PART * sum(each) / len(each)
    assert found.harm.value == pytest.approx(math.log(wanted), rel=1e-6)
    assert found.log_e == found.harm.value


def test_the_weights_are_fixed_beforehand_and_add_up_to_all_of_the_money() -> None:
    both = (CARRIER, ORIGIN)
    assert np.exp(log_weights(both)).sum() == pytest.approx(1.0)
    assert len(log_weights(both)) == len(slices_of(both)) == 5 + 4
    assert log_weights(()).size == 0
    words = [each.words for each in slices_of((SliceColumn("c", ("x", " ", "a\nb")),))]
    assert words == ["c is x", "c is ' '", "c is 'a\\nb'", "c is any other value", "c is missing"]


def test_without_units_or_slices_nothing_is_lost_but_the_part_that_waits_as_cash() -> None:
    given = sums(np.random.default_rng(2), {}, batches=4, kind=EffectKind.PROPORTION)
    asked = LookSpec(metrics=(spec(),), tests=20)
    whole = analyse(cells(given), asked).metrics[0].harm.value
    cash = analyse(cells(given), asked, sliced=Sliced((CARRIER,), {})).metrics[0]
    assert cash.harm.value == pytest.approx(math.log((1 - PART) * math.exp(whole) + PART))
    assert cash.slices is not None and cash.slices.named == ()
    assert "slice" not in cash.sentence


@every_kind
def test_a_harmless_versions_evidence_has_a_mean_of_at_most_1_at_every_look(kind: EffectKind) -> None:
    rng, runs, looks = np.random.default_rng(3), 60, (2, 6)
    reached = np.zeros((runs, len(looks)))
    for run in range(runs):
        given = sums(rng, {}, batches=looks[-1], kind=kind, units=30)
        found = [looked(upto(given, look), kind=kind).harm.value for look in looks]
        reached[run] = np.exp(found)
    error = reached.std(axis=0) / math.sqrt(runs)
    assert (reached.mean(axis=0) <= 1 + 3 * error).all()
    assert (reached.max(axis=1) >= 10).mean() <= 0.1, "Ville, peeking"


@every_kind
def test_harm_in_one_slice_is_found_sooner_than_in_all_units_and_named(kind: EffectKind) -> None:
    given = sums(np.random.default_rng(4), {1: 0.6}, batches=8, kind=kind)
    found = looked(given, kind=kind)
    assert found.slices is not None
    first = found.slices.named[0]
    assert first.where == Slice("carrier", "BB")
    assert first.share == pytest.approx(1 / 3)
    assert first.challenger > 2 * first.champion > 0
    assert (found.slices.is_local, found.slices.count) == (True, 5)
    assert "It is where carrier is BB (33 % of the units): " in found.sentence
    assert "the price of looking at 5 slices is paid" in found.sentence


def test_harm_that_is_everywhere_is_told_to_be_in_no_slice_alone() -> None:
    worse = dict.fromkeys(range(3), 0.5)
    given = sums(np.random.default_rng(5), worse, batches=8, kind=EffectKind.PROPORTION)
    found = looked(given)
    assert found.conclusion is Conclusion.WORSE
    assert found.slices is not None and not found.slices.is_local
    assert "It is not in one slice alone; the most of one is where carrier is" in found.sentence


def test_fewer_than_it_takes_is_not_harm_where_more_is_better() -> None:
    given = sums(np.random.default_rng(6), {0: 0.6}, batches=8, kind=EffectKind.PROPORTION)
    assert not looked(given, better=Direction.HIGHER).is_harmful
    swapped = SliceSums(given.steps, given.champion / 3, given.challenger * 3)
    turned = SliceSums(given.steps, swapped.challenger, swapped.champion)
    found = looked(turned, better=Direction.HIGHER, baseline=0.6)
    assert found.slices is not None and found.slices.named[0].where == Slice("carrier", "AA")


def live(given: SliceSums, healthy: SliceSums, *parts: str | None) -> Look:
    """Metrics of which all units, told as healthy, are tested elsewhere where their part is None."""
    names = [f"m{k}" for k in range(len(parts))]
    metrics = tuple(spec(name=name, part=part) for name, part in zip(names, parts, strict=True))
    found = [cell for name in names for cell in cells(healthy, name)]
    return analyse(
        found, LookSpec(metrics=metrics, tests=20), sliced=Sliced((CARRIER,), dict.fromkeys(names, given))
    )


def test_slices_of_what_the_live_counters_test_have_their_part_of_its_money_and_roll_back_by_it() -> None:
    rng = np.random.default_rng(7)
    healthy = sums(rng, {}, batches=8, kind=EffectKind.PROPORTION)
    found = live(sums(rng, {1: 0.7}, batches=8, kind=EffectKind.PROPORTION), healthy, None)
    (metric,) = found.metrics
    assert metric.harm.boundary == math.inf, "the same counts are not tested twice with all of the money"
    assert metric.slices is not None and metric.slices.value == math.log(PART) + metric.slices.log_e
    assert found.harmful == ("m0",) and metric.conclusion is Conclusion.WORSE
    assert "By slices, tested at the looks: evidence of harm" in metric.sentence
    assert metric.log_e is not None and metric.log_e > metric.harm.value
    calm = live(healthy, healthy, None)
    assert calm.harmful == () and calm.metrics[0].conclusion is not Conclusion.WORSE


def test_slices_evidence_adds_up_with_that_of_the_metrics_that_learn_of_a_unit_at_the_same_moment() -> None:
    """Twice 60 % of what it takes."""
    batches, rng = 8, np.random.default_rng(8)
    given = sums(rng, {1: 0.7}, batches=batches, kind=EffectKind.PROPORTION)
    value = live(given, given, None).metrics[0].slices
    assert value is not None
    boundary = value.value - math.log(0.6)
    metrics = tuple(spec(name=name, part=None) for name in ("m0", "m1"))
    asked = LookSpec(metrics=metrics, harm_alpha=20 * math.exp(-boundary), tests=20)
    found = analyse(
        [cell for name in ("m0", "m1") for cell in cells(given, name)],
        asked,
        sliced=Sliced((CARRIER,), dict.fromkeys(("m0", "m1"), given)),
    )
    for metric in found.metrics:
        assert metric.slices is not None and metric.slices.value < boundary
        assert metric.slices.together == pytest.approx(value.value + math.log(2))
        assert metric.is_harmful
        assert "to 1 with other metrics" in metric.sentence


def test_what_is_looked_at_by_plan_is_not_told_by_slice() -> None:
    given = sums(np.random.default_rng(9), {1: 0.7}, batches=8, kind=EffectKind.PROPORTION)
    found = looked(given, method=SequentialMethod.GROUP_SEQUENTIAL)
    assert (found.slices, found.harm.scale, found.log_e) == (None, "z", None)


def test_a_mean_of_few_units_says_nothing_of_its_slice() -> None:
    """Far out in the tail thirty units are not normal yet."""
    few = int(FEWEST_UNITS / 4) - 1
    given = sums(np.random.default_rng(10), {1: 0.9}, batches=4, kind=EffectKind.MEAN, units=few)
    found = looked(given, kind=EffectKind.MEAN)
    assert found.slices is not None
    assert (found.slices.log_e, {each.log_e < 0 for each in found.slices.named}) == (
        pytest.approx(0.0),
        set(),
    )


def test_a_metric_whose_values_are_lost_unequally_is_told_by_no_slice_either() -> None:
    given = sums(np.random.default_rng(11), {1: 0.7}, batches=8, kind=EffectKind.MEAN)
    lost = [cell._replace(challenger_lost=60.0) for cell in cells(given)]
    asked = LookSpec(metrics=(spec(EffectKind.MEAN, leaves_units_out=True),), tests=20)
    (found,) = analyse(lost, asked, sliced=Sliced((CARRIER,), {"m": given})).metrics
    assert (found.is_lost, found.slices, found.is_harmful) == (True, None, False)


def test_sums_that_are_of_other_slices_or_that_no_data_can_have_are_refused() -> None:
    given = sums(np.random.default_rng(12), {}, batches=3, kind=EffectKind.PROPORTION)
    with pytest.raises(ParameterError, match="sums of 5 slices, must be 9"):
        looked(given, columns=(CARRIER, ORIGIN))
    given.challenger[1, 1, 1] = math.nan
    asked = LookSpec(metrics=(spec(),), tests=20)
    with pytest.raises(NotMeasured, match="not finite"):
        analyse([], asked, sliced=Sliced((CARRIER,), {"m": given}))
