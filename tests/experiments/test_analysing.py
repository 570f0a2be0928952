"""Looks in a row: planned group sequential looks, the one chi-square, a broken sample ratio that stays broken."""

import json
import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.look_spec import Conclusion, LookSpec, MetricSpec
from pipelines.core.statistics.power import Design, SequentialMethod
from pipelines.core.statistics.srm import StepUnits
from pipelines.experiments.analysing import analyse_next
from pipelines.experiments.look_inputs import look_spec
from pipelines.experiments.looks import STORED, TakenLook
from pipelines.experiments.registering import RegisteredConstants
from tests.support.rollouts import manifest

PLANNED = Design(method=SequentialMethod.GROUP_SEQUENTIAL, looks=5).information(0.1, 0.8)

SPEC = MetricSpec(
    name="revenue",
    kind=EffectKind.MEAN,
    is_primary=True,
    margin=0.1,
    planned_information=PLANNED,
    method=SequentialMethod.GROUP_SEQUENTIAL,
)

PER_LOOK = math.ceil(2 * PLANNED / 20)
"""Units per arm, of variance 1, that bring a twentieth of the planned information."""


def sums(values: np.ndarray) -> Sums:
    n, y, yy = len(values), float(values.sum()), float((values**2).sum())
    return Sums(n=n, sy=y, syy=yy, sd=n, sdd=n, syd=y)


def looks(
    effect: float, *, count: int, seed: int = 1, final_at: int | None = None, metric: MetricSpec = SPEC
) -> list[Look]:
    random = np.random.default_rng(seed)
    cells: list[Cell] = []
    found: list[Look] = []
    for k in range(count):
        champion, challenger = random.normal(0, 1, PER_LOOK), random.normal(effect, 1, PER_LOOK)
        cells.append(Cell("revenue", 0, float(k), sums(champion), sums(challenger)))
        spec = LookSpec(metrics=(metric,), shares={0: 0.5}, is_final=k == final_at)
        units = (StepUnits(0, (k + 1) * PER_LOOK, (k + 1) * PER_LOOK, 0.5),)
        found.append(
            analyse_next(cells, spec, units, past=found, planned_looks={"revenue": 5}, is_last_step=True)
        )
    return found


def test_it_is_tested_at_planned_information_alone() -> None:
    strict = replace(SPEC, margin=1e-6)
    found = [look.metrics[0].fraction for look in looks(0.0, count=23, metric=strict)]
    tested = [fraction for fraction in found if fraction is not None]
    assert len(tested) == 5
    for fraction, planned in zip(tested, (0.2, 0.4, 0.6, 0.8, 1.0), strict=True):
        assert planned <= fraction < planned + 0.06


def test_in_between_it_says_when_the_next_look_is() -> None:
    metric = looks(0.0, count=3)[-1].metrics[0]
    assert metric.conclusion is Conclusion.NOT_YET
    assert metric.interval is None
    assert "the next look is at 20%" in metric.sentence


def test_the_final_look_comes_whatever_is_there() -> None:
    found = looks(0.0, count=8, final_at=6)
    assert found[6].metrics[0].fraction == pytest.approx(0.35, abs=0.05)
    assert found[6].srm is not None and found[6].srm.p is not None


def test_an_answer_stands() -> None:
    found = looks(-0.5, count=12)
    first = next(k for k, look in enumerate(found) if look.metrics[0].conclusion is Conclusion.BETTER)
    assert {look.metrics[0] for look in found[first:]} == {found[first].metrics[0]}


@pytest.mark.faults
def test_false_answers_stay_within_alpha() -> None:
    wrong = 0
    for seed in range(60):
        last = looks(0.0, count=21, seed=seed)[-1].metrics[0]
        wrong += last.conclusion in (Conclusion.BETTER, Conclusion.WORSE)
    assert wrong <= 8, "5 % of 60, and three standard errors; benchmarks/sequential.py has the tight bound"


def test_a_broken_sample_ratio_stays_broken() -> None:
    cells = [Cell("revenue", 0, 0.0, Sums(n=100, sy=1, syy=100), Sums(n=100, sy=1, syy=100))]
    spec = LookSpec(metrics=(SPEC,), shares={0: 0.5})

    def look(units: StepUnits, past: list[Look]) -> Look:
        return analyse_next(cells, spec, (units,), past=past, planned_looks={"revenue": 5}, is_last_step=True)

    broken = look(StepUnits(0, 9000, 11000, 0.5), [])
    mended = look(StepUnits(0, 99000, 101000, 0.5), [broken])
    assert broken.srm is not None and broken.srm.is_mismatch
    assert mended.srm is not None and mended.srm.is_mismatch
    assert "no comparison can be trusted" in mended.sentences[-1]


def test_what_is_tested_together_learns_of_a_unit_at_the_same_moment_and_rolls_back() -> None:
    def share(name: str, **changes: str) -> dict[str, str]:
        return {"name": name, "type": "proportion", "source": "serving.errors", "margin": "1pp"} | changes

    slow = {"source": "serving.over_slo", "slo": "250ms"}
    guardrails = [
        share("errors"),
        share("slow", **slow, on_fail="hold"),
        share("slower", **slow, on_fail="warn"),
        share("churned", source="outcomes.churned"),
        share("refused", source="predictions.refused"),
    ]
    wanted = manifest(guardrails=guardrails)
    registered = [
        RegisteredConstants(spec=MetricSpec(name=name, kind=EffectKind.PROPORTION, margin=0.01))
        for name in ("cost", "errors", "slow", "slower", "churned", "refused")
    ]
    spec = look_spec(wanted, {}, registered, is_final=False)
    assert {metric.name: metric.part for metric in spec.metrics} == {
        "cost": "after 1d",
        "churned": "after 1d",
        "refused": "after 0ms",
        "errors": None,
        "slow": "slow",
        "slower": "slower",
    }
    assert spec.budget.tests == 6
    by_unit = wanted.model_copy(
        update={"experiment": wanted.experiment.model_copy(update={"unit": "customer"})}
    )
    spec = look_spec(by_unit, {}, registered, is_final=False)
    assert next(metric.part for metric in spec.metrics if metric.name == "errors") is None
    assert spec.budget.tests == 6, "the live counters know each unit's first answer"


def test_a_look_that_was_stored_before_lost_values_were_counted_is_read() -> None:
    (look,) = looks(0.0, count=1)
    cell = Cell("revenue", 0, 0.0, Sums(n=1, sy=1, syy=1), Sums(n=1, sy=1, syy=1))
    spec = LookSpec(metrics=(SPEC,), shares={0: 0.5})
    taken = TakenLook(at=datetime(2026, 1, 1, tzinfo=UTC), spec=spec, cells=(cell,), units=(), look=look)
    stored = json.loads(STORED.dump_json(taken))
    stored["cells"] = [each[:6] for each in stored["cells"]]
    del stored["look"]["losses"], stored["spec"]["loss_tests"]
    for metric in stored["spec"]["metrics"]:
        del metric["leaves_units_out"]
    for metric in stored["look"]["metrics"]:
        del metric["is_lost"], metric["covariate_differs"]
    assert STORED.validate_python(stored) == taken
