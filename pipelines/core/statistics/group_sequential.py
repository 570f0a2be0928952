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

from pipelines.core.statistics.inputs import Array, ParameterError, require_between
from pipelines.core.statistics.sequences import crossing

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


# Group sequential boundaries: Lan-DeMets spending for any information fractions.
#
# For slow business metrics with a known horizon: a planned number of looks buys power back from the
# anytime methods. The spending function is the two-sided O'Brien-Fleming type
# 4 (1 - Phi(z_{1 - alpha/4} / sqrt(t))); 2 (1 - Phi(z_{1 - alpha/2} / sqrt(t))) is another convention,
# and the two must not be mixed. (Lan & DeMets 1983.)


_HIGHEST = 12.0


def obrien_fleming_spent(fraction: float, alpha: float) -> float:
    """Two-sided error spent by an information fraction; `alpha` from fraction 1 on."""
    from scipy.special import ndtr, ndtri

    require_between("alpha", alpha, 0, 1)
    if fraction <= 0:
        return 0.0
    return float(4 * ndtr(ndtri(alpha / 4) / math.sqrt(min(fraction, 1.0))))


def boundaries(fractions: Sequence[float], alpha: float, *, last_is_final: bool = False) -> list[float]:
    """Two-sided z boundaries at the looks so far; a later look never changes an earlier boundary.

    Args:
        fractions: information at each look as a share of the planned maximum, growing. From 1 on
            everything is spent.
        alpha: two-sided error of the whole trial.
        last_is_final: the trial ends with the last look: spend what is left even below fraction 1.

    Raises:
        ParameterError: alpha outside (0, 1), fractions that do not grow, or a look after one at 1 or more.
    """
    require_growing(fractions)
    if any(fraction >= 1 for fraction in fractions[:-1]):
        raise ParameterError(f"information fractions {list(fractions)}: a look after everything was spent")
    alive, spent, found = Surviving.start(), 0.0, list[float]()
    for look, fraction in enumerate(fractions, start=1):
        final = last_is_final and look == len(fractions)
        target = alpha if final else obrien_fleming_spent(fraction, alpha)
        found.append(_boundary(alive, fraction, target - spent))
        alive = alive.inside(-found[-1], found[-1], fraction, 0.0)
        spent = target
    return found


@dataclass(frozen=True)
class GroupSequential:
    """A plan of looks: what one look needs to know."""

    alpha: float
    """Two-sided error of the whole trial."""
    max_information: float
    """1 / variance of the effect at the planned end."""

    def fraction(self, variance: float) -> float:
        """Information so far as a share of the plan's; above 1 if the trial overran."""
        return 1 / (variance * self.max_information)

    def boundary(self, past: Sequence[float], fraction: float, *, final: bool = False) -> float:
        """z boundary of the look at `fraction`, after the looks at the fractions in `past`."""
        return boundaries([*past, fraction], self.alpha, last_is_final=final)[-1]


def _boundary(alive: Surviving, fraction: float, allowed: float) -> float:
    def missing(z: float) -> float:
        leaving = alive.above(z, fraction, 0.0) + alive.below(-z, fraction, 0.0)
        return allowed - leaving

    return crossing(missing, 0.0, _HIGHEST)
