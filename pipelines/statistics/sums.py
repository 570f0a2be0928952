"""Additive sufficient statistics: all that an analysis ever reads of the raw rows."""

from typing import NamedTuple


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
