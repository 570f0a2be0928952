"""Additive sufficient statistics: all that an analysis ever reads of the raw rows."""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple, assert_never

import numpy as np

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.inputs import Array, Flags


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
    champion_lost: float = 0.0
    """Units whose outcome window is over and that have no value: in none of the sums."""
    challenger_lost: float = 0.0


# Challenger minus champion with its variance, from sufficient statistics, stratified over steps.
#
# A mean is a ratio whose denominator is 1 for every unit, so one formula serves proportions, means and
# ratios: the variance of a ratio R = sum(y) / sum(d) is that of the mean residual y - R d over the squared
# mean denominator (delta method, per unit: several requests of one unit are one observation).


_ROUNDING = 1e-14
"""Of a sum of squares, what is left of it by rounding where all values are equal."""


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


class EffectColumns(NamedTuple):
    """`Effect` for each of many selections of units; shape (selections,) each. Units of 0: nothing to compare."""

    value: Array
    variance: Array
    champion: Array
    challenger: Array
    champion_variance: Array
    challenger_variance: Array
    champion_units: Array
    challenger_units: Array
    fewest_expected: Array


CLEAR = 20.0
"""The square of a mean denominator, in standard errors, from which a ratio is one: below it, what is divided by may be 0. Where
only a few units have a denominator, that is about the number of them."""


def are_divisible(n: Array, sd: Array, sdd: Array) -> Flags:
    """Whether denominators have a sum that is clearly above 0; it always is where each of them is 1.

    Args:
        n, sd, sdd: units, and the sums of their denominators and of the squares; of one shape.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.maximum(sdd - sd**2 / n, 0.0)
    return (n > 0) & (sd > 0) & (sd**2 >= CLEAR * spread)


class _Arm(NamedTuple):
    """One variant's sums, shape (selections, strata) each."""

    n: Array
    sy: Array
    syy: Array
    sd: Array
    sdd: Array
    syd: Array

    @classmethod
    def of(cls, sums: Array, kind: EffectKind) -> "_Arm":
        """A mean is a ratio whose denominator is 1 for every unit."""
        n, sy, syy, sd, sdd, syd = np.moveaxis(sums[..., :6], -1, 0)
        return cls(n, sy, syy, sd, sdd, syd) if kind.has_denominator else cls(n, sy, syy, n, n, sy)

    def plus(self, other: "_Arm") -> "_Arm":
        return _Arm(*(a + b for a, b in zip(self, other, strict=True)))

    def ratio(self, reference: Array) -> Array:
        """y - reference on both sides of a ratio shifts R by reference * n / d, which differs between arms."""
        return (self.sy + reference * self.n) / self.sd

    def estimate_variance(self, residual: Array) -> Array:
        """Of the ratio, from the variance of its residuals per unit."""
        return residual * self.n / self.sd**2

    def residual_variance(self, ratio: Array, usable: Flags) -> Array:
        """Maximum-likelihood variance of y - ratio d per unit; a constant reference drops out."""
        mean_y, mean_d = self.sy / self.n, self.sd / self.n
        syy, sdd, syd = self.syy / self.n, self.sdd / self.n, self.syd / self.n
        variance = (syy - mean_y**2) - 2 * ratio * (syd - mean_y * mean_d) + ratio**2 * (sdd - mean_d**2)
        tolerance = 1e-9 * (abs(syy) + ratio**2 * abs(sdd)) + 1e-300
        bad = usable & ~(np.isfinite(variance) & (variance >= -tolerance))
        if bad.any():
            sums = ", ".join(f"{name} == {column[bad][0]:g}" for name, column in self._asdict().items())
            raise NotMeasured(
                f"effect: a variance of {variance[bad][0]} from {sums}, sums that no data can have"
            )
        # Of equal values rounding leaves a little: it must not be taken for a variance.
        return np.where(variance <= _ROUNDING * (abs(syy) + ratio**2 * abs(sdd)), 0.0, variance)


def stratified_effect(strata: Sequence[Stratum], kind: EffectKind) -> Effect | None:
    """The effect over all strata with weights n1 n0 / (n1 + n0); raw counts are never pooled.

    Args:
        strata: one per step. Those in which a variant has no units, or denominators that may add up to 0, say nothing.
        kind: what y is; only a ratio reads the denominators.

    Returns:
        None if no stratum holds both variants.

    Raises:
        NotMeasured: sums that no data can have.
    """
    if not strata:
        return None
    champion, challenger = (np.array([[s[side] for s in strata]], float) for side in (0, 1))
    found = effects(champion, challenger, np.array([s.reference for s in strata], float), kind)
    return Effect(*(float(column[0]) for column in found)) if found.champion_units[0] > 0 else None


def effects(champion: Array, challenger: Array, references: Array, kind: EffectKind) -> EffectColumns:
    """`stratified_effect` of many selections at once.

    Args:
        champion, challenger: shape (selections, strata, 10), the fields of Sums.
        references: shape (strata,), what was subtracted from every y.
        kind: what y is.

    Raises:
        NotMeasured: sums that no data can have.
    """
    zero, one = _Arm.of(champion, kind), _Arm.of(challenger, kind)
    both = zero.plus(one)
    usable = are_divisible(zero.n, zero.sd, zero.sdd) & are_divisible(one.n, one.sd, one.sdd)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = [np.where(usable, arm.ratio(references), 0.0) for arm in (zero, one)]
        own = [
            arm.estimate_variance(arm.residual_variance(ratio, usable))
            for arm, ratio in zip((zero, one), ratios, strict=True)
        ]
        residual = both.residual_variance(both.ratio(references), usable)
        pooled = [arm.estimate_variance(residual) for arm in (zero, one)]
        welch = pooled[0] + pooled[1] <= own[0] + own[1]
        parts = [np.where(usable, np.where(welch, a, b), 0.0) for a, b in zip(own, pooled, strict=True)]
        weights = np.where(usable, zero.n * one.n / both.n, 0.0)
        shares = weights / weights.sum(axis=-1, keepdims=True)

    def total(column: Array) -> Array:
        return np.where(usable, column, 0.0).sum(axis=-1)

    return EffectColumns(
        value=total(shares * (ratios[1] - ratios[0])),
        variance=total(shares**2 * (parts[0] + parts[1])),
        champion=total(shares * ratios[0]),
        challenger=total(shares * ratios[1]),
        champion_variance=total(shares**2 * parts[0]),
        challenger_variance=total(shares**2 * parts[1]),
        champion_units=total(zero.n),
        challenger_units=total(one.n),
        fewest_expected=_fewest_expected(zero, one, references, total)
        if kind.is_count
        else np.full(len(usable), math.inf),
    )


def _fewest_expected(zero: _Arm, one: _Arm, references: Array, total: Callable[[Array], Array]) -> Array:
    """Under equal rates within each stratum: the guard of the normal approximation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (zero.sy + one.sy) / (zero.n + one.n) + references
        expected = [total(n * share) for n in (zero.n, one.n) for share in (rate, 1 - rate)]
    return np.minimum.reduce(expected)


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
