"""The plan of a rollout from the champion's own history: how likely it ends well, how long, how small."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.core.manifest.model import Metric, Primary, RolloutManifest
from pipelines.core.statistics.inputs import ParameterError
from pipelines.core.statistics.planning import Plan, Target, duration_words, plan, power_curve
from pipelines.experiments.floors import Expected
from pipelines.experiments.history import History, champion_history, metrics_of
from pipelines.experiments.promotion_plan import PromotionPlan, baseline_of, plan_promotion
from pipelines.experiments.registering import FEWEST_UNITS, design
from resources.lake.connection import Lake
from resources.lake.measuring import Known
from resources.pictures import PowerAt

_LOOKS = 50
"""The power of an anytime test hardly depends on it, the time to compute it does."""

_CURVE = 12


@dataclass(frozen=True, kw_only=True)
class MetricPlan:
    """One metric's plan, or why there is none."""

    metric: str
    plan: Plan | None
    problem: str = ""
    note: str = ""
    """Why there is none, where nothing is wrong with that."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong, in words."""
        if self.plan is not None:
            return self.plan.warnings
        return (self.problem,) if self.problem else ()


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan:
    """The whole decision, and all metrics of the rollout; the primary first."""

    history: History
    promotion: PromotionPlan | None
    """None where too little is known of a metric, which says so itself."""
    metrics: tuple[MetricPlan, ...]
    note: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """All of them, in words."""
        whole = self.promotion.warnings if self.promotion else ()
        return (*whole, *(warning for metric in self.metrics for warning in metric.warnings))

    @property
    def primary(self) -> Plan | None:
        """The plan of what the rollout is for."""
        return self.metrics[0].plan


def plan_experiment(lake: Lake, manifest: RolloutManifest, champion: str, *, now: datetime) -> ExperimentPlan:
    """Plan the whole decision and every metric from the champion's last two weeks. Raises `LakeError`."""
    metrics = metrics_of(manifest)
    history = champion_history(lake, manifest, champion, metrics, until=now)
    return ExperimentPlan(
        history=history,
        promotion=_promotion(manifest, history),
        metrics=tuple(_plan(manifest, history, metric) for metric in metrics),
        note=_note(manifest, history),
    )


def _promotion(manifest: RolloutManifest, history: History) -> PromotionPlan | None:
    try:
        return plan_promotion(
            manifest, Expected(history.units_per_day, history.requests_per_day, history.metrics)
        )
    except ParameterError:
        # The metric that cannot be planned says why, below.
        return None


def curve(made: Plan) -> list[PowerAt]:
    """Power against units of the challenger's arm, at the step that answers soonest."""
    best = made.best
    planned = best.challenger_units + best.champion_units
    points: list[PowerAt] = []
    for k in range(1, _CURVE + 1):
        units = planned * 1.5 * k / _CURVE
        power = power_curve(made.baseline, made.target, units=units, share=best.share, effects=[made.effect])
        points.append(PowerAt(units * best.share, power[0]))
    return points


def _plan(manifest: RolloutManifest, history: History, metric: Metric) -> MetricPlan:
    known = history.metrics.get(metric.name)
    if known is None or known.units < FEWEST_UNITS:
        seen = known.units if known else 0
        problem = (
            f"{metric.name}: no plan, the champion has {seen} counted units in the last two weeks and"
            f" {FEWEST_UNITS} are needed. Plan by hand: python -m pipelines.experiments --help"
        )
        return MetricPlan(metric=metric.name, plan=None, problem=problem)
    if not metric.type.is_share and known.variance == 0:
        return MetricPlan(metric=metric.name, plan=None, note=_without_variance(metric, known))
    shares = [step / 100 for step in manifest.steps if step != "shadow"]
    days = manifest.experiment.max_duration / timedelta(days=1)
    try:
        made = plan(
            baseline_of(metric, known, units_per_day=history.units_per_day),
            _target(manifest, metric),
            shares=shares,
            max_days=days,
        )
    except ParameterError as error:
        return MetricPlan(metric=metric.name, plan=None, problem=f"{metric.name}: no plan, {error}")
    return MetricPlan(metric=metric.name, plan=made)


def _without_variance(metric: Metric, known: Known) -> str:
    return (
        f"{metric.name}: no difference to plan for. All {known.units:,} units of the champion have the same value,"
        f" {known.value:g}; equal values are within any margin"
    )


def _target(manifest: RolloutManifest, metric: Metric) -> Target:
    experiment = manifest.experiment
    chosen = design(metric, experiment, looks=_LOOKS)
    if isinstance(metric, Primary):
        return Target(mde=metric.mde, power=experiment.power, design=chosen)
    return Target(margin=getattr(metric, "margin", None), power=experiment.power, design=chosen)


def _note(manifest: RolloutManifest, history: History) -> str:
    known = duration_words((history.end - history.start) / timedelta(days=1))
    window = duration_words(manifest.experiment.outcome_window / timedelta(days=1))
    return (
        f"From {known} of history: {history.units_per_day:,.0f} units and {history.requests_per_day:,.0f} requests a day."
        f" Outcomes count for {window} after exposure, which comes on top of what the table of metrics gives."
    )
