"""Power of the sequential methods, and the information they need, by exact integration over the looks.

Information is 1 / variance of the effect; `information_per_unit` turns it into people. Looks are taken to be evenly
spaced in information.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import assert_never

from pipelines.core.statistics.group_sequential import boundaries, exits
from pipelines.core.statistics.inputs import ParameterError, require_between, require_positive
from pipelines.core.statistics.sequences import critical_z, critical_z_one_sided, tightest


def z_sum(*, alpha: float, power: float, two_sided: bool) -> float:
    """z_{1 - alpha/2} + z_{power}: the effect in standard errors that one look at a fixed size finds with this power.

    Raises:
        ParameterError: alpha or power outside their range.
    """
    return _z_alpha(alpha, two_sided=two_sided) + _z_power(power)


def _z_alpha(alpha: float, *, two_sided: bool) -> float:
    from scipy.special import ndtri

    require_between("alpha", alpha, 0, 0.5)
    return -float(ndtri(alpha / 2 if two_sided else alpha))


def _z_power(power: float) -> float:
    from scipy.special import ndtri

    require_between("power", power, 0, 1)
    return float(ndtri(power))


class SequentialMethod(StrEnum):
    """How a metric is looked at: at any time, at planned looks, or once."""

    ANYTIME = "anytime"
    GROUP_SEQUENTIAL = "group_sequential"
    FIXED = "fixed"

    @property
    def is_planned(self) -> bool:
        """Whether its looks are planned: it needs the information planned, and says something at those looks alone."""
        match self:
            case SequentialMethod.GROUP_SEQUENTIAL:
                return True
            case SequentialMethod.ANYTIME | SequentialMethod.FIXED:
                return False
            case _:
                assert_never(self)


@dataclass(frozen=True, kw_only=True)
class Design:
    """A way to look at one metric."""

    method: SequentialMethod = SequentialMethod.ANYTIME
    alpha: float = 0.05
    looks: int = 100
    """Until the planned end. The anytime power hardly depends on it; the group sequential one is planned for it."""
    one_sided: bool = False
    """Non-inferiority: one bound against a margin, at level alpha."""

    def __post_init__(self) -> None:
        require_between("alpha", self.alpha, 0, 0.5)
        if self.looks < 1:
            raise ParameterError(f"looks == {self.looks}, must be at least 1")

    def power(self, shift: float, *, planned_share: float = 1.0) -> float:
        """Probability to be conclusive in the right direction by the last look.

        Args:
            shift: the effect in standard errors at the last look.
            planned_share: information at the last look as a share of what tau2 was tuned to (anytime).
        """
        z = _boundary(self, planned_share)
        fractions = [look / len(z) for look in range(1, len(z) + 1)]
        low = [-math.inf] * len(z) if self.one_sided else [-bound for bound in z]
        return float(exits(fractions, low=low, high=z, drift=shift).above.sum())

    def shift(self, power: float) -> float:
        """The effect in standard errors at the last look that is found with this power."""
        fixed = z_sum(alpha=self.alpha, power=power, two_sided=not self.one_sided)
        return _shift(self, power, fixed)

    def information(self, effect: float, power: float) -> float:
        """Information needed to find an absolute effect with this power."""
        require_positive("effect", abs(effect))
        return (self.shift(power) / effect) ** 2

    def inflation(self, power: float) -> float:
        """Sample needed as a multiple of one look at a fixed size."""
        fixed = z_sum(alpha=self.alpha, power=power, two_sided=not self.one_sided)
        return (self.shift(power) / fixed) ** 2

    def detectable(self, information: float, power: float) -> float:
        """The smallest absolute effect found with this power at this information (MDE)."""
        require_positive("information", information)
        return self.shift(power) / math.sqrt(information)


def power_each(power: float, metrics: int) -> float:
    """What each of the metrics must be planned for, so that all of them hold with `power` however they depend on each other."""
    return 1 - (1 - power) / max(metrics, 1)


def information_per_unit(share: float, variance: float) -> float:
    """Information that one more unit of traffic brings, both arms together.

    Args:
        share: the challenger's share of the units, above 0 and below 1.
        variance: per unit of the metric.
    """
    require_between("share", share, 0, 1)
    require_positive("variance", variance)
    return share * (1 - share) / variance


@cache
def _boundary(design: Design, planned_share: float) -> list[float]:
    match design.method:
        case SequentialMethod.ANYTIME:
            critical = critical_z_one_sided if design.one_sided else critical_z
            scale = tightest(design.alpha) * planned_share
            return [critical(1 / fraction, scale, design.alpha) for fraction in _evenly(design.looks)]
        case SequentialMethod.GROUP_SEQUENTIAL:
            return _spending(design, design.looks)
        case SequentialMethod.FIXED:
            return _spending(design, 1)
        case _:
            assert_never(design.method)


def _evenly(looks: int) -> list[float]:
    return [look / looks for look in range(1, looks + 1)]


def _spending(design: Design, looks: int) -> list[float]:
    """A symmetric boundary at 2 alpha spends alpha on either side."""
    alpha = 2 * design.alpha if design.one_sided else design.alpha
    return boundaries(_evenly(looks), alpha, last_is_final=True)


@cache
def _shift(design: Design, power: float, fixed: float) -> float:
    from scipy.optimize import root_scalar

    found = root_scalar(
        lambda shift: design.power(shift) - power, bracket=(fixed * 0.999, fixed * 2.5), xtol=1e-5
    )
    return float(found.root)
