"""What is known of a metric before an experiment, and the variance that its analysis will work with."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import ParameterError, require_between, require_positive
from pipelines.core.statistics.power import Design, information_per_unit
from pipelines.core.statistics.proportions import ENOUGH_EVENTS, EXACT_PART, rare_event_trials
from pipelines.core.statistics.sequences import FEWEST_EVENTS

_UNITS = (("day", 86400.0), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))

_MOST_OF_NEXT = 2.0
"""A day and a half is told in hours: up to so many of a unit the next smaller one is."""


def duration_words(days: float) -> str:
    """`12 days`, `36 hours`, `6 seconds`: a duration as a person says it; `never` where it is infinite."""
    if not math.isfinite(days):
        return "never"
    seconds = days * 86400
    if seconds < 1:
        return "less than a second"
    name, length = next((each for each in _UNITS if seconds >= _MOST_OF_NEXT * each[1]), _UNITS[-1])
    amount = seconds / length
    said = f"{amount:,.0f}" if amount >= 10 else f"{amount:.2g}"
    return f"{said} {name}" if said == "1" else f"{said} {name}s"


_HALF_NORMAL = 1 / math.sqrt(2 * math.pi)
"""Mean of max(0, X) of a standard normal X."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is known of a metric under the champion, from the lake's history or from a person."""

    name: str
    kind: EffectKind
    value: float
    """Mean, rate or ratio per unit."""
    variance: float | None = None
    """Per unit; rate (1 - rate) for a proportion, that of the residual y - R d over the squared mean of d for a ratio R."""
    kurtosis: float = 3.0
    """Of the values per unit, 3 for a normal variable; computed for a proportion."""
    units_per_day: float
    """Traffic of both variants together, in units of the experiment."""

    def per_unit_variance(self) -> float:
        """The variance, computed for a proportion.

        Raises:
            ParameterError: no variance given for a mean or a ratio, or a rate outside (0, 1).
        """
        if self.kind.is_count:
            return require_between(f"{self.name}: baseline rate", self.value, 0, 1) * (1 - self.value)
        if self.variance is None:
            raise ParameterError(f"{self.name}: a {self.kind} needs its variance per unit")
        if self.variance == 0:
            raise ParameterError(
                f"{self.name}: variance == 0, every unit has the same value: equal values are within any margin, and there is"
                " no difference to plan for"
            )
        return require_positive(f"{self.name}: variance", self.variance)

    def analysed_variance(self, *, share: float, effect: float, units: float) -> float:
        """Per unit, as max(Welch, pooled) will see it on average.

        Args:
            share: the challenger's, above 0 and below 1.
            effect: absolute; a rate that moves by it changes its variance. The worse direction is taken.
            units: of both arms; with few, the larger of two estimates lies above the truth.
        """
        variance = self.per_unit_variance()
        if self.kind.is_count:
            variance = max(_moved(self.value, self.value + move, share) for move in (effect, -effect))
        kurtosis = 1 / (self.value * (1 - self.value)) - 3 if self.kind.is_count else self.kurtosis
        # Welch minus pooled is (1 - 2 share)(s1^2 - s0^2) of the pooled variance.
        spread = abs(1 - 2 * share) * math.sqrt(max(kurtosis - 1, 0.0) / (share * (1 - share) * units))
        return variance * (1 + _HALF_NORMAL * min(spread, 1.0))


def _moved(rate: float, other: float, share: float) -> float:
    """The larger of Welch's and the pooled variance per unit when the challenger's rate is `other`."""
    other = min(max(other, 0.0), 1.0)
    pooled = share * other + (1 - share) * rate
    welch = (1 - share) * other * (1 - other) + share * rate * (1 - rate)
    return max(welch, pooled * (1 - pooled))


# The plan of an experiment before it starts: how long it takes, what it can see, and a warning if it cannot.


@dataclass(frozen=True, kw_only=True)
class Target:
    """What must be seen: a relative effect (superiority), or that a margin is not exceeded."""

    mde: float | None = None
    """Relative, e.g. 0.05 for 5 % of the baseline."""
    margin: float | None = None
    """Absolute, in the metric's unit: plans for a version that is exactly as good as the champion."""
    power: float = 0.8
    design: Design = field(default_factory=Design)

    def effect(self, baseline: Baseline) -> float:
        """The absolute effect to plan for.

        Raises:
            ParameterError: neither or both of mde and margin, or a baseline of 0 with a relative effect.
        """
        if (self.mde is None) == (self.margin is None):
            raise ParameterError(
                f"{baseline.name}: mde {self.mde} and margin {self.margin}, give exactly one"
            )
        if self.margin is not None:
            return require_positive(f"{baseline.name}: margin", self.margin)
        mde = require_positive(f"{baseline.name}: mde", self.mde or 0.0)
        return require_positive(f"{baseline.name}: mde times baseline", mde * abs(baseline.value))


@dataclass(frozen=True, kw_only=True)
class StepPlan:
    """The experiment if the rollout stayed at this share."""

    share: float
    challenger_units: float
    champion_units: float
    days: float
    detectable: float
    """Absolute effect found with the wanted power within the maximum duration."""
    inconclusive: float
    """Probability to end the maximum duration without an answer although the planned effect is there."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One metric's plan; `sentences` say it in words, `warnings` what is wrong with it."""

    baseline: Baseline
    target: Target
    effect: float
    inflation: float
    """Price of looking: sample as a multiple of one look at a fixed size."""
    max_days: float
    steps: tuple[StepPlan, ...]
    sentences: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def best(self) -> StepPlan:
        """The step that answers soonest."""
        return min(self.steps, key=lambda step: step.days)

    @property
    def is_underpowered(self) -> bool:
        """Whether even the best step takes longer than the maximum duration."""
        return self.best.days > self.max_days


def plan(baseline: Baseline, target: Target, *, shares: Sequence[float], max_days: float) -> Plan:
    """Sample sizes, days and odds for each step of a rollout.

    Args:
        baseline: the metric under the champion.
        target: what must be seen, and how.
        shares: the challenger's share at each step, 0 to 1; steps at 0 or 1 compare nothing and are left out.
        max_days: maximum duration of the rollout.

    Raises:
        ParameterError: a parameter outside its range, or no step that compares anything.
    """
    require_positive("max_days", max_days)
    require_positive(f"{baseline.name}: units_per_day", baseline.units_per_day)
    compared = [share for share in shares if 0 < share < 1]
    if not compared:
        raise ParameterError(f"shares {list(shares)}: none between 0 and 1, nothing would be compared")
    effect = target.effect(baseline)
    needed = target.design.information(effect, target.power)
    steps = tuple(_step(baseline, target, effect, needed, share, max_days) for share in compared)
    made = Plan(
        baseline=baseline,
        target=target,
        effect=effect,
        inflation=target.design.inflation(target.power),
        max_days=max_days,
        steps=steps,
        sentences=tuple(_sentence(step, target) for step in steps),
        warnings=(),
    )
    return _with_warnings(made)


def power_curve(
    baseline: Baseline, target: Target, *, units: float, share: float, effects: Sequence[float]
) -> list[float]:
    """Power at this many units (both arms) for each absolute effect: the picture of a plan."""
    variance = baseline.analysed_variance(share=share, effect=0.0, units=units)
    information = units * information_per_unit(share, variance)
    needed = target.design.information(target.effect(baseline), target.power)
    planned = information / needed
    return [
        target.design.power(abs(effect) * math.sqrt(information), planned_share=planned) for effect in effects
    ]


def _step(
    baseline: Baseline, target: Target, effect: float, needed: float, share: float, max_days: float
) -> StepPlan:
    moves = 0.0 if target.margin is not None else effect

    def per_unit(units: float) -> float:
        return information_per_unit(share, baseline.analysed_variance(share=share, effect=moves, units=units))

    units = _fixed_point(lambda units: needed / per_unit(units), needed / per_unit(math.inf))
    units = max(units, _first_answer(baseline, target, share))
    traffic = baseline.units_per_day * max_days
    available = traffic * per_unit(traffic)
    answered = traffic >= _first_answer(baseline, target, share)
    reached = target.design.power(effect * math.sqrt(available), planned_share=available / needed)
    return StepPlan(
        share=share,
        challenger_units=math.ceil(units * share),
        champion_units=math.ceil(units * (1 - share)),
        days=units / baseline.units_per_day,
        detectable=target.design.detectable(available, target.power),
        inconclusive=1 - reached if answered else 1.0,
    )


def _fixed_point(improve: Callable[[float], float], start: float) -> float:
    for _ in range(8):
        start = improve(start)
    return start


def _first_answer(baseline: Baseline, target: Target, share: float) -> float:
    """Units of both arms before a proportion can be judged at all: enough events, or enough without any."""
    if not baseline.kind.is_count:
        return 0.0
    rare = min(baseline.value, 1 - baseline.value)
    normal = ENOUGH_EVENTS / (rare * min(share, 1 - share))
    if target.margin is None or target.margin >= 1:
        return normal
    return min(normal, rare_event_trials(target.margin, target.design.alpha * EXACT_PART) / share)


def _sentence(step: StepPlan, target: Target) -> str:
    goal = "to show that the margin is kept" if target.margin is not None else "to see the planned effect"
    return (
        f"At {100 * step.share:g} % it takes {duration_words(step.days)} {goal} with {100 * target.power:g} % power:"
        f" {step.challenger_units:,} challenger and {step.champion_units:,} champion units."
    )


def _with_warnings(made: Plan) -> Plan:
    return replace(made, warnings=tuple(_warnings(made)))


def _warnings(made: Plan) -> list[str]:
    name, best = made.baseline.name, made.best
    found: list[str] = []
    if made.is_underpowered:
        found.append(
            f"{name}: underpowered. Even at {100 * best.share:g} % it takes {duration_words(best.days)}, and the rollout"
            f" may last {duration_words(made.max_days)}; it would end without an answer with probability"
            f" {100 * best.inconclusive:.0f} %. Within that time one can see {_seen(made)}."
            " Allow more time, accept a larger effect, or choose a metric with less noise."
        )
    first = made.steps[0]
    if made.baseline.kind.is_count:
        events = made.baseline.value * made.baseline.units_per_day * made.max_days * first.share
        if events < FEWEST_EVENTS:
            found.append(
                f"{name}: rare. At {100 * first.share:g} % the challenger is expected to show {events:.1f} events in"
                f" {duration_words(made.max_days)}; only a large deterioration can be seen there."
            )
    return found


def _seen(made: Plan) -> str:
    seen, value = made.best.detectable, abs(made.baseline.value)
    relative = f" ({100 * seen / value:.1f} % of the champion's value)" if value > 0 else ""
    return f"a difference of {seen:.4g}{relative}"
