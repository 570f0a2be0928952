"""The harm test of one metric: an e-value, or a z value against a group sequential boundary."""

from dataclasses import dataclass

from pipelines.statistics.binomial import log_e_process
from pipelines.statistics.budget import ErrorBudget
from pipelines.statistics.difference import Buckets
from pipelines.statistics.look_spec import MetricSpec
from pipelines.statistics.mixtures import Mixture, blended_mixture, harm_mixture

RARE = 0.2
"""Base rate up to which events (or non-events) are rare enough for the conditional binomial test."""


@dataclass(frozen=True)
class Harm:
    """Evidence that the challenger is worse than the champion."""

    value: float
    boundary: float
    scale: str = "log e-value"
    """What value and boundary are: `log e-value`, or `z` for group sequential looks."""

    @property
    def is_crossed(self) -> bool:
        return self.value >= self.boundary


def is_counted(spec: MetricSpec) -> bool:
    """Whether this proportion is tested on its counts: always, unless it is known to be neither rare nor common."""
    return spec.baseline is None or min(spec.baseline, 1 - spec.baseline) <= RARE


def proportion_harm(spec: MetricSpec, buckets: Buckets, budget: ErrorBudget) -> Harm:
    """The conditional binomial e-value of a proportion, in the direction that is harm.

    Above a base rate of a half it is the non-events that are counted: they are the rare ones.
    """
    more_is_worse = spec.harm_sign() > 0
    if spec.baseline is not None and spec.baseline > 0.5:
        buckets, more_is_worse = buckets.complement(), not more_is_worse
    # Harm by fewer events at the canary is harm by more of them at the champion.
    n1, x1, n0, x0 = buckets if more_is_worse else buckets.swapped()
    path = log_e_process(n1, x1, n0, x0, mixture=_mixture(spec))
    return Harm(float(path[-1]) if path.size else 0.0, budget.log_boundary)


def _mixture(spec: MetricSpec) -> Mixture:
    planned = spec.mde
    if planned is None and spec.margin is not None and spec.baseline:
        planned = spec.margin / min(spec.baseline, 1 - spec.baseline)
    return harm_mixture() if planned is None or planned >= 0.2 else blended_mixture(planned)
