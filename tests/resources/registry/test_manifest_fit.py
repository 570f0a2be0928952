"""A manifest against the signatures of real versions on a real MLflow server: its mistakes are its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import Model, load_model
from pipelines.rollouts.fitting import require_fit
from resources.registry.registry import Registry
from tests.core.manifest.conftest import SERVICE

ROLLOUT = """\
model: churn
steps: [10, 100]
experiment:
  unit: customer_id
  slices: [features.age, plan]
  primary: {name: revenue, type: mean, source: outcomes.revenue, covariate: predictions.age, mde: 5%}
guardrails:
  - {name: churned, type: ratio, source: predictions.score, denominator: predictions.plan, margin: 0.1}
  - {name: slow, type: mean, source: predictions.latency_ms, margin: 5}
validation: {label: churned}
data_checks:
  checks:
    - {column: features.age, type: between, min: 0, max: 130}
    - {column: features.plan, type: in_set, values: [0, 1]}
    - {column: outputs.score, type: mean_between, min: 0}
drift: {columns: [features.age, outputs.score]}
"""

MISTAKES = [
    ("age, plan]", "age, plane]", "experiment.slices[1]", "did you mean features.plan?"),
    ("age, plan]", "age, score]", "experiment.slices[1]", "a slice must be an input, known before the answer"),
    ("predictions.age", "predictions.aeg", "experiment.primary.covariate", "did you mean features.age?"),
    ("predictions.age", "predictions.score", "experiment.primary.covariate", "is an output of version"),
    ("predictions.score", "predictions.scoer", "guardrails[0].source", "did you mean outputs.score?"),
    ("predictions.plan", "predictions.plans", "guardrails[0].denominator", "did you mean features.plan?"),
    ("features.plan", "features.plane", "data_checks.checks[1].column", "did you mean features.plan?"),
    ("values: [0, 1]", "values: ['0']", "data_checks.checks[1].column", "in_set needs numbers among its"),
    ("type: mean_between, min: 0", "type: matches, regex: a", "data_checks.checks[2].column", "holds numbers"),
    ("columns: [features.age,", "columns: [features.score,", "drift.columns[0]", "did you mean outputs.score?"),
    ("outputs.score]", "outputs.age]", "drift.columns[1]", "it has features.age, features.plan, outputs.score"),
]  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Model]:
    def make(old: str = "", new: str = "") -> Model:
        folder = tmp_path / "churn"
        folder.mkdir(exist_ok=True)
        assert old in ROLLOUT
        (folder / "rollout.yaml").write_text(ROLLOUT.replace(old, new, 1) if old else ROLLOUT)
        (folder / "inferenceservice.yaml").write_text(SERVICE)
        found = load_model(folder)
        assert isinstance(found, Model), found
        return found

    return make


def test_a_manifest_that_names_columns_of_the_signature_fits(registry: Registry, good_version: str, model):
    require_fit(registry, model(), good_version, good_version)
    require_fit(registry, model(), good_version, None)


@pytest.mark.parametrize(("old", "new", "key", "message"), MISTAKES)
def test_a_column_that_the_signature_does_not_bear_out_is_named_with_its_place(
    registry: Registry, good_version: str, model, old: str, new: str, key: str, message: str
):
    made = model(old, new)
    with pytest.raises(ManifestError) as told:
        require_fit(registry, made, good_version, None)
    text = str(told.value)
    assert f": {key}: " in text
    assert message in text
    assert f"version {good_version}" in text
    line = int(text.split("rollout.yaml:")[1].split(":")[0])
    assert new.strip("[],")[:8] in (made.folder / "rollout.yaml").read_text().splitlines()[line - 1]


@pytest.mark.parametrize("written", ["predictions.AGE", "predictions.Age", "predictions.features.AGE"])
def test_a_name_in_another_case_is_the_same_column_as_in_the_lake(
    registry: Registry, good_version: str, model, written: str
):
    require_fit(registry, model("predictions.age", written), good_version, None)
    require_fit(registry, model("[features.age,", "[features.Age,"), good_version, None)


@pytest.mark.parametrize("field", ["score", "SCORE"])
def test_a_name_that_means_two_columns_of_the_lake_is_no_name_though_each_version_has_it_once(
    registry: Registry, good_version: str, model, field: str
):
    """The look reads the lake, which keeps the columns of every version: it would be unknown for ever."""
    held = {field: "DOUBLE"}, {"score": "DOUBLE"}
    with pytest.raises(
        ManifestError, match=f"expected predictions.features.{field} or predictions.outputs.score"
    ):
        require_fit(registry, model(), good_version, None, held=held)
    require_fit(
        registry, model("predictions.score", "predictions.outputs.score"), good_version, None, held=held
    )
