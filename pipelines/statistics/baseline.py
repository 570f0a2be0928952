"""What is known of a metric before an experiment, and the variance that its analysis will work with."""

import math
from dataclasses import dataclass

from pipelines.statistics.effects import Kind
from pipelines.statistics.inputs import ParameterError, require_between, require_positive

_HALF_NORMAL = 1 / math.sqrt(2 * math.pi)
"""Mean of max(0, X) of a standard normal X."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """What is known of a metric under the champion, from the lake's history or from a person."""

    name: str
    kind: Kind
    value: float
    """Mean, rate or ratio per unit."""
    variance: float | None = None
    """Per unit; rate (1 - rate) for a proportion. For a ratio see `sample_size.ratio_variance`."""
    kurtosis: float = 3.0
    """Of the values per unit, 3 for a normal variable; computed for a proportion."""
    units_per_day: float
    """Traffic of both variants together, in units of the experiment."""

    def per_unit_variance(self) -> float:
        """The variance, computed for a proportion.

        Raises:
            ParameterError: no variance given for a mean or a ratio, or a rate outside (0, 1).
        """
        if self.kind is Kind.PROPORTION:
            return require_between(f"{self.name}: baseline rate", self.value, 0, 1) * (1 - self.value)
        if self.variance is None:
            raise ParameterError(f"{self.name}: a {self.kind} needs its variance per unit")
        return require_positive(f"{self.name}: variance", self.variance)

    def analysed_variance(self, *, share: float, effect: float, units: float) -> float:
        """Per unit, as max(Welch, pooled) will see it on average.

        Args:
            share: the challenger's, above 0 and below 1.
            effect: absolute; a rate that moves by it changes its variance. The worse direction is taken.
            units: of both arms; with few, the larger of two estimates lies above the truth.
        """
        variance = self.per_unit_variance()
        if self.kind is Kind.PROPORTION:
            variance = max(_moved(self.value, self.value + move, share) for move in (effect, -effect))
        kurtosis = 1 / (self.value * (1 - self.value)) - 3 if self.kind is Kind.PROPORTION else self.kurtosis
        # Welch minus pooled is (1 - 2 share)(s1^2 - s0^2) of the pooled variance.
        spread = abs(1 - 2 * share) * math.sqrt(max(kurtosis - 1, 0.0) / (share * (1 - share) * units))
        return variance * (1 + _HALF_NORMAL * min(spread, 1.0))


def _moved(rate: float, other: float, share: float) -> float:
    """The larger of Welch's and the pooled variance per unit when the challenger's rate is `other`."""
    other = min(max(other, 0.0), 1.0)
    pooled = share * other + (1 - share) * rate
    welch = (1 - share) * other * (1 - other) + share * rate * (1 - rate)
    return max(welch, pooled * (1 - pooled))
