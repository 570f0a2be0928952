"""The harm test of one metric: an e-value, or a z value against a group sequential boundary."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, assert_never

import numpy as np

from pipelines.core.statistics.binomial import Mixture, blended_mixture, harm_mixture, log_e_process
from pipelines.core.statistics.columns import Columns
from pipelines.core.statistics.effects import Effect, EffectKind, are_divisible, stratified_effect
from pipelines.core.statistics.group_sequential import GroupSequential
from pipelines.core.statistics.look_spec import Conclusion, ErrorBudget, MetricSpec
from pipelines.core.statistics.power import SequentialMethod
from pipelines.core.statistics.proportions import ENOUGH_EVENTS, Buckets, proportion_lower, proportion_upper
from pipelines.core.statistics.sequences import (
    AsymptoticSequence,
    Interval,
    fieller,
    is_enough,
    planned_scale,
)

RARE = 0.2
"""Base rate up to which events (or non-events) are rare enough for the conditional binomial test."""


@dataclass(frozen=True)
class Harm:
    """Evidence that the challenger is worse than the champion."""

    value: float
    boundary: float
    scale: str = "log e-value"
    """What value and boundary are: `log e-value`, or `z` for group sequential looks."""
    together: float | None = None
    """ln of the sum with the other metrics' e-values, where this is one of those that it takes to reach the boundary."""

    @property
    def is_crossed(self) -> bool:
        return max(self.value, -math.inf if self.together is None else self.together) >= self.boundary

    @property
    def log_e(self) -> float | None:
        """None where it is no e-value."""
        return None if self.scale == "z" else self.value


def is_counted(spec: MetricSpec) -> bool:
    """Whether this proportion is tested on its counts: always, unless it is known to be neither rare nor common."""
    return spec.baseline is None or min(spec.baseline, 1 - spec.baseline) <= RARE


def proportion_harm(spec: MetricSpec, buckets: Buckets, budget: ErrorBudget) -> Harm:
    """The conditional binomial e-value of a proportion, in the direction that is harm.

    Above a base rate of a half it is the non-events that are counted: they are the rare ones.
    """
    more_is_worse = spec.harm_sign() > 0
    if spec.baseline is not None and spec.baseline > 0.5:
        buckets, more_is_worse = buckets.complement(), not more_is_worse
    # Harm by fewer events at the canary is harm by more of them at the champion.
    n1, x1, n0, x0 = buckets if more_is_worse else buckets.swapped()
    path = log_e_process(n1, x1, n0, x0, mixture=_mixture(spec))
    return Harm(float(path[-1]) if path.size else 0.0, _boundary(spec, budget))


def _boundary(spec: MetricSpec, budget: ErrorBudget) -> float:
    """What is tested elsewhere crosses nothing here: the same counts are not tested twice."""
    return math.inf if spec.part is None else budget.log_boundary


def _mixture(spec: MetricSpec) -> Mixture:
    planned = spec.mde
    if planned is None and spec.margin is not None and spec.baseline:
        planned = spec.margin / min(spec.baseline, 1 - spec.baseline)
    return harm_mixture() if planned is None or planned >= 0.2 else blended_mixture(planned)


# One metric at one look: effect, intervals, harm, margin, conclusion.


_CLEARLY, _MUCH = 1e-3, 1.5
"""Chance and ratio from which it is said that the difference varies over time."""

_USUAL_SHIFT = 3.63
"""Effect in standard errors that an anytime test at 5 % finds with 80 % power: sqrt(1.676) x 2.8016."""


@dataclass(frozen=True, kw_only=True)
class MetricLook:
    """What one look says about one metric. Differences are challenger minus champion, in the metric's unit."""

    name: str
    kind: EffectKind
    is_primary: bool
    conclusion: Conclusion
    champion: float | None
    challenger: float | None
    champion_units: float
    challenger_units: float
    effect: float | None
    interval: Interval | None
    """Holds the true difference with probability 1 - alpha at all looks together."""
    relative: float | None
    relative_interval: Interval | None
    """None as well while the champion's own value may be 0."""
    harm: Harm
    worst: float | None
    """The worst that the difference may still be, one-sided at alpha, in the metric's unit and sign."""
    margin: float | None
    is_within_margin: bool
    """Non-inferior: `worst` does not reach the margin."""
    fraction: float | None
    """Group sequential: information so far as a share of the planned; give it back in `past_fractions`."""
    sentence: str
    dispersion: float | None = None
    """How many times as much the difference varies over time as independent units would have it; None where it does not clearly."""
    covariate_differs: bool = False
    """The covariate was left aside: it is not as large at both versions, so it was not known before the answer."""
    is_lost: bool = False
    """More of its values are lost at one version than at the other: nothing follows from it, for better or worse."""


@dataclass(frozen=True)
class _Found:
    """Intervals by one of the methods."""

    interval: Interval | None
    worst: float | None
    harm: Harm
    relative_z: float | None = None
    fraction: float | None = None
    dispersion: float | None = None
    covariate_differs: bool = False


def analyse_metric(
    spec: MetricSpec, cells: Columns, *, alpha: float, budget: ErrorBudget, is_final: bool = False
) -> MetricLook:
    """One metric's look. Too little data gives `not yet`.

    Raises:
        NotMeasured: sums that no data can have.
    """
    with_covariate = spec.use_covariate and not spec.kind.is_count
    balanced = not with_covariate or cells.is_balanced()
    if with_covariate and balanced:
        cells = cells.adjusted(spec.kind)
    effect = stratified_effect(list(cells.strata().values()), spec.kind)
    margin = _margin(spec, effect)
    if effect is None or margin is None:
        nothing = _told(spec, effect, margin, _nothing(spec, budget), alpha)
        return replace(nothing, sentence=_indivisible(spec, cells) or nothing.sentence)
    match spec.method:
        case SequentialMethod.GROUP_SEQUENTIAL:
            found = _group_sequential(spec, effect, alpha, budget, is_final)
        # Of a test that may be looked at any time, one look is one of them: it holds, and is wider than it need be.
        case SequentialMethod.ANYTIME | SequentialMethod.FIXED:
            found = _anytime(spec, effect, cells, margin, alpha, budget)
        case _:
            assert_never(spec.method)
    found = replace(found, dispersion=_overdispersed(spec, cells), covariate_differs=not balanced)
    return _told(spec, effect, margin, found, alpha)


def _overdispersed(spec: MetricSpec, cells: Columns) -> float | None:
    found = cells.dispersion(spec.kind)
    return found.ratio if found and found.p < _CLEARLY and found.ratio > _MUCH else None


def _indivisible(spec: MetricSpec, cells: Columns) -> str:
    """That what is divided by may be 0, where there are units of both versions and that is all there is to say."""
    both = np.array([cells.champion.sum(axis=0), cells.challenger.sum(axis=0)])
    (n0, n1), (d0, d1) = both[:, 0].tolist(), both[:, 3].tolist()
    divisible = are_divisible(both[:, 0], both[:, 3], both[:, 4]).all()
    if not spec.kind.has_denominator or min(n1, n0) == 0 or divisible:
        return ""
    return (
        f"{spec.name}: not yet, what it is divided by is not clearly above 0: {d1 / n1:.3g} a unit at the challenger and"
        f" {d0 / n0:.3g} at the champion, of {n1:,.0f} and {n0:,.0f} units."
    )


def _anytime(
    spec: MetricSpec, effect: Effect, cells: Columns, margin: float, alpha: float, budget: ErrorBudget
) -> _Found:
    match spec.kind:
        case EffectKind.PROPORTION:
            return _proportion(spec, effect, cells, margin, alpha, budget)
        case EffectKind.MEAN | EffectKind.RATIO:
            enough = is_enough(effect)
            return (
                _asymptotic(spec, effect, cells, margin, alpha, budget) if enough else _nothing(spec, budget)
            )
        case _:
            assert_never(spec.kind)


def _nothing(spec: MetricSpec, budget: ErrorBudget) -> _Found:
    return _Found(None, None, Harm(0.0, _boundary(spec, budget)))


def _margin(spec: MetricSpec, effect: Effect | None) -> float | None:
    if spec.margin is not None:
        return spec.margin
    champion = spec.baseline if spec.baseline is not None else effect.champion if effect else 0.0
    return (spec.mde or 0.0) * abs(champion) or None


def _sequence(spec: MetricSpec, margin: float, alpha: float) -> AsymptoticSequence:
    information = spec.planned_information or (_USUAL_SHIFT / margin) ** 2
    return AsymptoticSequence(planned_scale(alpha=alpha, information=information))


def _asymptotic(
    spec: MetricSpec, effect: Effect, cells: Columns, margin: float, alpha: float, budget: ErrorBudget
) -> _Found:
    sequence = _sequence(spec, margin, alpha)
    interval = sequence.interval(effect, alpha)
    worst = sequence.upper(effect, alpha) if spec.harm_sign() > 0 else sequence.lower(effect, alpha)
    return _Found(interval, worst, _asymptotic_harm(spec, cells, sequence, budget), _z(interval, effect))


def _asymptotic_harm(
    spec: MetricSpec, cells: Columns, sequence: AsymptoticSequence, budget: ErrorBudget
) -> Harm:
    log_e = sequence.log_e_above_since(cells.effects_since(spec.kind), spec.harm_sign())
    return Harm(log_e, _boundary(spec, budget))


def _proportion(
    spec: MetricSpec, effect: Effect, cells: Columns, margin: float, alpha: float, budget: ErrorBudget
) -> _Found:
    sequence, buckets = _sequence(spec, margin, alpha), cells.buckets()
    high = proportion_upper(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    low = proportion_lower(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    bound = proportion_upper if spec.harm_sign() > 0 else proportion_lower
    worst = bound(buckets, effect, sequence, alpha, typical=spec.baseline)
    harm = (
        proportion_harm(spec, buckets, budget)
        if is_counted(spec)
        else _asymptotic_harm(spec, cells, sequence, budget)
    )
    interval = Interval(low, high)
    plenty = is_enough(effect) and effect.fewest_expected >= ENOUGH_EVENTS
    return _Found(interval, worst, harm, _z(interval, effect) if plenty else None)


def _group_sequential(
    spec: MetricSpec, effect: Effect, alpha: float, budget: ErrorBudget, is_final: bool
) -> _Found:
    """The interval spends alpha two-sided, the margin alpha one-sided, harm its part of the budget."""
    nothing = _Found(None, None, Harm(0.0, math.inf, "z"))
    few = not is_enough(effect) or effect.fewest_expected < ENOUGH_EVENTS
    if few or spec.planned_information is None:
        return nothing
    fraction = 1 / (effect.variance * spec.planned_information)
    past = spec.past_fractions
    if past and (past[-1] >= 1 or fraction <= past[-1]):
        return replace(nothing, fraction=fraction)

    def bound(two_sided: float) -> float:
        plan = GroupSequential(two_sided, spec.planned_information or 1.0)
        return plan.boundary(past, fraction, final=is_final)

    error = math.sqrt(effect.variance)
    z, sign = bound(alpha), spec.harm_sign()
    high = math.inf if spec.part is None else bound(2 * budget.alpha_each)
    harm = Harm(sign * effect.value / error, high, "z")
    interval = Interval(effect.value - z * error, effect.value + z * error)
    return _Found(interval, effect.value + sign * bound(2 * alpha) * error, harm, z, fraction)


def crossed_together(look: MetricLook, total: float, alpha: float) -> MetricLook:
    """The look at one of the metrics whose e-values add up to the boundary; `total` is ln of their sum."""
    together = total if total > look.harm.value else None
    crossed = replace(look, harm=replace(look.harm, together=together), conclusion=Conclusion.WORSE)
    return replace(crossed, sentence=metric_sentence(crossed, alpha))


def _z(interval: Interval, effect: Effect) -> float:
    """Half-width in standard errors; the wider side where the interval is not symmetric."""
    half = max(interval.high - effect.value, effect.value - interval.low)
    return half / math.sqrt(effect.variance)


def _told(
    spec: MetricSpec, effect: Effect | None, margin: float | None, found: _Found, alpha: float
) -> MetricLook:
    sign = spec.harm_sign()
    within = found.worst is not None and margin is not None and sign * found.worst < margin
    z = found.relative_z
    look = MetricLook(
        name=spec.name,
        kind=spec.kind,
        is_primary=spec.is_primary,
        conclusion=_conclusion(spec, found, within),
        champion=effect.champion if effect else None,
        challenger=effect.challenger if effect else None,
        champion_units=effect.champion_units if effect else 0.0,
        challenger_units=effect.challenger_units if effect else 0.0,
        effect=effect.value if effect else None,
        interval=found.interval,
        relative=effect.value / effect.champion if effect and effect.champion > 0 else None,
        relative_interval=_relative(effect, z, spec.kind),
        harm=found.harm,
        worst=found.worst,
        margin=margin,
        is_within_margin=within,
        fraction=found.fraction,
        dispersion=found.dispersion,
        covariate_differs=found.covariate_differs,
        sentence="",
    )
    return replace(look, sentence=metric_sentence(look, alpha))


def _relative(effect: Effect | None, z: float | None, kind: EffectKind) -> Interval | None:
    found = fieller(effect, z) if effect and effect.champion > 0 and z is not None else None
    if found is None or not kind.is_count:
        return found
    return Interval(max(found.low, -1.0), found.high)


def _conclusion(spec: MetricSpec, found: _Found, within: bool) -> Conclusion:
    if found.harm.is_crossed:
        return Conclusion.WORSE
    if found.interval is not None:
        harmful_end = found.interval.high if spec.harm_sign() > 0 else -found.interval.low
        if harmful_end < 0:
            return Conclusion.BETTER
    return Conclusion.NON_INFERIOR if within else Conclusion.NOT_YET


# What a look found, in words that need no statistics.


def metric_sentence(look: "MetricLook", alpha: float) -> str:
    """One metric: the two values, the difference with its interval, and what follows."""
    if look.champion is None or look.challenger is None or look.effect is None:
        return f"{look.name}: not yet, there are no units of both versions to compare."
    values = (
        f"{look.name}: {_value(look.challenger, look.kind)} at the challenger against"
        f" {_value(look.champion, look.kind)} at the champion"
    )
    if look.interval is None:
        return f"{values}. Not yet: {_counts(look)} are too few to judge."
    return f"{values}, {_difference(look, alpha)}. {_consequence(look)}{_varies(look)}{_aside(look)}"


def _aside(look: "MetricLook") -> str:
    if not look.covariate_differs:
        return ""
    return (
        " Compared without its covariate, which is not as large at both versions: it was not known before the answer, and would"
        " take the effect away with the noise."
    )


def _varies(look: "MetricLook") -> str:
    if look.dispersion is None:
        return ""
    return (
        f" The difference varies {look.dispersion:.1f} times as much over time as chance explains: either it has changed,"
        " or units depend on each other, and the evidence is weaker than it looks."
    )


def _difference(look: "MetricLook", alpha: float) -> str:
    assert look.effect is not None and look.interval is not None
    low, high = (_change(end, look.kind) for end in look.interval)
    relative = f" ({100 * look.relative:+.1f} %)" if look.relative is not None else ""
    return (
        f"a difference of {_change(look.effect, look.kind)}{relative}; with {100 * (1 - alpha):g} % confidence"
        f" between {low} and {high}"
    )


def _consequence(look: "MetricLook") -> str:
    evidence = _evidence(look.harm)
    if look.conclusion is Conclusion.WORSE:
        return f"The challenger is worse: {evidence}."
    if look.conclusion is Conclusion.BETTER:
        return "The challenger is better."
    if look.worst is None or look.margin is None:
        return "Not yet: there is too little to judge."
    worst, margin = _change(look.worst, look.kind), _size(look.margin, look.kind)
    if look.is_within_margin:
        return f"Not worse by more than the accepted {margin}: at worst {worst}."
    return f"Not yet: it may still be {worst}, the accepted margin is {margin}; {evidence}."


def _evidence(harm: Harm) -> str:
    if harm.scale == "z":
        wanted = "at a later look" if math.isinf(harm.boundary) else f"at {harm.boundary:.2f}"
        return f"{max(harm.value, 0.0):.2f} standard errors towards harm, rolled back {wanted}"
    if math.isinf(harm.boundary):
        return f"evidence of harm {odds(harm.value)} to 1, tested on the live counters"
    others = "" if harm.together is None else f", {odds(harm.together)} to 1 with that of other metrics"
    return f"evidence of harm {odds(harm.value)} to 1{others}, rolled back at {odds(harm.boundary)} to 1"


def odds(log_e: float) -> str:
    """An e-value as it is said: `15` of `15 to 1`."""
    if log_e > 16:
        return "over 9 million"
    value = math.exp(log_e)
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}" if value >= 0.1 else "less than 0.1"


def srm_sentence(log_e: float, log_boundary: float, p: float | None, alpha: float) -> str:
    """Whether the variants hold the shares of units that they should."""
    if log_e >= log_boundary or (p is not None and p < alpha):
        final = f", p = {p:.2g}" if p is not None else ""
        return (
            f"The versions do not hold their planned shares of units (evidence {odds(log_e)} to 1{final}):"
            " assignment or logging is broken, and no comparison can be trusted."
        )
    return "Both versions hold their planned shares of units."


def _counts(look: "MetricLook") -> str:
    return f"{look.challenger_units:,.0f} challenger and {look.champion_units:,.0f} champion units"


class _Written(NamedTuple):
    scale: float
    digits: str
    value: str
    """What follows a value."""
    change: str
    """What follows a difference."""


def _written(kind: EffectKind) -> _Written:
    match kind:
        case EffectKind.PROPORTION:
            return _Written(100, ".3g", " %", " points")
        case EffectKind.MEAN | EffectKind.RATIO:
            return _Written(1, ".4g", "", "")
        case _:
            assert_never(kind)


def _value(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:{how.digits}}{how.value}"


def _change(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:+{how.digits}}{how.change}"


def _size(value: float, kind: EffectKind) -> str:
    how = _written(kind)
    return f"{how.scale * value:{how.digits}}{how.change}"
