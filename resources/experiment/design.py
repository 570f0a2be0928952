"""A manifest and a rollout's history -> what to read from the lake, and how to analyse it."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pipelines.manifest.model import Better, Guardrail, Method, Metric, MetricType, Primary, RolloutManifest
from pipelines.rollout.state import RolloutState
from pipelines.statistics.effects import Kind
from pipelines.statistics.look_spec import Direction, LookSpec, MetricSpec
from pipelines.statistics.power import Method as Analysis
from resources.lake.experiment import ExperimentQuery, MetricKind, MetricQuery, StepWindow

_KINDS = {
    MetricType.PROPORTION: Kind.PROPORTION,
    MetricType.RETENTION: Kind.PROPORTION,
    MetricType.MEAN: Kind.MEAN,
    MetricType.RATIO: Kind.RATIO,
}
_METHODS = {Method.ANYTIME: Analysis.ANYTIME, Method.GROUP_SEQUENTIAL: Analysis.GROUP_SEQUENTIAL}


def metrics_of(manifest: RolloutManifest) -> tuple[Metric, ...]:
    """The primary metric, then the guardrails."""
    return (manifest.experiment.primary, *manifest.guardrails)


def is_served(metric: Metric) -> bool:
    """Whether the serving side counts it, rather than the lake."""
    return metric.source.startswith("serving.")


def step_windows(state: RolloutState, now: datetime) -> tuple[StepWindow, ...]:
    """The times in which the share was certain and some live traffic went to the canary.

    Between the moment a change was begun and the one it was confirmed either share may have been in force:
    what was exposed then belongs to no step.
    """
    following = [weight.begun for weight in state.weights[1:]] + [now]
    spans = [(w, end) for w, end in zip(state.weights, following, strict=True) if w.percent > 0]
    steps = range(_shadow_steps(state), _shadow_steps(state) + len(spans))
    return tuple(
        StepWindow(weight.at, end, step)
        for step, (weight, end) in zip(steps, spans, strict=True)
        if weight.at < end
    )


def shares(state: RolloutState) -> dict[int, float]:
    """The canary's share of traffic (0 to 1) at each step of `step_windows`."""
    percents = [weight.percent for weight in state.weights if weight.percent > 0]
    return {step: percent / 100 for step, percent in enumerate(percents, start=_shadow_steps(state))}


def lake_query(
    manifest: RolloutManifest, state: RolloutState, windows: Sequence[StepWindow], *, watermark: datetime
) -> ExperimentQuery:
    """What the lake is asked: every metric that the serving side does not count itself."""
    if state.champion is None:
        raise ValueError(f"{state.rollout_id} has no champion to compare with")
    return ExperimentQuery(
        champion=state.champion,
        challenger=state.version,
        steps=tuple(windows),
        metrics=tuple(_query(metric) for metric in metrics_of(manifest) if not is_served(metric)),
        outcome_window=manifest.experiment.outcome_window,
        watermark=watermark,
        by_request=manifest.experiment.unit == "request",
        bucket=_bucket(state, watermark),
    )


def look_spec(
    manifest: RolloutManifest, by_step: dict[int, float], metrics: Iterable[MetricSpec]
) -> LookSpec:
    """How the look is analysed: one error budget over all of the rollout's metrics."""
    return LookSpec(
        metrics=tuple(metrics),
        alpha=manifest.experiment.alpha,
        tests=len(metrics_of(manifest)),
        shares=by_step,
    )


def metric_spec(metric: Metric, *, past_fractions: tuple[float, ...] = ()) -> MetricSpec:
    """One metric as the analysis sees it."""
    return MetricSpec(
        name=metric.name,
        kind=_KINDS[metric.type],
        better=Direction.LOWER if metric.better is Better.LOWER else Direction.HIGHER,
        is_primary=isinstance(metric, Primary),
        margin=metric.margin if isinstance(metric, Primary | Guardrail) else None,
        mde=metric.mde if isinstance(metric, Primary) else None,
        method=_METHODS[metric.method],
        past_fractions=past_fractions,
        use_covariate=metric.covariate is not None,
    )


def _shadow_steps(state: RolloutState) -> int:
    """How many steps of the ramp come before the first percent."""
    return sum(step == "shadow" for step in state.policy.ramp)


def _query(metric: Metric) -> MetricQuery:
    return MetricQuery(
        name=metric.name,
        kind=MetricKind(metric.type.value),
        source=metric.source,
        denominator=metric.denominator,
        covariate=metric.covariate,
        cap=metric.cap,
        retention=metric.retention,
    )


def _bucket(state: RolloutState, watermark: datetime) -> timedelta:
    """About a hundred exposure buckets over the rollout so far, from a second to an hour."""
    wanted = (watermark - state.started_at) / 100
    return min(max(wanted, timedelta(seconds=1)), timedelta(hours=1))
