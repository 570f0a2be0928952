"""Sample ratio mismatch: do the variants hold the shares of units that they should?

Sequential: a Dirichlet-multinomial mixture per step, k = 10^4 pseudo-units around the planned shares, as
an e-value that may be looked at any time (Lindon & Malek 2022, arXiv 2011.03567). Steps have their own
shares; their e-values multiply. Once, at the end: a chi-square test.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipelines.core.statistics.inputs import require_between, require_counts

CONCENTRATION = 1e4
"""k: how close to the planned share a mismatch is expected to be; about 1 % of a half."""


class StepUnits(NamedTuple):
    """Distinct units that were first exposed in one step, and the share they should have had."""

    step: int
    champion: float
    challenger: float
    challenger_share: float
    """The planned share of the challenger, 0 to 1; at 0 or 1 there is nothing to compare, and a stray unit of the
    other side (a client that keeps its connection, a request on its way) says nothing of the split."""
    champion_drawn: float | None = None
    """Of the champion's, those for which a version was drawn: of the requests of a caller who stays where he is, the first.
    None: all."""
    challenger_drawn: float | None = None

    @property
    def drawn(self) -> "StepUnits":
        """What the ratio is of."""
        if self.champion_drawn is None or self.challenger_drawn is None:
            return self
        return StepUnits(self.step, self.champion_drawn, self.challenger_drawn, self.challenger_share)


class ChiSquare(NamedTuple):
    statistic: float
    degrees: int
    p: float


def log_e(steps: Sequence[StepUnits]) -> float:
    """ln e-value against "every step has its planned share".

    Raises:
        NotMeasured: negative or non-finite units.
    """
    return math.fsum(_step_log_e(step) for step in _split(steps))


def chi_square(steps: Sequence[StepUnits]) -> ChiSquare:
    """Pearson's test over all steps, one degree of freedom each: for one look at the end, no more.

    Raises:
        NotMeasured: negative or non-finite units.
    """
    from scipy.special import chdtrc

    counted = [step for step in _split(steps) if step.champion + step.challenger > 0]
    if not counted:
        return ChiSquare(0.0, 0, 1.0)
    statistic = math.fsum(_pearson(step) for step in counted)
    return ChiSquare(statistic, len(counted), float(chdtrc(len(counted), statistic)))


def _split(every: Sequence[StepUnits]) -> list[StepUnits]:
    steps = [step.drawn for step in every]
    for step in steps:
        require_counts(f"sample ratio, step {step.step}", champion=step.champion, challenger=step.challenger)
        require_between("challenger_share", step.challenger_share, -1e-12, 1 + 1e-12)
    return [step for step in steps if 0 < step.challenger_share < 1]


def _step_log_e(step: StepUnits) -> float:
    a = CONCENTRATION * step.challenger_share
    b = CONCENTRATION - a
    mixture = _log_rising(a, step.challenger) + _log_rising(b, step.champion)
    mixture -= _log_rising(CONCENTRATION, step.challenger + step.champion)
    planned = step.challenger * math.log(step.challenger_share)
    planned += step.champion * math.log1p(-step.challenger_share)
    return mixture - planned


def _log_rising(start: float, count: float) -> float:
    return math.lgamma(start + count) - math.lgamma(start)


def _pearson(step: StepUnits) -> float:
    units = step.champion + step.challenger
    off = step.challenger - units * step.challenger_share
    return off**2 / (units * step.challenger_share * (1 - step.challenger_share))
