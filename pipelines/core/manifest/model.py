"""The shape of `rollout.yaml` and the small values it is written in. Every default is one worth keeping;
see docs/adding-a-model.md.
"""

import re
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from pipelines.core.metric_types import TYPES, MetricType, Missing, listed
from pipelines.core.vocabulary import AfterTest, OnFail, OnNewChallenger, OnUnknown

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

MAX_DURATION_SECONDS = 520 * 604800

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")


def parse_duration(value: Any) -> timedelta:
    """`250ms`, `15m`, `2h`, `7d` as a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 250ms, 30s, 15m, 2h, 7d or 1w")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError("expected a duration of at most 520w")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as the same value: 24 h is `1d`."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("w", "d", "h", "m", "s"):
        whole, rest = divmod(milliseconds, round(_UNITS[unit] * 1000))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{milliseconds}ms"


def _suffixed(suffix: str, scale: float, example: str) -> Any:
    pattern = re.compile(rf"^\s*(-?\d+(?:\.\d+)?)\s*{re.escape(suffix)}\s*$")

    def parse(value: Any) -> float:
        match = pattern.match(value) if isinstance(value, str) else None
        if match is not None:
            return float(match[1]) * scale
        if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
        raise ValueError(f"expected a number with the unit {suffix!r}, such as {example}")

    return parse


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["250ms", "15m", "7d"]}),
]

RelativeChange = Annotated[
    float,
    BeforeValidator(_suffixed("%", 0.01, "5%")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["5%", 0.05]}),
]
"""A share of the champion's value: `5%` is 0.05."""

Margin = Annotated[
    float,
    BeforeValidator(_suffixed("pp", 0.01, "0.5pp")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["0.5pp", 0.005]}),
]
"""An absolute difference: `0.5pp` is 0.005; a bare number is in the metric's own unit."""


def _metric_type(value: Any) -> MetricType:
    if isinstance(value, MetricType):
        return value
    found = TYPES.get(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"expected {listed(TYPES.values())}")
    return found


def _name(found: MetricType) -> str:
    return found.name


WrittenType = Annotated[
    MetricType,
    PlainValidator(_metric_type),
    PlainSerializer(_name, return_type=str),
    WithJsonSchema({"type": "string", "enum": list(TYPES)}),
]
"""A metric's type, by the name of one of `TYPES`."""


def _step(value: Any) -> Any:
    if value == "shadow" or (isinstance(value, float | int) and not isinstance(value, bool)):
        return value
    raise ValueError("expected a percentage such as 10, or shadow")


Step = Annotated[
    Literal["shadow"] | Annotated[float, WithJsonSchema({"type": "number"})], BeforeValidator(_step)
]
"""A share of traffic in percent, or `shadow`: a copy of live traffic whose answers reach nobody."""

# The shape of `rollout.yaml`. Every default is one worth keeping; see docs/adding-a-model.md.


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Better(StrEnum):
    LOWER = "lower"
    HIGHER = "higher"


class Method(StrEnum):
    ANYTIME = "anytime"
    GROUP_SEQUENTIAL = "group_sequential"


class Metric(_Frozen):
    """A business or serving metric, per unit."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
    type: WrittenType
    source: str
    """`serving.errors`, `serving.over_slo`, `outcomes.<metric>`, or `predictions.<column>`."""
    denominator: str | None = None
    """For `type: ratio`: the source of the denominator."""
    better: Better = Better.LOWER
    winsorise: Annotated[float, Field(gt=0.5, le=1)] | None = None
    """Cap values at this quantile of the champion's history, e.g. 0.999."""
    cap: float | None = None
    """Cap values at this number (a registered constant; takes the place of `winsorise`)."""
    covariate: str | None = None
    """CUPED: an input of the model, which is known before the answer, e.g. `predictions.distance`."""
    retention: Duration | None = None
    """For `type: retention`: a unit counts when it is seen again this long after exposure."""
    slo: Duration | None = None
    """For `source: serving.over_slo`: slower answers count."""
    missing: Missing | None = None
    """For outcomes: a unit without one when its outcome window is over counts as 0 (`zero`: nothing came of it), or is left
    out (`exclude`: it is not known what came of it), and more of them left out at one version hold the rollout. By default
    `zero` for `type: proportion` and `exclude` for `mean` and `ratio`."""
    method: Method = Method.ANYTIME
    looks: Annotated[int, Field(ge=1, le=100)] = 5
    """For `method: group_sequential`: how many looks are planned."""


class Primary(Metric):
    """The metric that the rollout is for."""

    mde: RelativeChange
    """The smallest relative change worth detecting; also the non-inferiority margin unless `margin` is set."""
    margin: Margin | None = None


class Guardrail(Metric):
    """A metric that must not get worse by more than its margin."""

    margin: Margin
    on_fail: OnFail = OnFail.ROLL_BACK


class Experiment(_Frozen):
    """What is compared between champion and challenger, and how sure one has to be."""

    unit: str = "request"
    """`request`, or the name of the unit id that callers send in the `x-unit-id` header."""
    primary: Primary
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    advance_below: Annotated[float, Field(gt=1)] = 3
    """More traffic, and the promotion, only while every metric's evidence of harm is below so much to 1. What is above
    waits; it never rolls back."""
    outcome_window: Duration = timedelta(hours=24)
    """How long after exposure an outcome still counts; a unit is counted once this has passed."""
    slices: Annotated[tuple[str, ...], Field(max_length=5)] = ()
    """Inputs of the model, such as `carrier`, by whose values every metric is compared as well: harm in a part of the traffic is
    found there, and the part is named. Of each the 50 most frequent values of the champion's requests before the rollout."""
    look_every: Duration = timedelta(minutes=5)
    max_duration: Duration = timedelta(days=14)


class StepFloor(_Frozen):
    """What a step must have seen, whatever the statistics say, before the next one."""

    min_duration: Duration = timedelta(minutes=30)
    min_units: Annotated[int, Field(ge=0)] = 200
    """Per arm, counted units at this step."""


class Freeze(_Frozen):
    """A window in which nothing advances; rollbacks are never frozen."""

    cron: str
    duration: Duration
    timezone: str = "UTC"


ValidationMetric = Literal["roc_auc", "log_loss", "rmse", "mae"]

CheckType = Literal["not_null", "between", "in_set", "unique", "matches", "mean_between"]


class Validation(_Frozen):
    """What a version must show before it gets any traffic."""

    label: str | None = None
    """The outcome metric that is the label; with it, champion and challenger are compared offline."""
    metric: ValidationMetric = "roc_auc"
    max_worse: Annotated[float, Field(ge=0)] = 0.02
    """How much worse than the champion the challenger may be offline, in the metric's own unit."""
    rows: Annotated[int, Field(ge=50)] = 2000
    """Most recent logged requests that are replayed, and most recent ones with a label that the comparison uses."""
    replay: bool = True
    """Whether the champion's logged requests are sent to the challenger before any traffic. Leave it on: without it a
    version that cannot answer what callers send is only found by its first callers."""
    required: tuple[Literal["replay", "comparison"], ...] = ()
    """What must have been possible before any traffic: `replay` waits for logged requests of the champion, `comparison`
    for labels. What is not named here is done where it can be, and said where it cannot."""
    timeout: Duration = timedelta(minutes=3)
    """How long a version may take to become ready."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.8
    """For a `shadow` step: the share of answers that must agree with the champion's, for each output."""
    agreement_tolerance: Annotated[float, Field(ge=0)] = 0.5
    """How far numbers may be apart and still agree, in standard deviations of the champion's answers."""
    agreement_rows: Annotated[int, Field(ge=1)] = 200
    """How many answers must have been compared before a `shadow` step can end."""


class ArtefactRules(_Frozen):
    allow: tuple[Literal["cloudpickle", "pickle", "custom_code"], ...] = ()
    """Formats that execute code on load and are accepted for this model."""


class PredictionLog(_Frozen):
    """How much one request may hold. A larger one is answered with 413, and what another server logged of one is not
    loaded."""

    max_rows: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """Rows of one request."""
    max_bytes: Annotated[int, Field(ge=1024, le=256 * 1024 * 1024)] = 8 * 1024 * 1024
    """Bytes of one request's body. The gateway has a limit of its own, which is the same where nothing else is said."""


class Check(_Frozen):
    """One data check on a window of the prediction log."""

    column: str
    """`features.<name>` or `outputs.<name>`."""
    type: CheckType
    min: float | None = None
    max: float | None = None
    values: tuple[str | float | int, ...] | None = None
    regex: str | None = None
    mostly: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The share of rows that must satisfy the check."""
    on_fail: OnFail = OnFail.HOLD


class DataChecks(_Frozen):
    window: Duration = timedelta(hours=1)
    min_rows: Annotated[int, Field(ge=1)] = 200
    sample_rows: Annotated[int, Field(ge=100)] = 100_000
    checks: tuple[Check, ...] = ()


class Drift(_Frozen):
    window: Duration = timedelta(hours=1)
    min_rows: Annotated[int, Field(ge=10)] = 500
    """Below it the answer is "insufficient data" (unknown)."""
    sample_rows: Annotated[int, Field(ge=100)] = 50_000
    columns: tuple[str, ...] = ()
    """`features.<name>` / `outputs.<name>`; empty: all features and outputs."""
    threshold: Annotated[float, Field(gt=0)] = 0.1
    """Score (Wasserstein normed, Jensen-Shannon) from which a column counts as drifted."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of drifted columns from which the window counts as drifted."""
    on_fail: OnFail = OnFail.HOLD


class Alerts(_Frozen):
    info: tuple[str, ...] = ()
    """Names of apprise URLs' environment variables, e.g. `RAMPGATE_ALERTS_TEAM`; never the URLs themselves."""
    warning: tuple[str, ...] = ()
    critical: tuple[str, ...] = ()


class Training(_Frozen):
    """An optional recipe that trains and registers versions of this model."""

    recipe: Annotated[str, Field(pattern=r"^[\w.]+:[A-Za-z_]\w*$")]
    """`package.module:function`."""


class AbTest(_Frozen):
    """Two versions held at a fixed share for a period; started by a person, never by the alias."""

    share: Annotated[float, Field(gt=0, lt=100)] = 50
    """Percent of traffic that the challenger gets."""
    duration: Duration = timedelta(days=7)
    then: AfterTest = AfterTest.KEEP
    """What follows the period: the champion stays, or a challenger that is better takes its place."""


BAKES = {"low": timedelta(0), "standard": timedelta(hours=1), "high": timedelta(hours=24)}
"""How long the tiers' previous champions stay warm."""


class RolloutManifest(_Frozen):
    """One model's `rollout.yaml`."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    """The registered model's name in MLflow, and the InferenceService's name."""
    description: str = ""
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    """Percent of traffic, growing, ending at 100; may begin with `shadow`."""
    tier: Literal["low", "standard", "high"] = "standard"
    experiment: Experiment
    guardrails: tuple[Guardrail, ...] = ()
    step: StepFloor = StepFloor()
    max_unknown: Duration = timedelta(hours=1)
    """How long evidence may stay unknown before `on_unknown` is taken."""
    on_unknown: OnUnknown = OnUnknown.ROLL_BACK
    on_new_challenger: OnNewChallenger = OnNewChallenger.WAIT
    """When another version gets the alias `challenger` while a rollout is open: it waits for the end, or the open
    rollout is aborted and gives way; one that is promoted and bakes ends its bake. An A/B test never gives way."""
    bake: Duration | None = None
    """How long the previous champion stays warm after a promotion, while the same tests go on and harm restores it;
    `0s` ends it with the promotion. By default as the tier says: nothing for `low`, `1h`, and `24h` for `high`."""
    holdback: Annotated[float, BeforeValidator(_suffixed("%", 1.0, "2%")), Field(ge=0, le=50)] = 2.0
    """Percent of traffic that the previous champion keeps during the bake: what the new one is compared with."""
    approval: Literal["none", "promote", "every_step"] = "none"
    freeze: tuple[Freeze, ...] = ()
    ab_test: AbTest | None = None
    """For the start job's mode `ab_test`; rollouts do not read it."""
    dry_run: bool = False
    validation: Validation = Validation()
    artefact: ArtefactRules = ArtefactRules()
    data_checks: DataChecks = DataChecks()
    drift: Drift = Drift()
    training: Training | None = None
    durability: Literal["process", "power"] = "process"
    """Prediction log: survives process death (`process`), or power loss too (`power`: fdatasync group commit)."""
    prediction_log: PredictionLog = PredictionLog()
    alerts: Alerts = Alerts()

    @property
    def bakes_for(self) -> timedelta:
        """The bake, where the manifest says nothing as its tier does."""
        return BAKES[self.tier] if self.bake is None else self.bake
