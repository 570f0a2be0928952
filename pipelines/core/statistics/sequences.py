"""Asymptotic confidence sequences, and the root finder of all bounds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from pipelines.core.statistics.effects import Effect, EffectColumns
from pipelines.core.statistics.inputs import Array, Flags, require_between, require_positive
from pipelines.core.statistics.starts import log_mixed


def crossing(rises: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-12) -> float:
    """Where a function that is negative at `low` and positive at `high` changes its sign.

    An end of the bracket where it does not: `low` if it is not negative there, else `high`.

    Args:
        rises: the function; it may be infinite.
        low, high: the bracket, low < high.
        tolerance: of the place, as a share of the bracket; at 0 as fine as floats are.
    """
    from scipy.optimize import brentq

    ends = {low: rises(low), high: rises(high)}
    if ends[low] >= 0:
        return low
    if ends[high] <= 0:
        return high

    def once(place: float) -> float:
        return ends[place] if place in ends else rises(place)

    found: Any = brentq(once, low, high, xtol=max(tolerance * (high - low), 1e-300))
    return float(found)


# Asymptotic confidence sequences and e-values for means, proportions with many events, and ratios.
#
# With D the difference, V its variance, Z = D / sqrt(V) and v = tau2 / V:
# ln E = Z^2/2 v/(1+v) - ln(1+v)/2, and one-sided that plus ln(2 Phi(Z sqrt(v/(1+v)))).
# (Robbins 1970; Johari et al. 2022; Waudby-Smith et al. 2024, arXiv 2103.06476.) They hold at every look
# at once as the sample grows; on unequal splits only with V = max(Welch, pooled), which `effects` gives.


FEWEST_EVENTS = 5.0
"""Expected events (and non-events) per arm below which a proportion is no normal variable."""

FEWEST_UNITS = 30.0
"""Units per arm below which a mean's variance is not estimated well enough."""


class Interval(NamedTuple):
    """Low and high end, in the metric's own unit or as a share of the champion's value."""

    low: float
    high: float


def planned_scale(*, alpha: float, information: float) -> float:
    """tau2 that makes the sequence tightest once the information (1 / variance of D) is reached.

    Raises:
        ParameterError: alpha outside (0, 0.5), or information that is not positive.
    """
    require_between("alpha", alpha, 0, 0.5)
    require_positive("information", information)
    return tightest(alpha) / information


def tightest(alpha: float) -> float:
    """v at which the half-width per standard error is smallest: 7.936 at alpha = 0.05."""
    return -2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)


def is_enough(effect: Effect) -> bool:
    """Whether the sample is large enough to be trusted as approximately normal."""
    return bool(are_enough(effect))


def are_enough(found: Effect | EffectColumns) -> Flags:
    """`is_enough` for each of the effects."""
    units = np.minimum(found.champion_units, found.challenger_units)
    enough = (units >= FEWEST_UNITS) & np.greater_equal(found.fewest_expected, FEWEST_EVENTS)
    return np.asarray(enough & np.greater(found.variance, 0), dtype=np.bool_)


@dataclass(frozen=True)
class AsymptoticSequence:
    """A confidence sequence for a difference; `tau2` is fixed before the first look."""

    tau2: float

    def __post_init__(self) -> None:
        require_positive("tau2", self.tau2)

    def log_e(self, effect: Effect) -> float:
        """ln e-value against "no difference"."""
        return log_e(effect.value, effect.variance, self.tau2)

    def log_e_above(self, effect: Effect) -> float:
        """ln e-value against "the difference is 0 or negative"."""
        return log_e_above(effect.value, effect.variance, self.tau2)

    def log_e_above_since(self, found: EffectColumns, sign: int) -> float:
        """The same with money set aside for a difference that begins later (`pipelines.core.statistics.starts`).

        Args:
            found: of each bucket and all after it, in the order of time. A bet on what comes after bucket s alone is 1 until
                then, and until there is enough to be judged; so each is an e-process, as far as the first one is. The
                clock counts buckets, which are laid down before anything of them is known.
            sign: -1 where harm is a negative difference.
        """
        enough = are_enough(found)
        safe = np.where(enough, found.variance, 1.0)
        return log_mixed(np.where(enough, log_e_above(sign * found.value, safe, self.tau2), 0.0))

    def interval(self, effect: Effect, alpha: float) -> Interval:
        """Holds the true difference at every look with probability 1 - alpha."""
        half = math.sqrt(effect.variance) * critical_z(effect.variance, self.tau2, alpha)
        return Interval(effect.value - half, effect.value + half)

    def upper(self, effect: Effect, alpha: float) -> float:
        """Upper end of the one-sided sequence: the true difference never exceeds it, but for alpha."""
        z = critical_z_one_sided(effect.variance, self.tau2, alpha)
        return effect.value + z * math.sqrt(effect.variance)

    def lower(self, effect: Effect, alpha: float) -> float:
        """Lower end of the one-sided sequence."""
        return -self.upper(effect.mirrored(), alpha)


@overload
def log_e(difference: float, variance: float, tau2: float) -> float: ...
@overload
def log_e(difference: Array, variance: Array, tau2: float) -> Array: ...
def log_e(difference: Array | float, variance: Array | float, tau2: float) -> Array | float:
    """ln of the two-sided e-value; difference and sqrt(variance), sqrt(tau2) in the same unit."""
    v = tau2 / variance
    return 0.5 * difference**2 / variance * v / (1 + v) - 0.5 * np.log1p(v)


@overload
def log_e_above(difference: float, variance: float, tau2: float) -> float: ...
@overload
def log_e_above(difference: Array, variance: Array, tau2: float) -> Array: ...
def log_e_above(difference: Array | float, variance: Array | float, tau2: float) -> Array | float:
    """ln of the one-sided e-value against a difference of 0 or less."""
    from scipy.special import log_ndtr

    v = tau2 / variance
    z = difference / np.sqrt(variance) * np.sqrt(v / (1 + v))
    return log_e(np.asarray(difference), np.asarray(variance), tau2) + math.log(2) + log_ndtr(z)


def critical_z(variance: float, tau2: float, alpha: float) -> float:
    """Half-width of the two-sided sequence in standard errors."""
    require_between("alpha", alpha, 0, 1)
    v = tau2 / variance
    return math.sqrt((1 + 1 / v) * (-2 * math.log(alpha) + math.log1p(v)))


def critical_z_one_sided(variance: float, tau2: float, alpha: float) -> float:
    """Distance of the one-sided bound in standard errors."""
    two_sided = critical_z(variance, tau2, alpha)
    root = math.sqrt(variance)
    return crossing(lambda z: log_e_above(z * root, variance, tau2) + math.log(alpha), 0.0, two_sided)


def fieller(effect: Effect, z: float) -> Interval | None:
    """Interval of challenger / champion - 1, from the absolute one's z; None while the champion's own value may be 0.

    Fieller's construction, so that it excludes 0 exactly when the absolute interval does.
    """
    one, zero = effect.challenger, effect.champion
    spread = zero**2 - z**2 * effect.champion_variance
    if spread <= 0:
        return None
    root = (one * zero) ** 2 - spread * (one**2 - z**2 * effect.challenger_variance)
    half = math.sqrt(max(root, 0.0))
    ends = ((one * zero - half) / spread - 1, (one * zero + half) / spread - 1)
    return Interval(*ends)
