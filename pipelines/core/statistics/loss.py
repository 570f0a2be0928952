"""Units without a value: are as many left out at both versions?

What is left out of a metric is seldom a sample of it. Where a version loses the values of its dearest units, what is left of it
looks cheap, and no test on what is left can know. So the metric's sample ratio is tested once more, on matured units: those
with a value must be shared between the versions as those whose outcome window is over.

Conditional binomial, bucket by bucket and given how many units of either version are mature, so that neither the shares of traffic,
nor a crossover, nor a rate of loss that moves in time disturbs it. Half of the money lies on those without a value, which
is fast where they are few, and half on those with one, which is fast where most have none; either half bets on both versions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from pipelines.core.statistics.binomial import Mixture, log_e_process
from pipelines.core.statistics.columns import columns
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.look_spec import Conclusion
from pipelines.core.statistics.metric_look import Harm, MetricLook, odds
from pipelines.core.statistics.proportions import Buckets


@dataclass(frozen=True)
class Loss:
    """One metric's units without a value."""

    metric: str
    champion: float | None
    """Their share among the champion's matured units; None without any."""
    challenger: float | None
    log_e: float
    """The largest so far, against "as many at both versions": what was lost stays in the metric's past."""
    log_boundary: float
    log_e_now: float = 0.0
    """As it stands: what is too much to go on by, and too little to say anything."""

    @property
    def is_unequal(self) -> bool:
        return self.log_e >= self.log_boundary


@cache
def both_ways() -> Mixture:
    """Rate ratios from 1.02x to 64x and from 1/64 to 1/1.02, each scale of loss with the same weight."""
    scales = np.exp(np.linspace(math.log(math.log(1.02)), math.log(math.log(64.0)), 24))
    ratios = np.concatenate([-scales[::-1], scales])
    return Mixture(ratios, np.full(ratios.size, -math.log(ratios.size)))


def find_loss(cells: Sequence[Cell], metric: str, *, alpha: float) -> Loss:
    """Whether the metric's values are lost at one version more than at the other.

    Args:
        cells: of all metrics; final, as for `analyse`.
        metric: whose.
        alpha: the probability that equal loss is ever called unequal.

    Raises:
        NotMeasured: counts that are negative, not finite, or of one bucket twice.
    """
    units = [_without_value(cell) for cell in cells if cell.metric == metric]
    found = columns(units, metric, EffectKind.PROPORTION)
    champion, challenger = (_share(sums) for sums in (found.champion, found.challenger))
    path = _log_e(found.buckets())
    return Loss(metric, champion, challenger, float(path.max()), -math.log(alpha), float(path[-1]))


def _share(sums: Array) -> float | None:
    units, without = sums[:, 0].sum(), sums[:, 1].sum()
    return float(without / units) if units else None


def _without_value(cell: Cell) -> Cell:
    """The units of a cell as a share that has no value."""

    def units(counted: Sums, lost: float) -> Sums:
        return Sums(n=counted.n + lost, sy=lost, syy=lost)

    champion, challenger = (
        units(cell.champion, cell.champion_lost),
        units(cell.challenger, cell.challenger_lost),
    )
    return Cell(cell.metric, cell.step, cell.bucket, champion, challenger)


def _log_e(buckets: Buckets) -> Array:
    """From the start, and after each bucket."""
    paths = [log_e_process(*each, mixture=both_ways()) for each in (buckets, buckets.complement())]
    return np.r_[0.0, np.logaddexp(*paths) - math.log(2)]


def not_compared(look: MetricLook, loss: Loss) -> MetricLook:
    """The look at a metric whose values are lost at one version more than at the other."""
    return replace(
        look,
        conclusion=Conclusion.NOT_YET,
        interval=None,
        relative_interval=None,
        harm=Harm(0.0, math.inf, look.harm.scale),
        worst=None,
        is_within_margin=False,
        is_lost=True,
        slices=None,
        sentence=f"{look.name}: not compared, {loss_words(loss)}.",
    )


def loss_words(loss: Loss) -> str:
    """How many units have no value when their outcome window is over."""
    if loss.champion is None or loss.challenger is None:
        return "no unit of both versions has its outcome window behind it yet"
    shares = (
        f"{100 * loss.challenger:.3g} % of the challenger's units have no value when their outcome"
        f" window is over, and {100 * loss.champion:.3g} % of the champion's"
    )
    if not loss.is_unequal:
        return f"{shares}: as many are left out at both, as far as one can tell"
    return (
        f"{shares} (evidence of a difference {odds(loss.log_e)} to 1): what is left of them are different units, and neither"
        " better nor worse can be told"
    )
