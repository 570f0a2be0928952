"""Additive sufficient statistics: all that an analysis ever reads of the raw rows."""

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple, assert_never

from pipelines.core.errors import NotMeasured


class Sums(NamedTuple):
    """Sums over the counted units of one variant in one bucket.

    y is the metric's value per unit (already capped, and minus `Cell.reference` to avoid cancellation),
    d the denominator (1 for anything but a ratio), x the covariate (0 without one).
    """

    n: float = 0.0
    sy: float = 0.0
    syy: float = 0.0
    sd: float = 0.0
    sdd: float = 0.0
    syd: float = 0.0
    sx: float = 0.0
    sxx: float = 0.0
    sxy: float = 0.0
    sxd: float = 0.0

    def plus(self, other: "Sums") -> "Sums":
        """The sums over both sets of units."""
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class Cell(NamedTuple):
    """One metric in one exposure bucket of one step: both variants side by side."""

    metric: str
    step: int
    """Index of the rollout step; steps are strata and are never pooled raw."""
    bucket: float
    """Start of the exposure bucket, seconds since the epoch."""
    champion: Sums
    challenger: Sums
    reference: float = 0.0
    """The registered constant that was subtracted from y."""


# Challenger minus champion with its variance, from sufficient statistics, stratified over steps.
#
# A mean is a ratio whose denominator is 1 for every unit, so one formula serves proportions, means and
# ratios: the variance of a ratio R = sum(y) / sum(d) is that of the mean residual y - R d over the squared
# mean denominator (delta method, per unit: several requests of one unit are one observation).


class EffectKind(StrEnum):
    """What y is: 0 or 1 per unit, any number per unit, or the numerator of a ratio."""

    PROPORTION = "proportion"
    MEAN = "mean"
    RATIO = "ratio"

    @property
    def is_count(self) -> bool:
        """Of units a share has it: between 0 and 1, its variance follows from its rate, and counts can be tested."""
        match self:
            case EffectKind.PROPORTION:
                return True
            case EffectKind.MEAN | EffectKind.RATIO:
                return False
            case _:
                assert_never(self)

    @property
    def has_denominator(self) -> bool:
        """Whether d is summed as well; it is 1 for every unit where not."""
        match self:
            case EffectKind.RATIO:
                return True
            case EffectKind.PROPORTION | EffectKind.MEAN:
                return False
            case _:
                assert_never(self)


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


def stratified_effect(strata: Sequence[Stratum], kind: EffectKind) -> Effect | None:
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
        fewest_expected=_fewest_expected(usable) if kind.is_count else math.inf,
    )


def _as_ratio(stratum: Stratum, kind: EffectKind) -> Stratum:
    if kind.has_denominator:
        return stratum
    return Stratum(
        _unit_denominator(stratum.champion), _unit_denominator(stratum.challenger), stratum.reference
    )


def _unit_denominator(sums: Sums) -> Sums:
    return sums._replace(sd=sums.n, sdd=sums.n, syd=sums.sy, sxd=sums.sx)


def _stratum_effect(stratum: Stratum, kind: EffectKind) -> Effect:
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


# CUPED: take out of y what a covariate known before exposure already explains (Deng et al. 2013).
#
# y becomes y - theta (x - mean x). theta and mean x are pooled over both arms: a theta per arm would carry
# a chance difference of x into the effect. For a ratio, theta is chosen for the residual y - R d.
# Units without x must have been given the pre-period mean when the sums were made.


def pooled_theta(strata: Sequence[Stratum], kind: EffectKind) -> float:
    """Slope of y (or of the residual y - R d) on x within arms and strata, pooled; 0 if x does not vary."""
    arms = [
        (sums, _ratio(stratum, kind)) for stratum in strata for sums in (stratum.champion, stratum.challenger)
    ]
    spread = math.fsum(_centred(s.sxx, s.sx, s.sx, s.n) for s, _ in arms)
    scale = math.fsum(abs(s.sxx) for s, _ in arms)
    if spread <= 1e-12 * scale:
        return 0.0
    joint = math.fsum(
        _centred(s.sxy, s.sx, s.sy, s.n) - r * _centred(s.sxd, s.sx, s.sd, s.n) for s, r in arms
    )
    return joint / spread


def adjusted(strata: Sequence[Stratum], kind: EffectKind) -> list[Stratum]:
    """The strata with y replaced by y - theta (x - mean x), mean x per stratum over both arms."""
    theta = pooled_theta(strata, kind)
    return list(strata) if theta == 0 else [_adjusted_stratum(stratum, theta) for stratum in strata]


def _adjusted_stratum(stratum: Stratum, theta: float) -> Stratum:
    units = stratum.champion.n + stratum.challenger.n
    if units == 0:
        return stratum
    mean = (stratum.champion.sx + stratum.challenger.sx) / units
    champion, challenger = (adjust(sums, theta, mean) for sums in (stratum.champion, stratum.challenger))
    return Stratum(champion, challenger, stratum.reference)


def adjust(sums: Sums, theta: float, mean: float) -> Sums:
    """The sums that one would have got from y - theta (x - mean) per unit."""
    n = sums.n
    shift_x = sums.sx - mean * n
    shift_xx = sums.sxx - 2 * mean * sums.sx + mean**2 * n
    shift_xy = sums.sxy - mean * sums.sy
    return sums._replace(
        sy=sums.sy - theta * shift_x,
        syy=sums.syy - 2 * theta * shift_xy + theta**2 * shift_xx,
        syd=sums.syd - theta * (sums.sxd - mean * sums.sd),
        sxy=sums.sxy - theta * (sums.sxx - mean * sums.sx),
    )


def _ratio(stratum: Stratum, kind: EffectKind) -> float:
    both = stratum.champion.plus(stratum.challenger)
    if not kind.has_denominator or both.sd == 0:
        return 0.0
    return (both.sy + stratum.reference * both.n) / both.sd


def _centred(sxy: float, sx: float, sy: float, n: float) -> float:
    return sxy - sx * sy / n if n > 0 else 0.0
