"""Probability that a Brownian motion with drift leaves a band at given looks: recursive integration.

With information fractions t, B(t) = Z(t) sqrt(t) has independent normal increments; the density of what
has not left is carried from look to look by Gauss-Legendre quadrature.
(Armitage, McPherson & Rowe 1969; Jennison & Turnbull 2000, chapter 19.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from pipelines.statistics.inputs import Array, ParameterError

_WIDEST = 9.0
"""Standard deviations beyond which a normal density is nothing."""


class Exits(NamedTuple):
    """Probability to leave for the first time at each look; shape (looks,) each."""

    below: Array
    above: Array


@dataclass(frozen=True, eq=False)
class Surviving:
    """The density of B(t) over the paths that have not left yet, on quadrature nodes."""

    fraction: float
    nodes: Array
    mass: Array
    """Density times quadrature weight, shape (nodes,)."""

    @staticmethod
    def start() -> "Surviving":
        """At t = 0 all the mass is at 0."""
        return Surviving(0.0, np.zeros(1), np.ones(1))

    def above(self, z: float, fraction: float, drift: float) -> float:
        """Probability to be above z at this fraction, among what has not left before."""
        step = fraction - self.fraction
        edge = z * math.sqrt(fraction)
        return float(self.mass @ ndtr((self.nodes + drift * step - edge) / math.sqrt(step)))

    def below(self, z: float, fraction: float, drift: float) -> float:
        """Probability to be below z."""
        step = fraction - self.fraction
        edge = z * math.sqrt(fraction)
        return float(self.mass @ ndtr((edge - self.nodes - drift * step) / math.sqrt(step)))

    def inside(self, low: float, high: float, fraction: float, drift: float) -> "Surviving":
        """What is between z = low and z = high at this fraction, carried on."""
        step = fraction - self.fraction
        spread = math.sqrt(step)
        reach = _WIDEST * math.sqrt(fraction)
        bottom = max(low * math.sqrt(fraction), drift * fraction - reach)
        top = min(high * math.sqrt(fraction), drift * fraction + reach)
        if bottom >= top:
            return Surviving(fraction, np.zeros(1), np.zeros(1))
        nodes, weights = _quadrature(bottom, top, spread)
        distance = (nodes[:, None] - self.nodes - drift * step) / spread
        density = np.exp(-0.5 * distance**2) @ self.mass / (spread * math.sqrt(2 * math.pi))
        return Surviving(fraction, nodes, density * weights)


def exits(
    fractions: Sequence[float], *, low: Sequence[float], high: Sequence[float], drift: float = 0.0
) -> Exits:
    """First-exit probabilities of Z at the looks.

    Args:
        fractions: information fractions, growing, above 0.
        low, high: z bounds per look; +-inf where there is none.
        drift: the mean of Z at fraction 1.

    Raises:
        ParameterError: fractions that do not grow from above 0.
    """
    require_growing(fractions)
    alive = Surviving.start()
    below, above = np.zeros(len(fractions)), np.zeros(len(fractions))
    for look, (fraction, lowest, highest) in enumerate(zip(fractions, low, high, strict=True)):
        below[look] = alive.below(lowest, fraction, drift)
        above[look] = alive.above(highest, fraction, drift)
        alive = alive.inside(lowest, highest, fraction, drift)
    return Exits(below, above)


def require_growing(fractions: Sequence[float]) -> None:
    """Information fractions must grow from above 0.

    Raises:
        ParameterError: names the fractions.
    """
    previous = 0.0
    for fraction in fractions:
        if not (math.isfinite(fraction) and fraction > previous):
            raise ParameterError(f"information fractions {list(fractions)}, must grow from above 0")
        previous = fraction


def _quadrature(low: float, high: float, spread: float) -> tuple[Array, Array]:
    # The integrand is a product of normal densities no narrower than `spread`.
    wanted = 24 + 3.0 * (high - low) / spread
    nodes, weights = _legendre(int(min(2 ** math.ceil(math.log2(wanted)), 1024)))
    half = 0.5 * (high - low)
    return low + half * (nodes + 1), half * weights


@cache
def _legendre(count: int) -> tuple[Array, Array]:
    return np.polynomial.legendre.leggauss(count)
