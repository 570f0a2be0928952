"""Many paths of the counts' e-process at once, as `ConditionalBinomial` makes one.

The money lies on (paths, grid) as it is, not as its logarithm: a path that has reached its boundary is taken out before it
could overflow, and what underflows is nothing beside what is staked anew.
"""

import numpy as np

from pipelines.core.statistics.binomial import harm_mixture
from pipelines.core.statistics.starts import LATER, log_cash, log_started


class Paths:
    """The e-values of `count` rollouts."""

    def __init__(self, count: int, *, later: float = LATER) -> None:
        mixture = harm_mixture()
        self.ratios, self.weights = mixture.ratios, np.exp(mixture.log_weights)
        self.later, self.events = later, np.zeros(count)
        self.mass = np.tile((1 - later) * self.weights, (count, 1))

    @property
    def e(self) -> np.ndarray:
        """The e-values, shape (count,)."""
        return self.mass.sum(axis=1) + np.exp(log_cash(self.events, self.later))

    def take(
        self, canary: np.ndarray, champion: np.ndarray, share: np.ndarray | float, *, most: float = np.inf
    ) -> np.ndarray:
        """The e-values after one more bucket: events per path, the canary's realised share, the most that ln of a bet gains."""
        total = canary + champion
        slope = np.log1p(np.multiply.outer(share, np.expm1(self.ratios)))
        staked = np.exp(log_started(self.events, self.events + total, self.later))
        self.mass += staked[:, None] * self.weights
        self.mass *= np.exp(np.minimum(canary[:, None] * self.ratios - total[:, None] * slope, most))
        self.events += total
        return self.e

    def step(self, rng: np.random.Generator, share: float, ratio: float, events: int = 1) -> np.ndarray:
        """The e-values after so many more events; the canary's rate is `ratio` times the champion's."""
        canary = rng.binomial(events, share * ratio / (1 - share + share * ratio), len(self.mass))
        return self.take(canary, events - canary, share)

    def keep(self, kept: np.ndarray) -> None:
        self.mass, self.events = self.mass[kept], self.events[kept]
