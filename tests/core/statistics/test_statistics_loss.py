"""Units without a value: lost alike at both versions, or nothing follows from their metric."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.look import analyse
from pipelines.core.statistics.look_spec import Conclusion, LookSpec, MetricSpec
from pipelines.core.statistics.loss import Loss, both_ways, find_loss
from pipelines.core.statistics.power import Design, SequentialMethod
from pipelines.experiments.analysing import analyse_next

ALPHA = 0.05

COST = MetricSpec(name="cost", kind=EffectKind.MEAN, margin=0.1, leaves_units_out=True)


def matured(
    champion: float,
    challenger: float,
    *,
    seed: int = 0,
    share: float = 0.1,
    looks: int = 20,
    units: int = 500,
    step: int = 0,
) -> list[Cell]:
    """Cells of normal values, of which these shares are lost."""
    rng = np.random.default_rng(seed)
    n1 = rng.binomial(units, share, looks)
    x1, x0 = rng.binomial(n1, challenger), rng.binomial(units - n1, champion)
    return [
        Cell("cost", step, 100.0 * step + k, _values(rng, units - n - b), _values(rng, n - a), 0.0, b, a)
        for k, (n, a, b) in enumerate(zip(n1.tolist(), x1.tolist(), x0.tolist(), strict=True))
    ]


def _values(rng: np.random.Generator, units: int) -> Sums:
    y = rng.normal(1, 1, units)
    return Sums(n=units, sy=float(y.sum()), syy=float((y * y).sum()), sd=units, sdd=units, syd=float(y.sum()))


def loss(cells: list[Cell], alpha: float = ALPHA) -> Loss:
    return find_loss(cells, "cost", alpha=alpha)


@pytest.mark.parametrize("share", [0.005, 0.1, 0.5, 0.97])
def test_equal_loss_is_called_unequal_no_more_often_than_alpha_over_all_looks(share: float) -> None:
    runs = 150
    wrong = sum(loss(matured(share, share, seed=seed)).is_unequal for seed in range(runs))
    assert wrong / runs <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.parametrize(
    ("champion", "challenger"),
    [(0.0, 0.07), (0.07, 0.0), (0.002, 0.02), (0.5, 0.58), (0.95, 0.9), (0.0, 1.0), (1.0, 0.0)],
)
def test_unequal_loss_is_found_at_whichever_version_it_is(champion: float, challenger: float) -> None:
    found = loss(matured(champion, challenger, share=0.3))
    assert found.is_unequal
    assert found.champion == pytest.approx(champion, abs=0.02)
    assert found.challenger == pytest.approx(challenger, abs=0.02)


def test_loss_that_moves_in_time_alike_at_both_versions_is_no_difference_on_a_ramp() -> None:
    """Pooled over the ramp, the challenger lost far fewer."""
    early, late = matured(0.4, 0.4, share=0.05), matured(0.02, 0.02, share=0.5, step=1)
    assert not loss([*early, *late]).is_unequal


def test_what_was_found_stays_found() -> None:
    lost, sound = matured(0.0, 0.1), matured(0.0, 0.0, looks=300, step=1)
    assert loss([*lost, *sound]).log_e >= loss(lost).log_e


@pytest.mark.parametrize("cells", [[], matured(0.0, 1.0, looks=1, units=2, share=0.5)])
def test_too_few_units_are_no_difference(cells: list[Cell]) -> None:
    found = loss(cells)
    assert (found.is_unequal, found.log_e) == (False, 0.0)


def test_a_bucket_that_is_given_twice_and_counts_that_cannot_be_are_refused() -> None:
    (cell,) = matured(0.1, 0.1, looks=1)
    with pytest.raises(NotMeasured, match="counted twice"):
        loss([cell, cell])
    with pytest.raises(NotMeasured, match="must be within 0 and the units|must not be negative"):
        loss([cell._replace(challenger_lost=-3.0)])


def test_the_bets_are_the_same_for_either_version() -> None:
    mixture = both_ways()
    assert mixture.ratios == pytest.approx(-mixture.ratios[::-1])
    assert math.fsum(np.exp(mixture.log_weights)) == pytest.approx(1.0)


def test_nothing_follows_from_a_metric_whose_values_are_lost_and_it_helps_no_other_to_the_boundary() -> None:
    """As bad as can be: the lost metric would be called worse, and its evidence would be added to the others'."""
    cells = matured(0.0, 0.3)
    worse = [c._replace(challenger=Sums(*c.champion)) for c in cells]
    worse = [c._replace(champion=_values(np.random.default_rng(1), 450), challenger=_dear(50)) for c in worse]
    other = replace(COST, name="other", leaves_units_out=False)
    spec = LookSpec(metrics=(COST, other), shares={0: 0.1})
    both = [*worse, *(c._replace(metric="other") for c in matured(0.0, 0.0))]
    found = analyse(both, spec)
    lost, beside = found.metrics
    assert (lost.is_lost, lost.conclusion, lost.harm.is_crossed) == (True, Conclusion.NOT_YET, False)
    assert (lost.interval, lost.worst, lost.is_within_margin) == (None, None, False)
    assert (
        "cost: not compared, 25 % of the challenger's" in lost.sentence
        and "neither better nor worse can be told" in lost.sentence
    )
    assert beside.harm.together is None and found.harmful == ()
    blind = analyse(both, replace(spec, metrics=(replace(COST, leaves_units_out=False), other)))
    assert "cost" in blind.harmful


def _dear(units: int) -> Sums:
    return Sums(n=units, sy=3.0 * units, syy=10.0 * units, sd=units, sdd=units, syd=3.0 * units)


def test_an_answer_of_an_earlier_planned_look_does_not_stand_once_values_are_lost() -> None:
    planned = Design(method=SequentialMethod.GROUP_SEQUENTIAL, looks=2).information(0.3, 0.8)
    spec = replace(COST, method=SequentialMethod.GROUP_SEQUENTIAL, planned_information=planned, margin=0.3)
    past = []
    sound, lost = matured(0.0, 0.0, share=0.5, looks=10), matured(0.0, 0.5, share=0.5, looks=10, step=1)
    for cells in (sound, [*sound, *lost]):
        whole = LookSpec(metrics=(spec,), shares={0: 0.5, 1: 0.5})
        past.append(analyse_next(cells, whole, (), past=past, planned_looks={"cost": 2}, is_last_step=False))
    assert [look.metrics[0].conclusion for look in past] == [Conclusion.NON_INFERIOR, Conclusion.NOT_YET]


def test_the_error_is_shared_by_all_metrics_that_leave_units_out() -> None:
    one, ten = LookSpec(metrics=(COST,)), LookSpec(metrics=(COST,), loss_tests=10)
    assert one.loss_alpha == pytest.approx(10 * ten.loss_alpha)
    assert LookSpec(metrics=(replace(COST, leaves_units_out=False),)).loss_alpha == one.srm_alpha
