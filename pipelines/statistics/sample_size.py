"""Sample sizes of tests with one look at a fixed size: what the sequential methods are measured against.

All return the units of the smaller (challenger) arm; `ratio` is champion units per challenger unit.
"""

import math

from pipelines.statistics.inputs import ParameterError, require_between, require_positive
from pipelines.statistics.roots import crossing


def z_sum(*, alpha: float, power: float, two_sided: bool = True) -> float:
    """z_{1 - alpha/2} + z_{power}: the effect in standard errors that is found with this power.

    Raises:
        ParameterError: alpha or power outside their range.
    """
    return _z_alpha(alpha, two_sided=two_sided) + _z_power(power)


def two_proportions(
    baseline: float,
    other: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """To tell the rate `other` from `baseline`; null variance at the baseline, as in Evan Miller's calculator.

    Raises:
        ParameterError: rates outside (0, 1) or equal, and bad alpha, power or ratio.
    """
    require_between("baseline", baseline, 0, 1)
    require_between("other", other, 0, 1)
    _require_difference(baseline - other)
    require_positive("ratio", ratio)
    base, moved = baseline * (1 - baseline), other * (1 - other)
    null = _z_alpha(alpha, two_sided=two_sided) * math.sqrt(base * (1 + 1 / ratio))
    alternative = _z_power(power) * math.sqrt(moved + base / ratio)
    return ((null + alternative) / (other - baseline)) ** 2


def two_proportions_arcsine(
    baseline: float,
    other: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """The same on Cohen's arcsine scale, where the variance does not depend on the rate."""
    require_between("baseline", baseline, 0, 1)
    require_between("other", other, 0, 1)
    _require_difference(baseline - other)
    require_positive("ratio", ratio)
    h = 2 * math.asin(math.sqrt(other)) - 2 * math.asin(math.sqrt(baseline))
    return (z_sum(alpha=alpha, power=power, two_sided=two_sided) / h) ** 2 * (1 + 1 / ratio)


def means(
    difference: float,
    variance: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    ratio: float = 1.0,
    two_sided: bool = True,
) -> float:
    """To see a difference of means. For a ratio metric give `ratio_variance` as the variance.

    Args:
        difference: absolute, in the metric's unit.
        variance: per unit, in the metric's unit squared.
        alpha, power, ratio, two_sided: as everywhere here.
    """
    _require_difference(difference)
    require_positive("variance", variance)
    require_positive("ratio", ratio)
    z = z_sum(alpha=alpha, power=power, two_sided=two_sided)
    return z**2 * variance * (1 + 1 / ratio) / difference**2


def t_test(effect: float, *, alpha: float = 0.05, power: float = 0.8, ratio: float = 1.0) -> float:
    """Two-sided t test for a standardised effect (Cohen's d), by the noncentral t distribution."""
    from scipy.stats import nct, t

    _require_difference(effect)
    require_positive("ratio", ratio)
    normal = means(effect, 1.0, alpha=alpha, power=power, ratio=ratio)

    def missing(units: float) -> float:
        degrees = units * (1 + ratio) - 2
        shift = abs(effect) * math.sqrt(units * ratio / (1 + ratio))
        critical = float(t.isf(alpha / 2, degrees))
        return float(nct.sf(critical, degrees, shift) + nct.cdf(-critical, degrees, shift)) - power

    return crossing(missing, max(2.0, 0.9 * normal), normal + 100, steps=60)


def ratio_variance(
    *, numerator: float, denominator: float, variance: float, denominator_variance: float, covariance: float
) -> float:
    """Per-unit variance of sum(y) / sum(d) by the delta method.

    Args:
        numerator, denominator: means per unit of y and d.
        variance, denominator_variance, covariance: of y and d per unit.
    """
    require_positive("denominator", denominator)
    r = numerator / denominator
    return (variance - 2 * r * covariance + r**2 * denominator_variance) / denominator**2


def _z_alpha(alpha: float, *, two_sided: bool) -> float:
    from scipy.special import ndtri

    require_between("alpha", alpha, 0, 0.5)
    return -float(ndtri(alpha / 2 if two_sided else alpha))


def _z_power(power: float) -> float:
    from scipy.special import ndtri

    require_between("power", power, 0, 1)
    return float(ndtri(power))


def _require_difference(difference: float) -> None:
    if not (math.isfinite(difference) and difference != 0):
        raise ParameterError(f"difference == {difference}, must be finite and not 0")
