"""The constants of one rollout's experiment: set once, before they matter, and read back ever after.

Margins, plans, caps and references that moved with the data would break what the tests promise. They come
from the champion's history before the rollout. Without a history, a metric waits for the champion's first
units of the rollout; its constants are fixed by them at that look.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.core.manifest.model import Better, Experiment, Guardrail, Method, Metric, Primary
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.look_spec import Direction, MetricSpec
from pipelines.core.statistics.power import Design, power_each
from pipelines.core.statistics.power import SequentialMethod as Analysis
from pipelines.experiments.history import outcomes_of
from resources.lake.measuring import Known

FEWEST_UNITS = 100
"""Champion units from which a baseline is worth setting constants by."""

_LISTED = 10
"""Outcomes that a reason names."""

LOOKS = 20
"""Enough to tune an anytime test; its validity does not depend on how it is tuned."""

METHODS = {Method.ANYTIME: Analysis.ANYTIME, Method.GROUP_SEQUENTIAL: Analysis.GROUP_SEQUENTIAL}


@dataclass(frozen=True, kw_only=True)
class RegisteredConstants:
    """One metric's constants."""

    spec: MetricSpec
    cap: float | None = None
    reference: float = 0.0
    """Subtracted from every unit's value before it is squared and summed."""
    covariate_reference: float = 0.0
    looks: int | None = None
    """Group sequential: how many looks are planned."""
    origin: str = "the manifest alone"
    """Where the constants come from, in words."""


def register(
    metric: Metric, experiment: Experiment, known: Mapping[str, Known], *, origin: str, metrics: int = 1
) -> RegisteredConstants | None:
    """The metric's constants; None while nothing is known that they need.

    `metrics` must hold for a promotion, this one with them: see `power_each`.
    """
    found = known.get(metric.name)
    if found is not None and found.units < FEWEST_UNITS:
        found = None
    if found is None and _needs_history(metric):
        return None
    effect = effect_planned(metric, found.value if found else 0.0)
    if effect <= 0:
        return None
    return RegisteredConstants(
        spec=_spec(metric, experiment, found, effect, metrics),
        cap=found.cap if found else metric.cap,
        reference=found.value if found and metric.type.kind is EffectKind.MEAN else 0.0,
        covariate_reference=(found.covariate or 0.0) if found else 0.0,
        looks=metric.looks if METHODS[metric.method].is_planned else None,
        origin=_origin(metric, found, origin) if found else RegisteredConstants.origin,
    )


def _origin(metric: Metric, found: Known, origin: str) -> str:
    if metric.winsorise is None or found.cap is not None:
        return origin
    return f"{origin}; nothing is capped, since `winsorise: {metric.winsorise:g}` would make all values one"


def effect_planned(metric: Metric, baseline: float) -> float:
    """The absolute effect that the experiment is planned for: the smallest worth seeing, or the margin."""
    if isinstance(metric, Primary):
        return metric.mde * abs(baseline) if metric.margin is None else metric.margin
    return metric.margin if isinstance(metric, Guardrail) else 0.0


def design(metric: Metric, experiment: Experiment, *, looks: int = 100) -> Design:
    """How the metric is looked at, for its plan: a guardrail must keep its margin, one-sided."""
    method = METHODS[metric.method]
    return Design(
        method=method,
        alpha=experiment.alpha,
        one_sided=isinstance(metric, Guardrail),
        looks=metric.looks if method.is_planned else looks,
    )


def waiting_words(metric: Metric, seen: frozenset[str]) -> str:
    """Why a metric is not looked at yet, where there are outcomes named `seen`."""
    missing = [name for name in outcomes_of(metric) if name not in seen]
    if missing:
        there = (
            f"so far there are {', '.join(sorted(seen)[:_LISTED])}"
            if seen
            else "so far there are none at all"
        )
        return f"not yet, there are no outcomes named {' or '.join(missing)} yet; {there}."
    return (
        f"not yet, there is no history of the champion to plan by, and fewer than {FEWEST_UNITS}"
        " of its units are counted so far (or their value is 0, of which no change can be a share, or what it is divided by"
        " is not clearly above 0)."
    )


def guardrail_spec(guardrail: Guardrail, experiment: Experiment) -> MetricSpec:
    """A guardrail by its margin alone, with nothing known of the champion."""
    return _spec(guardrail, experiment, None, guardrail.margin, 1)


def _needs_history(metric: Metric) -> bool:
    relative = isinstance(metric, Primary) and metric.margin is None
    return relative or metric.winsorise is not None or metric.covariate is not None


def _spec(
    metric: Metric, experiment: Experiment, found: Known | None, effect: float, metrics: int
) -> MetricSpec:
    # Planned looks end with the information that is planned: what does not hold by then never does, and all must hold. What may
    # be looked at any time goes on, and finds harm sooner where it is tuned to less.
    planned = METHODS[metric.method].is_planned
    power = power_each(experiment.power, metrics) if planned else experiment.power
    margin = metric.margin if isinstance(metric, Primary | Guardrail) else None
    return MetricSpec(
        name=metric.name,
        kind=metric.type.kind,
        better=Direction.LOWER if metric.better is Better.LOWER else Direction.HIGHER,
        is_primary=isinstance(metric, Primary),
        margin=margin if margin is not None else effect,
        mde=metric.mde if isinstance(metric, Primary) else None,
        baseline=_baseline(metric, found),
        planned_information=design(metric, experiment, looks=LOOKS).information(effect, power),
        method=METHODS[metric.method],
        use_covariate=metric.covariate is not None,
    )


def _baseline(metric: Metric, found: Known | None) -> float | None:
    """A rate of 0 or 1 tunes nothing: it only says that the history was short."""
    if found is None:
        return None
    if metric.type.is_share and not 0 < found.value < 1:
        return None
    return found.value
