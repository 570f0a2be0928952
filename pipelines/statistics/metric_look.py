"""One metric at one look: effect, intervals, harm, margin, conclusion."""

import math
from dataclasses import dataclass, replace

from pipelines.statistics import words
from pipelines.statistics.bounds import ENOUGH_EVENTS, proportion_lower, proportion_upper
from pipelines.statistics.budget import ErrorBudget
from pipelines.statistics.columns import Columns
from pipelines.statistics.cuped import adjusted
from pipelines.statistics.difference import Buckets
from pipelines.statistics.effects import Effect, Kind, stratified_effect
from pipelines.statistics.group_sequential import GroupSequential
from pipelines.statistics.harm import Harm, is_counted, proportion_harm
from pipelines.statistics.look_spec import Conclusion, MetricSpec
from pipelines.statistics.power import Method
from pipelines.statistics.sequences import AsymptoticSequence, Interval, fieller, is_enough, planned_scale

_USUAL_SHIFT = 3.63
"""Effect in standard errors that an anytime test at 5 % finds with 80 % power: sqrt(1.676) x 2.8016."""


@dataclass(frozen=True, kw_only=True)
class MetricLook:
    """What one look says about one metric. Differences are challenger minus champion, in the metric's unit."""

    name: str
    kind: Kind
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


@dataclass(frozen=True)
class _Found:
    """Intervals by one of the methods."""

    interval: Interval | None
    worst: float | None
    harm: Harm
    relative_z: float | None = None
    fraction: float | None = None


def analyse_metric(
    spec: MetricSpec, cells: Columns, *, alpha: float, budget: ErrorBudget, is_final: bool = False
) -> MetricLook:
    """One metric's look. Too little data gives `not yet`.

    Raises:
        NotMeasured: sums that no data can have.
    """
    strata = list(cells.strata().values())
    if spec.use_covariate and spec.kind is not Kind.PROPORTION:
        strata = adjusted(strata, spec.kind)
    effect = stratified_effect(strata, spec.kind)
    nothing = _Found(None, None, Harm(0.0, budget.log_boundary))
    margin = _margin(spec, effect)
    if effect is None or margin is None:
        found = nothing
    elif spec.method is Method.GROUP_SEQUENTIAL:
        found = _group_sequential(spec, effect, alpha, budget, is_final)
    elif spec.kind is Kind.PROPORTION:
        found = _proportion(spec, effect, cells.buckets(), margin, alpha, budget)
    else:
        found = _asymptotic(spec, effect, margin, alpha, budget) if is_enough(effect) else nothing
    return _told(spec, effect, margin, found, alpha)


def _margin(spec: MetricSpec, effect: Effect | None) -> float | None:
    if spec.margin is not None:
        return spec.margin
    champion = spec.baseline if spec.baseline is not None else effect.champion if effect else 0.0
    return (spec.mde or 0.0) * abs(champion) or None


def _sequence(spec: MetricSpec, margin: float, alpha: float) -> AsymptoticSequence:
    information = spec.planned_information or (_USUAL_SHIFT / margin) ** 2
    return AsymptoticSequence(planned_scale(alpha=alpha, information=information))


def _asymptotic(spec: MetricSpec, effect: Effect, margin: float, alpha: float, budget: ErrorBudget) -> _Found:
    sequence = _sequence(spec, margin, alpha)
    interval = sequence.interval(effect, alpha)
    worst = sequence.upper(effect, alpha) if spec.harm_sign() > 0 else sequence.lower(effect, alpha)
    return _Found(interval, worst, _asymptotic_harm(spec, effect, sequence, budget), _z(interval, effect))


def _asymptotic_harm(
    spec: MetricSpec, effect: Effect, sequence: AsymptoticSequence, budget: ErrorBudget
) -> Harm:
    towards_harm = effect if spec.harm_sign() > 0 else effect.mirrored()
    return Harm(sequence.log_e_above(towards_harm), budget.log_boundary)


def _proportion(
    spec: MetricSpec, effect: Effect, buckets: Buckets, margin: float, alpha: float, budget: ErrorBudget
) -> _Found:
    sequence = _sequence(spec, margin, alpha)
    high = proportion_upper(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    low = proportion_lower(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    bound = proportion_upper if spec.harm_sign() > 0 else proportion_lower
    worst = bound(buckets, effect, sequence, alpha, typical=spec.baseline)
    harm = proportion_harm(spec, buckets, budget)
    if not is_counted(spec):
        enough = is_enough(effect)
        harm = _asymptotic_harm(spec, effect, sequence, budget) if enough else replace(harm, value=0.0)
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
    harm = Harm(sign * effect.value / error, bound(2 * budget.alpha_each), "z")
    interval = Interval(effect.value - z * error, effect.value + z * error)
    return _Found(interval, effect.value + sign * bound(2 * alpha) * error, harm, z, fraction)


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
        sentence="",
    )
    return replace(look, sentence=words.metric_sentence(look, alpha))


def _relative(effect: Effect | None, z: float | None, kind: Kind) -> Interval | None:
    found = fieller(effect, z) if effect and effect.champion > 0 and z is not None else None
    if found is None or kind is not Kind.PROPORTION:
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
