"""Group sequential boundaries: Lan-DeMets spending for any information fractions, and the classical two.

For slow business metrics with a known horizon: a planned number of looks buys power back from the
anytime methods. The spending function is the two-sided O'Brien-Fleming type
4 (1 - Phi(z_{1 - alpha/4} / sqrt(t))); 2 (1 - Phi(z_{1 - alpha/2} / sqrt(t))) is another convention,
and the two must not be mixed. (Lan & DeMets 1983; O'Brien & Fleming 1979; Pocock 1977.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.statistics.exits import Surviving, exits, require_growing
from pipelines.statistics.inputs import ParameterError, require_between
from pipelines.statistics.roots import crossing

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


def obrien_fleming(looks: int, alpha: float) -> list[float]:
    """Classical O'Brien-Fleming boundaries for equally spaced looks: C sqrt(looks / k)."""
    shape = [math.sqrt(looks / look) for look in range(1, looks + 1)]
    return _scaled(shape, alpha)


def pocock(looks: int, alpha: float) -> list[float]:
    """Pocock's constant boundary for equally spaced looks."""
    return _scaled([1.0] * looks, alpha)


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

    if missing(_HIGHEST) < 0:
        return _HIGHEST
    return crossing(missing, 0.0, _HIGHEST)


def _scaled(shape: Sequence[float], alpha: float) -> list[float]:
    if not shape:
        raise ParameterError("looks == 0, must be at least 1")
    require_between("alpha", alpha, 0, 1)
    fractions = [look / len(shape) for look in range(1, len(shape) + 1)]

    def missing(constant: float) -> float:
        high = [constant * z for z in shape]
        left = exits(fractions, low=[-z for z in high], high=high)
        return alpha - float(left.below.sum() + left.above.sum())

    constant = crossing(missing, 0.5, _HIGHEST, steps=50)
    return [constant * z for z in shape]
