"""Challenger minus champion with its variance, from sufficient statistics, stratified over steps.

A mean is a ratio whose denominator is 1 for every unit, so one formula serves proportions, means and
ratios: the variance of a ratio R = sum(y) / sum(d) is that of the mean residual y - R d over the squared
mean denominator (delta method, per unit: several requests of one unit are one observation).
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from pipelines.errors import NotMeasured
from pipelines.statistics.sums import Sums


class Kind(StrEnum):
    """What y is: 0 or 1 per unit, any number per unit, or the numerator of a ratio."""

    PROPORTION = "proportion"
    MEAN = "mean"
    RATIO = "ratio"


class Stratum(NamedTuple):
    """Both variants in one stratum (a rollout step)."""

    champion: Sums
    challenger: Sums
    reference: float = 0.0
    """What was subtracted from every y."""


class Effect(NamedTuple):
    """A difference of two variants, in the metric's own unit."""

    value: float
    """Challenger minus champion."""
    variance: float
    """max(Welch, pooled), stratum by stratum; the sum of the two variants' parts."""
    champion: float
    challenger: float
    champion_variance: float
    challenger_variance: float
    champion_units: float
    challenger_units: float
    fewest_expected: float
    """Proportions: the smallest expected count of events or non-events in an arm; otherwise infinite."""

    def mirrored(self) -> "Effect":
        """The same with the sign of y turned round."""
        return self._replace(value=-self.value, champion=-self.champion, challenger=-self.challenger)


class _Arm(NamedTuple):
    ratio: float
    """Its estimate, without the reference."""
    variance: float
    """Of the estimate, from this arm's own residuals."""


def stratified_effect(strata: Sequence[Stratum], kind: Kind) -> Effect | None:
    """The effect over all strata with weights n1 n0 / (n1 + n0); raw counts are never pooled.

    Args:
        strata: one per step. Those in which a variant has no units (or no denominator) say nothing.
        kind: what y is; only a ratio reads the denominators.

    Returns:
        None if no stratum holds both variants.

    Raises:
        NotMeasured: sums that no data can have.
    """
    usable = [_as_ratio(stratum, kind) for stratum in strata]
    usable = [s for s in usable if min(s.champion.n, s.challenger.n, s.champion.sd, s.challenger.sd) > 0]
    if not usable:
        return None
    weights = [s.champion.n * s.challenger.n / (s.champion.n + s.challenger.n) for s in usable]
    parts = [_stratum_effect(s, kind) for s in usable]
    total = math.fsum(weights)
    shares = [weight / total for weight in weights]

    def mean(name: str) -> float:
        return math.fsum(share * getattr(part, name) for share, part in zip(shares, parts, strict=True))

    def variance(name: str) -> float:
        return math.fsum(share**2 * getattr(part, name) for share, part in zip(shares, parts, strict=True))

    return Effect(
        value=mean("value"),
        variance=variance("variance"),
        champion=mean("champion"),
        challenger=mean("challenger"),
        champion_variance=variance("champion_variance"),
        challenger_variance=variance("challenger_variance"),
        champion_units=math.fsum(p.champion_units for p in parts),
        challenger_units=math.fsum(p.challenger_units for p in parts),
        fewest_expected=_fewest_expected(usable) if kind is Kind.PROPORTION else math.inf,
    )


def _as_ratio(stratum: Stratum, kind: Kind) -> Stratum:
    if kind is Kind.RATIO:
        return stratum
    return Stratum(
        _unit_denominator(stratum.champion), _unit_denominator(stratum.challenger), stratum.reference
    )


def _unit_denominator(sums: Sums) -> Sums:
    return sums._replace(sd=sums.n, sdd=sums.n, syd=sums.sy, sxd=sums.sx)


def _stratum_effect(stratum: Stratum, kind: Kind) -> Effect:
    zero, one, reference = stratum
    # y - reference on both sides of a ratio shifts R by reference * n / d, which differs between arms.
    arms = [_arm(sums, reference) for sums in (zero, one)]
    pooled = _pooled_variance(stratum)
    parts = [pooled / (sums.n * (sums.sd / sums.n) ** 2) for sums in (zero, one)]
    if sum(parts) <= arms[0].variance + arms[1].variance:
        parts = [arm.variance for arm in arms]
    return Effect(
        value=arms[1].ratio - arms[0].ratio,
        variance=parts[0] + parts[1],
        champion=arms[0].ratio,
        challenger=arms[1].ratio,
        champion_variance=parts[0],
        challenger_variance=parts[1],
        champion_units=zero.n,
        challenger_units=one.n,
        fewest_expected=math.inf,
    )


def _arm(sums: Sums, reference: float) -> _Arm:
    ratio = (sums.sy + reference * sums.n) / sums.sd
    denominator = sums.sd / sums.n
    return _Arm(ratio, _residual_variance(sums, ratio) / (sums.n * denominator**2))


def _pooled_variance(stratum: Stratum) -> float:
    both = stratum.champion.plus(stratum.challenger)
    return _residual_variance(both, (both.sy + stratum.reference * both.n) / both.sd)


def _residual_variance(sums: Sums, ratio: float) -> float:
    """Maximum-likelihood variance of y - ratio d per unit; a constant reference drops out."""
    mean_y, mean_d = sums.sy / sums.n, sums.sd / sums.n
    syy, sdd, syd = sums.syy / sums.n, sums.sdd / sums.n, sums.syd / sums.n
    variance = (syy - mean_y**2) - 2 * ratio * (syd - mean_y * mean_d) + ratio**2 * (sdd - mean_d**2)
    tolerance = 1e-9 * (abs(syy) + ratio**2 * abs(sdd)) + 1e-300
    if not math.isfinite(variance) or variance < -tolerance:
        raise NotMeasured(f"effect: a variance of {variance} from {sums}, sums that no data can have")
    return max(variance, 0.0)


def _fewest_expected(strata: Sequence[Stratum]) -> float:
    """Under equal rates within each stratum: the guard of the normal approximation."""
    fewest = [0.0, 0.0, 0.0, 0.0]
    for zero, one, reference in strata:
        rate = (zero.sy + one.sy) / (zero.n + one.n) + reference
        for index, count in enumerate((zero.n * rate, one.n * rate, zero.n * (1 - rate), one.n * (1 - rate))):
            fewest[index] += count
    return min(fewest)
