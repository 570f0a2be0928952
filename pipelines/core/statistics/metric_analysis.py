"""One metric analysed at one look: its harm test, effect, intervals, margin and conclusion."""

import math
from dataclasses import dataclass, replace
from typing import assert_never

import numpy as np

from pipelines.core.statistics.binomial import Mixture, blended_mixture, harm_mixture, log_e_process
from pipelines.core.statistics.columns import Columns
from pipelines.core.statistics.effects import Effect, EffectKind, are_divisible, stratified_effect
from pipelines.core.statistics.group_sequential import GroupSequential
from pipelines.core.statistics.look_spec import Conclusion, ErrorBudget, MetricSpec
from pipelines.core.statistics.metric_look import Harm, MetricLook, metric_sentence
from pipelines.core.statistics.power import SequentialMethod
from pipelines.core.statistics.proportions import (
    ENOUGH_EVENTS,
    Buckets,
    is_below_margin,
    proportion_lower,
    proportion_upper,
    same_units,
)
from pipelines.core.statistics.sequences import (
    AsymptoticSequence,
    Interval,
    fieller,
    is_enough,
    planned_scale,
)
from pipelines.core.statistics.slices import Sliced, SliceLook, look_at_slices

RARE = 0.2
"""Base rate up to which events (or non-events) are rare enough for the conditional binomial test."""


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
    path = log_e_process(n1, x1, n0, x0, mixture=harm_bets(spec))
    return Harm(float(path[-1]) if path.size else 0.0, _boundary(spec, budget))


def _boundary(spec: MetricSpec, budget: ErrorBudget) -> float:
    """What is tested elsewhere crosses nothing here: the same counts are not tested twice."""
    return math.inf if spec.part is None else budget.log_boundary


def harm_bets(spec: MetricSpec) -> Mixture:
    """What the harm test of a counted proportion bets on: the default, or half of it around a smaller effect that is planned for."""
    planned = spec.mde
    if planned is None and spec.margin is not None and spec.baseline:
        planned = spec.margin / min(spec.baseline, 1 - spec.baseline)
    return harm_mixture() if planned is None or planned >= 0.2 else blended_mixture(planned)


_CLEARLY, _MUCH = 1e-3, 1.5
"""Chance and ratio from which it is said that the difference varies over time."""

USUAL_SHIFT = 3.63
"""Effect in standard errors that an anytime test at 5 % finds with 80 % power: sqrt(1.676) x 2.8016."""


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
    same_needed: float | None = None
    slices: SliceLook | None = None

    @property
    def is_harmful(self) -> bool:
        return self.harm.is_crossed or (self.slices is not None and self.slices.is_crossed)


def analyse_metric(
    spec: MetricSpec,
    cells: Columns,
    *,
    alpha: float,
    budget: ErrorBudget,
    is_final: bool = False,
    sliced: Sliced | None = None,
) -> MetricLook:
    """One metric's look. Too little data gives `not yet`. With `sliced`, a part of its money lies on slices of the units.

    Raises:
        NotMeasured: sums that no data can have.
    """
    with_covariate = spec.use_covariate and not spec.kind.is_count
    balanced = not with_covariate or cells.is_balanced()
    if with_covariate and balanced:
        cells = cells.adjusted(spec.kind)
    effect = stratified_effect(list(cells.strata().values()), spec.kind)
    margin = _margin(spec, effect)
    found = _found(spec, effect, cells, margin, alpha, budget, is_final)
    found = _with_slices(spec, found, sliced, margin, alpha, budget)
    look = _told(spec, effect, margin, replace(found, covariate_differs=not balanced), alpha)
    if effect is not None and margin is not None:
        return look
    return replace(look, sentence=_indivisible(spec, cells) or look.sentence)


def _found(
    spec: MetricSpec,
    effect: Effect | None,
    cells: Columns,
    margin: float | None,
    alpha: float,
    budget: ErrorBudget,
    is_final: bool,
) -> _Found:
    """By the method that the spec names, where there is something to compare."""
    if effect is not None and effect.variance == 0 and not spec.kind.is_count:
        return _equal(spec, effect, alpha, budget)
    if effect is None or margin is None:
        return _nothing(spec, budget)
    match spec.method:
        case SequentialMethod.GROUP_SEQUENTIAL:
            found = _group_sequential(spec, effect, alpha, budget, is_final)
        # Of a test that may be looked at any time, one look is one of them: it holds, and is wider than it need be.
        case SequentialMethod.ANYTIME | SequentialMethod.FIXED:
            found = _anytime(spec, effect, cells, margin, alpha, budget)
        case _:
            assert_never(spec.method)
    return replace(found, dispersion=None if spec.is_coarse else _overdispersed(spec, cells))


def _with_slices(
    spec: MetricSpec,
    found: _Found,
    sliced: Sliced | None,
    margin: float | None,
    alpha: float,
    budget: ErrorBudget,
) -> _Found:
    """The evidence of harm with that of slices. What is looked at by plan has no e-value that it could be mixed with."""
    if sliced is None or spec.method.is_planned or (spec.part is None and spec.sliced_part is None):
        return found
    tau2 = None if margin is None else _sequence(spec, margin, alpha).tau2
    slices = look_at_slices(spec, sliced, log_e=found.harm.value, tau2=tau2)
    if spec.part is None:
        return replace(found, slices=replace(slices, boundary=budget.log_boundary))
    return replace(found, slices=slices, harm=replace(found.harm, value=slices.mixed(found.harm.value)))


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


def _equal(spec: MetricSpec, effect: Effect, alpha: float, budget: ErrorBudget) -> _Found:
    """Equal values are within any margin, once there are enough of them; the pooled variance is 0 of nothing else."""
    needed, nothing = same_units(alpha), _nothing(spec, budget)
    if min(effect.champion_units, effect.challenger_units) < needed:
        return replace(nothing, same_needed=needed)
    return replace(nothing, interval=Interval(0.0, 0.0), worst=0.0, same_needed=needed)


def _margin(spec: MetricSpec, effect: Effect | None) -> float | None:
    if spec.margin is not None:
        return spec.margin
    champion = spec.baseline if spec.baseline is not None else effect.champion if effect else 0.0
    return (spec.mde or 0.0) * abs(champion) or None


def _sequence(spec: MetricSpec, margin: float, alpha: float) -> AsymptoticSequence:
    information = spec.planned_information or (USUAL_SHIFT / margin) ** 2
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
    harm = (
        proportion_harm(spec, buckets, budget)
        if is_counted(spec)
        else _asymptotic_harm(spec, cells, sequence, budget)
    )
    if spec.is_coarse:
        return _Found(Interval(-1.0, 1.0), _coarsest(spec, effect, buckets, sequence, margin, alpha), harm)
    high = proportion_upper(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    low = proportion_lower(buckets, effect, sequence, alpha / 2, typical=spec.baseline)
    bound = proportion_upper if spec.harm_sign() > 0 else proportion_lower
    worst = bound(buckets, effect, sequence, alpha, typical=spec.baseline)
    interval = Interval(low, high)
    plenty = is_enough(effect) and effect.fewest_expected >= ENOUGH_EVENTS
    return _Found(interval, worst, harm, _z(interval, effect) if plenty else None)


def _coarsest(
    spec: MetricSpec,
    effect: Effect,
    buckets: Buckets,
    sequence: AsymptoticSequence,
    margin: float,
    alpha: float,
) -> float:
    """A bound on the harmful side that answers whether it is within the margin, and no more."""
    sign = spec.harm_sign()
    if sign < 0:
        buckets, effect = buckets.swapped(), effect.mirrored()
    within = is_below_margin(buckets, effect, sequence, alpha, margin, typical=spec.baseline)
    return sign * (math.nextafter(margin, 0.0) if within else 1.0)


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


def crossed_by_slices(look: MetricLook, total: float, alpha: float) -> MetricLook:
    """The same where the slices' part of the evidence is one of those that add up, and all units are tested elsewhere."""
    assert look.slices is not None
    together = total if total > look.slices.value else None
    slices = replace(look.slices, together=together)
    crossed = replace(look, slices=slices, conclusion=Conclusion.WORSE)
    return replace(crossed, sentence=metric_sentence(crossed, alpha))


def _z(interval: Interval, effect: Effect) -> float:
    """Half-width in standard errors; the wider side where the interval is not symmetric."""
    half = max(interval.high - effect.value, effect.value - interval.low)
    return half / math.sqrt(effect.variance)


def _told(
    spec: MetricSpec, effect: Effect | None, margin: float | None, found: _Found, alpha: float
) -> MetricLook:
    sign = spec.harm_sign()
    within = found.worst is not None and _is_within(sign * found.worst, margin, found)
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
        same_needed=found.same_needed,
        slices=found.slices,
        sentence="",
    )
    return replace(look, sentence=metric_sentence(look, alpha))


def _is_within(worst: float, margin: float | None, found: _Found) -> bool:
    """Equal values need no margin to be within one: there is none of a share of nothing."""
    return worst < margin if margin is not None else found.same_needed is not None


def _relative(effect: Effect | None, z: float | None, kind: EffectKind) -> Interval | None:
    found = fieller(effect, z) if effect and effect.champion > 0 and z is not None else None
    if found is None or not kind.is_count:
        return found
    return Interval(max(found.low, -1.0), found.high)


def _conclusion(spec: MetricSpec, found: _Found, within: bool) -> Conclusion:
    if found.is_harmful:
        return Conclusion.WORSE
    if found.interval is not None:
        harmful_end = found.interval.high if spec.harm_sign() > 0 else -found.interval.low
        if harmful_end < 0:
            return Conclusion.BETTER
    return Conclusion.NON_INFERIOR if within else Conclusion.NOT_YET
