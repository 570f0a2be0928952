"""The plan of the whole decision: how likely is a version that is as good as the champion promoted within `max_duration`?

Every metric must hold at once, and each step has floors that no statistics shorten: its duration, its units, the windows that
data checks and drift look at, and the outcomes that are waited for. The plan names what takes longest, and what to change.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property

from pipelines.core.manifest.model import (
    Guardrail,
    Metric,
    Primary,
    RolloutManifest,
    format_duration,
)
from pipelines.core.statistics.healthy import Awaited
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.look_spec import Direction, MetricSpec
from pipelines.core.statistics.planning import Baseline, duration_words
from pipelines.core.statistics.power import power_each
from pipelines.core.statistics.promotion import RUNS, Course, Played, Stage, play
from pipelines.core.statistics.proportions import same_units
from pipelines.core.vocabulary import OnFail
from pipelines.experiments.floors import Expected, PlannedStep, planned_steps
from pipelines.experiments.history import horizon, metrics_of
from pipelines.experiments.look_inputs import bucket_width_within, part_of
from pipelines.experiments.registering import FEWEST_UNITS, register
from pipelines.rollouts.harm_budget import harm_budget
from resources.lake.measuring import Known

_DAY = timedelta(days=1)

_BEYOND, _FEWER = 8.0, 1000
"""How far beyond `max_duration` it is looked for the time that it takes, and in how many rollouts."""

_PLAYED, _FEWEST_PLAYED = 20_000, 1500
"""Metrics times rollouts, so that a plan takes seconds; and rollouts."""


@dataclass(frozen=True, kw_only=True)
class PromotionPlan:
    """The chance of the whole decision, in numbers and in words."""

    manifest: RolloutManifest
    steps: tuple[PlannedStep, ...]
    metrics: tuple[Metric, ...]
    course: Course
    """Steps that do not end in time last as long as `step.min_duration` in it."""
    played: Played
    further: Played | None
    """Played beyond `max_duration`, where something takes longer than that."""

    @property
    def power(self) -> float:
        """The chance that is asked for."""
        return self.manifest.experiment.power

    @property
    def days(self) -> float:
        """The maximum duration."""
        return self.course.max_days

    @property
    def blocked(self) -> PlannedStep | None:
        """The step that does not end in time."""
        return next((step for step in self.steps if math.isinf(step.floor.days)), None)

    @property
    def chance(self) -> float:
        """P(promoted | as good as the champion, within `max_duration`), the metrics being independent."""
        return 0.0 if self.blocked else self.played.chance(self.days)

    @property
    def bounds(self) -> tuple[float, float]:
        """Between which it lies, however the metrics depend on each other."""
        return (0.0, 0.0) if self.blocked else self.played.bounds(self.days)

    @property
    def is_powered(self) -> bool:
        """Whether the chance is what is asked for."""
        return self.chance >= self.power

    @property
    def needed_days(self) -> float:
        """When the chance is what is asked for; infinite where it is not for eight times `max_duration`."""
        return math.inf if self.blocked else self._first(lambda played: played.days_until(self.power))

    @property
    def each(self) -> float:
        """What each metric must hold with by itself, so that all do."""
        return power_each(self.power, len(self.metrics))

    def _first(self, days: Callable[[Played], float]) -> float:
        """As played within the maximum duration, or else beyond it."""
        within = days(self.played)
        return within if math.isfinite(within) or self.further is None else days(self.further)

    def metric_days(self, index: int) -> float:
        """When the metric holds by itself with what is needed of each."""
        wanted = self.each * (1 - self.course.srm_alpha)
        return self._first(lambda played: played.days_alone(index, wanted))

    def metric_chance(self, index: int) -> float:
        """How often it holds by itself within the maximum duration."""
        return self.played.chance_alone(index, self.days)

    @cached_property
    def slowest(self) -> int:
        """The metric that takes longest."""
        order = range(len(self.metrics))
        return max(order, key=lambda i: (self.metric_days(i), -self.metric_chance(i)))

    @property
    def waits_for_floors(self) -> bool:
        """Whether no metric takes clearly longer than the steps last anyway."""
        return self.metric_days(self.slowest) <= 1.05 * self.course.least_days + 1e-9

    @property
    def bottleneck(self) -> str:
        """What takes longest, and what to change."""
        if self.blocked is not None:
            return _blocked_words(self, self.blocked)
        longest = max(self.steps, key=lambda step: step.floor.days)
        if self.waits_for_floors or self.course.least_days >= self.days:
            return (
                f"Bottleneck: the steps' floors, {duration_words(self.course.least_days)} together; at"
                f" {longest.name} {longest.floor.because}. {_lead(self)}: {longest.floor.change}{_or_longer(self)}."
            )
        return _metric_words(self, self.slowest)

    @property
    def headline(self) -> str:
        """The chance beside what is asked for."""
        found = (
            f"A version that is as good as the champion is promoted within {duration_words(self.days)} in"
            f" {_percent(self.chance)} of rollouts; asked for are {_percent(self.power)}"
        )
        if self.is_powered:
            return f"{found}, which takes {duration_words(self.needed_days)}."
        if self.blocked is not None:
            return f"{found}."
        needed = self.needed_days
        later = duration_words(_BEYOND * self.days)
        return f"{found}, which takes {duration_words(needed) if math.isfinite(needed) else f'more than {later}'}."

    @property
    def sentences(self) -> tuple[str, ...]:
        """The plan in words, the most important first."""
        least, most = self.bounds
        apart = (
            f"All {len(self.metrics)} metrics must hold at once. They are taken to be independent; however they depend on"
            f" each other, the chance lies between {_percent(least)} and {_percent(most)}."
        )
        return (
            self.headline,
            *([apart] if len(self.metrics) > 1 and not self.blocked else []),
            self.bottleneck,
            *(step.words for step in self.steps if step != self.blocked),
            *(_constant_words(self, i) for i, metric in enumerate(self.course.metrics) if metric.is_constant),
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with it."""
        return () if self.is_powered else (f"{self.headline} {self.bottleneck}",)


def plan_promotion(manifest: RolloutManifest, expected: Expected, *, runs: int = RUNS) -> PromotionPlan:
    """Plan the whole decision from what is expected, by playing so many rollouts; fewer where there are many metrics.

    Raises:
        ParameterError: a metric of which too little is known, or no step that compares anything.
    """
    metrics = metrics_of(manifest)
    bucket = bucket_width_within(manifest.experiment.max_duration)
    awaited = tuple(_awaited(manifest, metric, expected) for metric in metrics)
    longest = max(each.window_days for each in awaited) + bucket / _DAY
    steps = planned_steps(manifest, expected, longest)
    usual = manifest.step.min_duration / _DAY
    course = Course(
        stages=tuple(
            Stage((step.percent or 0.0) / 100, step.floor.days if math.isfinite(step.floor.days) else usual)
            for step in steps
        ),
        metrics=awaited,
        budget=harm_budget(manifest),
        units_per_day=expected.units_per_day,
        max_days=manifest.experiment.max_duration / _DAY,
        alpha=manifest.experiment.alpha,
        advance_below=manifest.experiment.advance_below,
        bucket_days=bucket / _DAY,
    )
    runs = min(max(_PLAYED // len(metrics), _FEWEST_PLAYED), runs)
    made = PromotionPlan(
        manifest=manifest,
        steps=steps,
        metrics=metrics,
        course=course,
        played=play(course, runs=runs),
        further=None,
    )
    if all(math.isfinite(made.metric_days(i)) for i in range(len(metrics))) and made.is_powered:
        return made
    return replace(made, further=play(course, beyond=_BEYOND, runs=min(runs, _FEWER)))


def baseline_of(metric: Metric, known: Known, *, units_per_day: float) -> Baseline:
    """What is known of the champion, for a plan."""
    value = known.value
    if metric.type.is_share and not 0 < value < 1:
        # No event in n units does not mean that there never is one.
        value = (value * known.units + 0.5) / (known.units + 1)
    return Baseline(
        name=metric.name,
        kind=metric.type.kind,
        value=value,
        variance=known.variance,
        kurtosis=known.kurtosis,
        units_per_day=units_per_day,
    )


def _awaited(manifest: RolloutManifest, metric: Metric, expected: Expected) -> Awaited:
    known = expected.metrics.get(metric.name)
    if known is None or known.units < FEWEST_UNITS:
        raise ParameterError(f"{metric.name}: too little is known of the champion")
    baseline = baseline_of(metric, known, units_per_day=expected.units_per_day)
    return Awaited(
        spec=replace(_spec(manifest, metric, known), part=part_of(manifest, metric)),
        baseline=baseline,
        window_days=horizon(manifest, metric) / _DAY,
        looks=metric.looks,
        holds_back=not isinstance(metric, Guardrail) or metric.on_fail is not OnFail.WARN,
    )


def _spec(manifest: RolloutManifest, metric: Metric, known: Known) -> MetricSpec:
    """As the rollout would register it."""
    metrics = len(metrics_of(manifest))
    constants = register(metric, manifest.experiment, {metric.name: known}, origin="", metrics=metrics)
    if constants is not None:
        return constants.spec
    mde = metric.mde if isinstance(metric, Primary) else None
    if known.variance == 0 and mde is not None:
        return MetricSpec(name=metric.name, kind=metric.type.kind, mde=mde, better=Direction(metric.better))
    raise ParameterError(
        f"{metric.name}: the champion's value is {known.value:g}, of which no change can be a share; give it a margin"
    )


# What to change, in words.


def _blocked_words(made: PromotionPlan, step: PlannedStep) -> str:
    without = made.played.chance(made.days)
    return (
        f"Bottleneck: the step at {step.name} does not end in time: {step.floor.because}. To change: {step.floor.change}."
        f" With that the chance would be about {_percent(without)}."
    )


def _lead(made: PromotionPlan) -> str:
    return "Quicker with" if made.is_powered else "To change"


def _or_longer(made: PromotionPlan) -> str:
    if made.is_powered or not math.isfinite(made.needed_days):
        return ""
    return f"; or max_duration: {_as_written(made.needed_days)}"


def _metric_words(made: PromotionPlan, index: int) -> str:
    metric, days = made.metrics[index], made.metric_days(index)
    takes = (
        duration_words(days) if math.isfinite(days) else f"more than {duration_words(_BEYOND * made.days)}"
    )
    changes = _changes(made, index, days)
    said = "; or ".join(changes)
    return (
        f"Bottleneck: {metric.name}. By itself it keeps its margin in {_percent(made.metric_chance(index))} of rollouts"
        f" within {duration_words(made.days)}; the {_percent(made.each)} that are needed of each metric take {takes}."
        f" {_lead(made)}: {said}."
    )


def _changes(made: PromotionPlan, index: int, days: float) -> Sequence[str]:
    metric = made.metrics[index]
    found = list[str]()
    if not made.is_powered and math.isfinite(made.needed_days):
        found.append(f"max_duration: {_as_written(made.needed_days)}")
    found.append(_larger_margin(made, index, days))
    last = made.steps[-1].percent or 0.0
    if last < 50:
        found.append(f"a step of 50 before the promotion, where {last:g} is the last one")
    takes = metric.type.takes
    if "winsorise" in takes and metric.winsorise is None and metric.cap is None:
        found.append("winsorise, for less noise")
    if "covariate" in takes and metric.covariate is None:
        found.append("a covariate, for less noise")
    return found


def _larger_margin(made: PromotionPlan, index: int, days: float) -> str:
    """What can be shown of a margin grows with the square root of what the difference is known by."""
    metric = made.metrics[index]
    key = "mde" if isinstance(metric, Primary) and metric.margin is None else "margin"
    course = made.course
    now = course.weight(course.max_days, index)
    if made.is_powered or not math.isfinite(days) or days <= course.max_days or not now:
        return f"a larger {key}"
    factor = math.sqrt(course.weight(days, index) / now)
    if key == "mde" and isinstance(metric, Primary):
        return f"mde: {_up(100 * metric.mde * factor)}% in place of {100 * metric.mde:g}%"
    margin = course.metrics[index].margin
    scale, unit = (100, "pp") if metric.type.is_share else (1, "")
    return f"margin: {_up(scale * margin * factor)}{unit} in place of {scale * margin:g}{unit}"


def _up(value: float) -> str:
    """Two digits, rounded up: what is said must do."""
    digits = 1 - math.floor(math.log10(value))
    return f"{math.ceil(value * 10**digits - 1e-9) / 10**digits:g}"


def _as_written(days: float) -> str:
    """As a manifest writes it, rounded up."""
    for unit in (_DAY, timedelta(hours=1), timedelta(minutes=1)):
        if days * _DAY >= 2 * unit:
            return format_duration(math.ceil(days * _DAY / unit) * unit)
    return format_duration(timedelta(seconds=math.ceil(days * 86400)))


def _constant_words(made: PromotionPlan, index: int) -> str:
    metric = made.course.metrics[index]
    needed = same_units(made.course.alpha)
    return (
        f"{metric.spec.name}: every unit of the champion has the same value, {metric.baseline.value:g}. Equal values are"
        f" within any margin, once {needed:,.0f} units of each version are counted."
    )


def _percent(share: float) -> str:
    if 0 < share < 0.005:
        return "less than 1 %"
    return f"{100 * share:.0f} %"
