"""The plan of the whole decision for a manifest: what takes longest, what to change, and that the change does it."""

import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipelines.core.manifest.model import RolloutManifest, parse_duration
from pipelines.core.statistics.inputs import ParameterError
from pipelines.experiments.floors import Expected
from pipelines.experiments.promotion_plan import PromotionPlan, plan_promotion
from resources.lake.measuring import Known

ROOT = Path(__file__).resolve().parents[2]


def known(value: float, deviation: float = 0.0, *, units: int = 100_000) -> Known:
    return Known(units=units, value=value, variance=deviation**2, kurtosis=3.0, cap=None, covariate=None)


METRICS = {"revenue": known(4.2, 9.0), "errors": known(0.001), "slow": known(0.01)}

MINIMAL: dict[str, Any] = YAML(typ="safe").load(
    next(
        block
        for block in re.findall(
            r"```yaml\n(.*?)```", (ROOT / "docs" / "adding-a-model.md").read_text(), re.DOTALL
        )
        if "steps:" in block
    )
)


def planned(units: float = 30_000, requests: float = 200_000, **changes: Any) -> PromotionPlan:
    metrics = changes.pop("known", METRICS)
    written = {**MINIMAL, **changes}
    return plan_promotion(
        RolloutManifest.model_validate(written), Expected(units, requests, metrics), runs=400
    )


def changed(key: str, **value: Any) -> dict[str, Any]:
    return {key: {**MINIMAL.get(key, {}), **value}}


@pytest.mark.parametrize("page", ["README.md", "docs/adding-a-model.md"])
def test_the_minimal_manifest_of_the_docs_has_a_plan_that_finishes(page: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    (written,) = [block for block in blocks if "steps:" in block]
    made = plan_promotion(
        RolloutManifest.model_validate(YAML(typ="safe").load(written)),
        Expected(30_000, 200_000, METRICS),
        runs=400,
    )
    assert made.is_powered and not made.warnings
    assert made.needed_days < made.days


def test_a_window_that_never_has_its_rows_is_the_bottleneck_and_the_change_helps() -> None:
    made = planned(20_000, 20_000)
    assert (made.chance, made.bounds, made.is_powered) == (0.0, (0.0, 0.0), False)
    (warning,) = made.warnings
    assert "at 10 % does not end in time: drift needs 500 rows of the smaller version" in warning
    assert "where 83 are expected" in warning
    window = re.search(r"drift\.window: (\w+)", warning)
    rows = re.search(r"drift\.min_rows: (\d+)", warning)
    assert window and rows
    for change in ({"window": window[1]}, {"min_rows": int(rows[1])}):
        assert planned(20_000, 20_000, drift=change).is_powered


def test_a_metric_that_takes_too_long_is_the_bottleneck_and_each_change_helps() -> None:
    made = planned(5_000)
    assert not made.is_powered
    assert "Bottleneck: revenue" in made.bottleneck
    longer = re.search(r"max_duration: (\w+)", made.bottleneck)
    larger = re.search(r"mde: (\S+%) in place of 5%", made.bottleneck)
    assert longer and larger, made.bottleneck
    assert parse_duration(longer[1]).days > 14
    experiment = MINIMAL["experiment"]
    assert planned(5_000, experiment={**experiment, "max_duration": longer[1]}).chance > 0.74
    primary = {**experiment["primary"], "mde": larger[1]}
    assert planned(5_000, experiment={**experiment, "primary": primary}).chance > 0.74


def test_where_every_metric_is_quick_the_floors_are_the_bottleneck() -> None:
    made = planned(3_000_000, 3_000_000, known=METRICS | {"revenue": known(4.2, 1.0)})
    assert made.is_powered and made.waits_for_floors
    assert "Bottleneck: the steps' floors, 26 hours together" in made.bottleneck
    assert "a shorter outcome_window" in made.bottleneck
    held = planned(3_000_000, 3_000_000, step={"min_duration": "8d"})
    assert held.chance == 0 and "step.min_duration is 8d" in held.bottleneck
    assert "max_duration: 16d" in held.bottleneck


def test_more_guardrails_leave_less_chance() -> None:
    def guarded(count: int) -> float:
        slow = MINIMAL["guardrails"][1] | {"margin": "0.2pp"}
        guardrails = [slow | {"name": f"slow{i}"} for i in range(count)]
        return planned(
            guardrails=guardrails, known=METRICS | {g["name"]: METRICS["slow"] for g in guardrails},
            experiment=MINIMAL["experiment"] | {"max_duration": "4d"},
        ).chance  # fmt: skip

    one, four = guarded(1), guarded(4)
    assert four < one - 0.05


def test_a_metric_without_variance_is_planned_in_words() -> None:
    made = planned(known=METRICS | {"revenue": known(3.0)})
    assert made.is_powered
    assert any("every unit of the champion has the same value, 3. Equal values" in s for s in made.sentences)
    nothing = planned(known=METRICS | {"revenue": known(0.0)})
    assert nothing.is_powered


def test_a_share_of_nothing_asks_for_a_margin() -> None:
    with pytest.raises(ParameterError, match="revenue: the champion's value is 0, .* give it a margin"):
        planned(known=METRICS | {"revenue": known(0.0, 9.0)})
    with pytest.raises(ParameterError, match="revenue: too little is known"):
        planned(known=METRICS | {"revenue": known(4.2, 9.0, units=50)})


def test_a_rollout_of_minutes_is_told_in_minutes_and_seconds() -> None:
    text = (ROOT / "serving_manifests" / "flight-delay" / "rollout.yaml").read_text()
    manifest = RolloutManifest.model_validate(YAML(typ="safe").load(text))
    metrics = {"cost_per_flight": known(0.6, 1.2), "errors": known(0.0), "slow": known(0.0)}
    made = plan_promotion(manifest, Expected(4_000_000, 4_000_000, metrics), runs=400)
    told = "\n".join(made.sentences)
    assert "within 60 minutes" in told and "e-0" not in told and "0.0 days" not in told
    assert made.is_powered


def test_a_shadow_step_waits_for_its_answers() -> None:
    made = planned(steps=["shadow", 10, 50, 100], validation={"agreement_rows": 400_000})
    assert made.steps[0].name == "shadow"
    assert made.steps[0].floor.days == pytest.approx(2.0)
    assert "The step at shadow lasts 2 days at least: 400,000 answers are compared" in "\n".join(
        made.sentences
    )
