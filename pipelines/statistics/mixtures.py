"""Over which effects an e-process spreads its bets: grids of log rate ratios with weights."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from pipelines.statistics.inputs import Array, ParameterError, require_positive


@dataclass(frozen=True, eq=False)
class Mixture:
    """Log rate ratios d and the log of their weights, both of shape (points,); the weights sum to 1."""

    ratios: Array
    log_weights: Array

    def __post_init__(self) -> None:
        if self.ratios.shape != self.log_weights.shape or not self.ratios.size:
            raise ParameterError(f"mixture of {self.ratios.size} ratios and {self.log_weights.size} weights")
        total = float(np.exp(self.log_weights).sum())
        if not math.isclose(total, 1.0, rel_tol=1e-9):
            raise ParameterError(f"mixture weights sum to {total}, must be 1")


def _mixture(ratios: Array, weights: Array) -> Mixture:
    return Mixture(ratios, np.log(weights / weights.sum()))


def _scales(low: float, high: float, points: int) -> Array:
    """Log ratios spaced evenly in their own logarithm: equal care for every scale of harm."""
    return np.exp(np.linspace(math.log(math.log(low)), math.log(math.log(high)), points))


@cache
def harm_mixture() -> Mixture:
    """The default for harm: scales from 1.2x to 64x.

    Spread over the logarithm of d, because the number of effects that can be told apart before the boundary
    is constant per factor of d. Nearly all of the weight lies where regressions are hard to see (up to 10x);
    beyond, a handful of events decides anyway. Within, the weight rises a little with d, where each event is
    worth more; the smallest scale carries more than its neighbours, as it also answers for all below it. The
    numbers are the best of a search for the smallest worst delay from 1.25x to 5x (docs/statistics.md).
    """
    subtle, blatant = _scales(1.196, 9.7, 30), _scales(9.7, 64.0, 11)[1:]
    rising = np.exp(0.31 * np.linspace(0, 1, subtle.size))
    weights = np.concatenate([0.92 * rising / rising.sum(), np.full(blatant.size, 0.08 / blatant.size)])
    weights[0] += 0.125
    return _mixture(np.concatenate([subtle, blatant]), weights)


def normal_mixture(mde: float, *, one_sided: bool = False, points: int = 41) -> Mixture:
    """The grid of Lindon & Malek: d on +-4 tau with weights phi(d / tau), tau = ln(1 + mde).

    One-sided keeps d > 0. `mde` is relative, e.g. 0.2 for +20 %.
    """
    tau = math.log1p(require_positive("mde", mde))
    grid = np.linspace(-4 * tau, 4 * tau, points)
    grid = grid[grid > 0] if one_sided else grid
    return _mixture(grid, np.exp(-0.5 * (grid / tau) ** 2))


@cache
def two_sided_mixture() -> Mixture:
    """The default without a direction: half of the weight on harm, half on its mirror image."""
    harm = harm_mixture()
    weights = np.exp(harm.log_weights)
    return _mixture(
        np.concatenate([-harm.ratios[::-1], harm.ratios]), np.concatenate([weights[::-1], weights])
    )


def blended_mixture(mde: float) -> Mixture:
    """Half the weight on the default scales of harm, half around a smaller effect that was planned for."""
    harm, planned = harm_mixture(), normal_mixture(mde, one_sided=True)
    weights = np.concatenate([np.exp(harm.log_weights), np.exp(planned.log_weights)])
    return _mixture(np.concatenate([harm.ratios, planned.ratios]), weights)
