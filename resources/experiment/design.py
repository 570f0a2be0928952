"""A manifest, the registered constants and a rollout's history -> what to read from the lake, and how to analyse it."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pipelines.manifest.model import RolloutManifest
from pipelines.rollout.state import Phase, RolloutState
from pipelines.statistics.look_spec import LookSpec
from resources.experiment.final_cells import bucket_width
from resources.experiment.queries import is_counted_live, metric_query, metrics_of
from resources.experiment.registering import Registered
from resources.guardrails.counting import harm_tests
from resources.lake.experiment import ExperimentQuery, StepWindow


def step_windows(state: RolloutState, now: datetime) -> tuple[StepWindow, ...]:
    """The times in which the share was certain and some live traffic went to the canary.

    Between the moment a change was begun and the one it was confirmed either share may have been in force:
    what was exposed then belongs to no step. A dry run has none: its shares never come into force.
    """
    if not state.weights:
        return ()
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
    manifest: RolloutManifest,
    state: RolloutState,
    windows: Sequence[StepWindow],
    registered: Mapping[str, Registered],
    *,
    watermark: datetime,
) -> ExperimentQuery:
    """What the lake is asked: every registered metric that the serving side does not count itself."""
    if state.champion is None:
        raise ValueError(f"{state.rollout_id} has no champion to compare with")
    by_request = manifest.experiment.unit == "request"
    asked = [m for m in metrics_of(manifest) if m.name in registered and not is_counted_live(manifest, m)]
    return ExperimentQuery(
        champion=state.champion,
        challenger=state.version,
        steps=tuple(windows),
        metrics=tuple(
            metric_query(
                metric,
                by_request=by_request,
                cap=registered[metric.name].cap,
                reference=registered[metric.name].reference,
                covariate_reference=registered[metric.name].covariate_reference,
            )
            for metric in asked
        ),
        outcome_window=manifest.experiment.outcome_window,
        watermark=watermark,
        by_request=by_request,
        bucket=bucket_width(state),
    )


def look_spec(
    manifest: RolloutManifest,
    by_step: dict[int, float],
    registered: Sequence[Registered],
    *,
    is_final: bool,
) -> LookSpec:
    """How the look is analysed: one error budget over all of the rollout's metrics."""
    return LookSpec(
        metrics=tuple(constants.spec for constants in registered),
        alpha=manifest.experiment.alpha,
        tests=harm_tests(manifest),
        shares=by_step,
        is_final=is_final,
    )


def ends_at(state: RolloutState) -> datetime:
    """When the experiment is over, whatever it has found."""
    test = state.policy.ab_test
    if test is not None and state.phase is Phase.STEPPING:
        return state.since + test.duration
    return state.started_at + state.policy.max_duration


def is_final_look(state: RolloutState, now: datetime, *, look_every: timedelta) -> bool:
    """Whether no other look fits in before the end."""
    return now + 1.5 * look_every >= ends_at(state)


def _shadow_steps(state: RolloutState) -> int:
    """How many steps of the ramp come before the first percent."""
    return sum(step == "shadow" for step in state.policy.ramp)
