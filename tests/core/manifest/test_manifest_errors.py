"""Every mistake is told with file, line, key, value and what is allowed."""

from pathlib import Path

import pytest

from pipelines.core.manifest.load import load_models

ROLLOUT_MISTAKES = [
    (
        "steps: [shadow, 10, 50, 100]",
        "steps: [50, 10, 100]",
        "steps[1]",
        "10: expected more than the step before",
    ),
    ("steps: [shadow, 10, 50, 100]", "steps: [10, 50]", "steps[1]", "50: expected 100 as the last step"),
    (
        "steps: [shadow, 10, 50, 100]",
        "steps: [10, shadow, 100]",
        "steps[1]",
        "only allowed as the first step",
    ),
    (
        "steps: [shadow, 10, 50, 100]",
        "steps: [0, 100]",
        "steps[0]",
        "0: expected a percentage greater than 0",
    ),
    ("steps: [shadow, 10, 50, 100]", "steps: [10, 120]", "steps[1]", "120: expected a percentage"),
    ("steps: [shadow, 10, 50, 100]", "steps: []", "steps", "at least 1 item"),
    (
        "steps: [shadow, 10, 50, 100]",
        "steps: [true, 100]",
        "steps[0]",
        "True: expected a percentage such as 10",
    ),
    (
        "steps: [shadow, 10, 50, 100]",
        "steps: ['10', 100]",
        "steps[0]",
        "'10': expected a percentage such as 10",
    ),
    (
        "model: churn\n",
        "model: churn\nvalidation: {replay: false, required: [replay]}\n",
        "validation.required",
        "replay: validation.replay is false",
    ),
    (
        "model: churn\n",
        "model: churn\nvalidation: {required: [comparison]}\n",
        "validation.required",
        "nothing can be compared without a label",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [plan, outputs.score]",
        "experiment.slices[1]",
        "'outputs.score': expected the name of an input of the model, such as carrier",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [Outputs.score]",
        "experiment.slices[0]",
        "a slice must be known before the answer",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [outcomes.revenue]",
        "experiment.slices[0]",
        "'outcomes.revenue': expected the name of an input",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [predictions.plan]",
        "experiment.slices[0]",
        "'predictions.plan': expected the name of an input",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [latency_ms]",
        "experiment.slices[0]",
        "'latency_ms': expected the name of an input",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [serving.errors]",
        "experiment.slices[0]",
        "'serving.errors': expected the name of an input",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: ['']",
        "experiment.slices[0]",
        "'': expected the name of an input",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [plan, features.Plan]",
        "experiment.slices[1]",
        "'features.Plan': already in slices[0]",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: [a, b, c, d, e, f]",
        "experiment.slices",
        "at most 5 items",
    ),
    (
        "unit: customer_id",
        "unit: customer_id\n  slices: plan",
        "experiment.slices",
        "'plan': expected",
    ),
    ("mde: 5%", "mde: 0%", "experiment.primary.mde", "0: expected a change greater than 0"),
    ("mde: 5%", "mde: five", "experiment.primary.mde", "'five': expected a number with the unit '%'"),
    ("mde: 5%", "mdee: 5%", "experiment.primary.mdee", "unknown key; did you mean 'mde'?"),
    (", mde: 5%", "", "experiment.primary.mde", "required key is missing"),
    (
        "better: higher, mde",
        "better: up, mde",
        "experiment.primary.better",
        "'up': expected 'lower' or 'higher'",
    ),
    ("margin: 0.5pp", "margin: 0pp", "guardrails[0].margin", "0: expected a difference greater than 0"),
    ("margin: 0.5pp", "margin: 2", "guardrails[0].margin", "2: expected less than 1"),
    ("margin: 0.5pp", "margin: .nan", "guardrails[0].margin", "expected a finite number"),
    ("name: errors", "name: revenue", "guardrails[0].name", "already the name of experiment.primary"),
    ("name: errors", "name: slow", "guardrails[1].name", "already the name of guardrails[0]"),
    (
        "serving.errors",
        "serving.error",
        "guardrails[0].source",
        "'serving.error': expected serving.errors, serving",
    ),
    ("errors, type: proportion", "errors, type: mean", "guardrails[0].type", "'mean': expected 'proportion'"),
    ("slo: 250ms", "slo: 260ms", "guardrails[1].slo", "'260ms': expected one of 1ms, 2ms"),
    ("    slo: 250ms\n", "", "guardrails[1].slo", "source: serving.over_slo needs it"),
    (
        "source: outcomes.spend",
        "source: outcomes.spend, slo: 1s",
        "guardrails[2].slo",
        "only allowed with source",
    ),
    (", denominator: outcomes.visits", "", "guardrails[2].denominator", "type: ratio needs it"),
    (", retention: 7d", "", "guardrails[3].retention", "type: retention needs it"),
    (
        "type: mean, ",
        "type: mean, retention: 7d, ",
        "experiment.primary.retention",
        "only allowed with type: retention",
    ),
    ("type: mean, ", "type: mean, cap: 9, winsorise: 0.9, ", "experiment.primary.winsorise", "only one of"),
    ("type: mean, ", "type: mean, looks: 4, ", "experiment.primary.looks", "method: group_sequential"),
    (
        "unit: customer_id",
        "unit: Customer ID",
        "experiment.unit",
        "'Customer ID': expected request or a name",
    ),
    ("unit: customer_id", "alpha: '0.05'", "experiment.alpha", "'0.05': expected a valid number"),
    ("unit: customer_id", "look_every: 0s", "experiment.look_every", "expected a duration greater than 0"),
    (
        "unit: customer_id",
        "outcome_window: 30d",
        "experiment.outcome_window",
        "expected less than max_duration",
    ),
    (", min: 0, max: 130", "", "data_checks.checks[0].min", "type: between needs min or max"),
    (
        "min: 0, max: 130",
        "min: 9, max: 1",
        "data_checks.checks[0].min",
        "9: expected at most max, which is 1",
    ),
    (", values: [free, paid]", "", "data_checks.checks[1].values", "type: in_set needs values"),
    (
        "values: [free, paid]",
        "values: [true]",
        "data_checks.checks[1].values[0]",
        "True: expected a valid string or",
    ),
    ('regex: "@"', 'regex: "["', "data_checks.checks[2].regex", "expected a regular expression"),
    (
        "type: in_set,",
        "type: in_set, min: 1,",
        "data_checks.checks[1].min",
        "only allowed with type: between",
    ),
    (
        "column: features.age",
        "column: age",
        "data_checks.checks[0].column",
        "'age': expected features.<name>",
    ),
    ("outputs.score]", "score]", "drift.columns[1]", "'score': expected features.<name>"),
    ("0 18 * * fri", "0 25 * * fri", "freeze[0].cron", "hour is '25', expected 0 to 23"),
    ("0 18 * * fri", "0 18 * *", "freeze[0].cron", "has 4 fields, expected 5"),
    ("0 18 * * fri", "0 18 31 2 *", "freeze[0].cron", "never fires; no month of it has such a day"),
    ("Europe/Berlin", "Europe/Bärlin", "freeze[0].timezone", "expected an IANA time zone"),
    ("duration: 60h", "duration: 60", "freeze[0].duration", "60: expected a duration such as 250ms"),
    (
        "type: mean, ",
        "type: mean, covariate: outcomes.spend, ",
        "experiment.primary.covariate",
        "'outcomes.spend': expected predictions.<input>, an input of the model",
    ),
    (
        "type: mean, ",
        "type: mean, covariate: predictions.latency_ms, ",
        "experiment.primary.covariate",
        "before the",
    ),
    (
        "type: mean, ",
        "type: mean, covariate: predictions.status, ",
        "experiment.primary.covariate",
        "before the",
    ),
    (
        "type: mean, ",
        "type: mean, covariate: outcomes.revenue, ",
        "experiment.primary.covariate",
        "is what the metric",
    ),
    (
        "source: outcomes.revenue, ",
        "source: predictions.Basket, covariate: predictions.features.basket, ",
        "experiment.primary.covariate",
        "'predictions.features.basket': is what the metric measures",
    ),
    (
        "type: mean, ",
        "type: mean, covariate: predictions.Outputs.score, ",
        "experiment.primary.covariate",
        "'predictions.Outputs.score': expected predictions.<input>, an input of the model",
    ),
    (
        "denominator: outcomes.visits",
        "denominator: outcomes.visits, covariate: outcomes.visits",
        "guardrails[2].covariate",
        "'outcomes.visits': is what the metric measures",
    ),
    (
        "denominator: outcomes.visits",
        "denominator: outcomes.spend",
        "guardrails[2].denominator",
        "'outcomes.spend': is what the metric measures, and their ratio is 1",
    ),
    (
        "source: outcomes.spend, denominator: outcomes.visits",
        "source: predictions.spend, denominator: predictions.features.Spend",
        "guardrails[2].denominator",
        "'predictions.features.Spend': is what the metric measures",
    ),
    ("type: mean, ", "type: mean, missing: nought, ", "experiment.primary.missing", "'exclude' or 'zero'"),
    (
        "source: serving.errors",
        "source: serving.errors, missing: zero",
        "guardrails[0].missing",
        "'zero': only allowed with source: outcomes.<metric>, not 'serving.errors'",
    ),
    (
        "source: outcomes.revenue",
        "source: predictions.basket, missing: exclude",
        "experiment.primary.missing",
        "'exclude': only allowed with source: outcomes.<metric>, not 'predictions.basket'",
    ),
    (
        "retention: 7d",
        "retention: 7d, missing: zero",
        "guardrails[3].missing",
        "'zero': not with type: retention, whose units return or do not",
    ),
    (
        "retention: 7d",
        "retention: 13d",
        "guardrails[3].retention",
        "'13d': with outcome_window (1d) expected less than max_duration (2w)",
    ),
    ("  unit: customer_id\n", "", "guardrails[3].type", "'retention': a request cannot return"),
    ("unit: customer_id", "unit: request", "guardrails[3].type", "'retention': a request cannot return"),
    (
        "window: 15m",
        "min_rows: 200000",
        "data_checks.min_rows",
        "200000: expected at most sample_rows, which is 100000",
    ),
    (
        "drift: {",
        "drift: {min_rows: 60000, ",
        "drift.min_rows",
        "60000: expected at most sample_rows, which is 50000",
    ),
    ("outputs.score]", "features.age]", "drift.columns[1]", "'features.age': already in columns[0]"),
    (
        "guardrails:",
        "step: {min_duration: 5d}\nguardrails:",
        "step.min_duration",
        "'5d': 3 steps of that expected to be shorter than experiment.max_duration (2w)",
    ),
    (
        "model: churn",
        "max_unknown: 5m\nmodel: churn",
        "max_unknown",
        "a look every 5m, and max_unknown is 5m: expected more than one look in that time",
    ),
    (
        "unit: customer_id",
        "look_every: 2h",
        "experiment.look_every",
        "a look every 2h, and max_unknown is 1h: expected more than one look",
    ),
    ("drift: {", "dirft: {}\ndrift: {", "dirft", "unknown key; did you mean 'drift'?"),
    ("model: churn", "model: Churn", "model", "'Churn': expected"),
    ("model: churn", "model: 2024-01-01", "model", "expected text, a number or a boolean"),
    (
        "model: churn",
        "ab_test: {duration: 12h}\nmodel: churn",
        "ab_test.duration",
        "12h: expected more than experiment.outcome_window, which is 1d",
    ),
    (
        "model: churn",
        "ab_test: {duration: 7d}\nmodel: churn",
        "ab_test.duration",
        "1w: expected more than the retention of stays and outcome_window together, which is 8d",
    ),
    (
        "experiment:\n",
        "ab_test: {duration: 2d}\nexperiment:\n  look_every: 3d\n",
        "ab_test.duration",
        "2d: expected more than experiment.look_every, which is 3d",
    ),
    ("model: churn", "dry_run: 1\nmodel: churn", "dry_run", "1: expected a valid boolean"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), ROLLOUT_MISTAKES)
def test_a_mistake_in_the_rollout_is_named(folder: Path, old: str, new: str, key: str, message: str):
    text = _replace(folder / "churn" / "rollout.yaml", old, new)
    told = [str(error) for error in load_models(folder).errors]
    mine = [line for line in told if f": {key}: " in line]
    assert any(message in line for line in mine), told
    line = int(mine[0].removeprefix(f"{folder}/churn/rollout.yaml:").split(":")[0])
    last = key.split(".")[-1].split("[")[0]
    assert (
        "missing" in mine[0]
        or "needs it" in mine[0]
        or "needs" in mine[0]
        or last in text.splitlines()[line - 1]
    )


SERVICE_MISTAKES = [
    (
        "apiVersion: serving.kserve.io/v1beta1",
        "apiVersion: v1",
        "apiVersion",
        "expected 'serving.kserve.io/v1beta1'",
    ),
    ("kind: InferenceService\n", "", "kind", "required key is missing: expected 'InferenceService'"),
    ("name: churn", "name: chrun", "metadata.name", "'chrun': expected 'churn'"),
    (
        "    minReplicas: 2",
        "    canaryTrafficPercent: 10",
        "spec.predictor.canaryTrafficPercent",
        "written by rollouts",
    ),
    (
        "      modelFormat",
        "      storageUri: s3://b\n      modelFormat",
        "spec.predictor.model.storageUri",
        "written by",
    ),
    ("spec:\n", "spec:\n  canary: [{trafficPercent: 10}]\n", "spec.canary", "written by rollouts"),
    (
        "name: churn",
        'name: churn\n  annotations: {rampgate.io/version: "1"}',
        "rampgate.io/version",
        "written by",
    ),
    ("  predictor:", "  transformer:", "spec.predictor", "None: expected a mapping"),
]


@pytest.mark.parametrize(("old", "new", "key", "message"), SERVICE_MISTAKES)
def test_a_mistake_in_the_service_is_named(folder: Path, old: str, new: str, key: str, message: str):
    _replace(folder / "churn" / "inferenceservice.yaml", old, new)
    told = [str(error) for error in load_models(folder).errors]
    assert any(key in line and message in line and "inferenceservice.yaml:" in line for line in told), told


OTHER_STORAGE = """\
    nodeSelector: {storage: ssd}
    labels: {storage: ssd, storageUri: none}
    volumes:
      - name: scratch
        ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 1Gi}}}}}
    containers:
      - name: kserve-container
        resources: {limits: {storage: 1Gi}}
    logger: {mode: all, storage: {path: /log}}
    affinity: {storage: 1}
"""


def test_a_key_named_like_one_that_rollouts_write_is_not_theirs_elsewhere(folder: Path):
    """An ephemeral volume claim, a label, a node selector."""
    _replace(folder / "churn" / "inferenceservice.yaml", "    minReplicas: 2\n", OTHER_STORAGE)
    assert not load_models(folder).errors


@pytest.mark.parametrize("place", ["", "model", "sklearn"])
@pytest.mark.parametrize("key", ["storageUri", "storage", "canaryTrafficPercent"])
def test_a_key_that_rollouts_write_is_refused_where_they_write_it(folder: Path, place: str, key: str):
    written = f"    {place}: {{{key}: 1}}\n" if place else f"    {key}: 1\n"
    path = folder / "churn" / "inferenceservice.yaml"
    if place == "model":
        _replace(path, "      modelFormat", f"      {key}: 1\n      modelFormat")
    else:
        _replace(path, "    minReplicas: 2\n", written)
    [error] = load_models(folder).errors
    assert f"{'.'.join(filter(None, ['spec.predictor', place, key]))}: is written by rollouts" in str(error)


def test_all_mistakes_of_a_model_are_told_at_once(folder: Path):
    path = folder / "churn" / "rollout.yaml"
    for old, new in [
        ("slo: 250ms", "slo: 260ms"),
        ("mde: 5%", "mde: -5%"),
        ("drift:", "drfit:"),
        ("min: 0,", ""),
    ]:
        _replace(path, old, new)
    _replace(folder / "churn" / "inferenceservice.yaml", "name: churn", "name: other")
    keys = {str(error).split(": ")[1] for error in load_models(folder).errors}
    assert keys == {"guardrails[1].slo", "experiment.primary.mde", "drfit", "metadata.name"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nmodel: b\n", "2: not valid YAML: found duplicate key"),
        ("model: [\n", "not valid YAML"),
        ("- a\n", "1: ['a']: expected a mapping"),
        ("", "1: None: expected a mapping"),
        ("&a\nmodel: *a\n", "an alias that contains itself"),
        ("model: !!python/object:os.system x\n", "rollout.yaml:1: model: "),
        ("model: " + "[" * 120 + "]" * 120, "nested more than 100 deep"),
        ("model: " + "[" * 2000, "nested more than 100 deep"),
        ("1: 2\n", "keys are text"),
        ("a: 1\n" + "b: \t- x\n\x00", "not valid YAML"),
    ],
)  # fmt: skip
def test_text_that_is_no_manifest_is_named(folder: Path, text: str, message: str):
    (folder / "churn" / "rollout.yaml").write_text(text)
    assert message in "\n".join(map(str, load_models(folder).errors))


def test_a_missing_service_file_is_named(folder: Path):
    (folder / "churn" / "inferenceservice.yaml").unlink()
    [error] = load_models(folder).errors
    assert "inferenceservice.yaml:1: cannot be read: No such file" in str(error)


def test_a_pasted_alert_url_is_refused_without_repeating_it(folder: Path):
    _replace(folder / "churn" / "rollout.yaml", "ONCALL_URL", "'slack://token-s3cret'")
    [error] = load_models(folder).errors
    assert "alerts.critical[0]: expected the name of an environment variable" in str(error)
    assert "s3cret" not in str(error)


def _replace(path: Path, old: str, new: str) -> str:
    text = path.read_text()
    assert old in text
    text = text.replace(old, new, 1)
    path.write_text(text)
    return text
