"""Exact anytime-valid confidence sequence for one proportion; it works from the first trial on.

Robbins' mixture: the e-value against the rate theta is the beta-binomial probability of the data over
its binomial probability at theta; the sequence holds every theta with an e-value below 1/alpha.
(Robbins 1970.)
"""

import math
from dataclasses import dataclass

from pipelines.statistics.inputs import (
    require_between,
    require_counts,
    require_no_more,
    require_positive,
)
from pipelines.statistics.roots import crossing
from pipelines.statistics.sequences import Interval


@dataclass(frozen=True)
class ProportionSequence:
    """A confidence sequence for a rate, tightest near `typical`, valid whatever the rate is."""

    typical: float = 0.5
    """The rate one expects: the weight of rates is Beta(1/2, (1 - typical) / (2 typical))."""

    def __post_init__(self) -> None:
        require_between("typical", self.typical, 0, 1)

    def log_e(self, rate: float, *, events: float, trials: float) -> float:
        """ln e-value against this rate; infinite where the data rule it out."""
        from scipy.special import betaln, xlog1py, xlogy

        a, b = 0.5, 0.5 * (1 - self.typical) / self.typical
        mixture = float(betaln(a + events, b + trials - events) - betaln(a, b))
        return mixture - float(xlogy(events, rate) + xlog1py(trials - events, -rate))

    def interval(self, *, events: float, trials: float, alpha: float) -> Interval:
        """Holds the true rate at every look with probability 1 - alpha; (0, 1) before the first trial.

        Raises:
            NotMeasured: negative or non-finite counts, or more events than trials.
        """
        require_between("alpha", alpha, 0, 1)
        require_counts("proportion", events=events, trials=trials)
        require_no_more("proportion", events=events, trials=trials)
        if trials == 0:
            return Interval(0.0, 1.0)
        rate = events / trials
        return Interval(
            self._end(rate, 0.0, events, trials, alpha), self._end(rate, 1.0, events, trials, alpha)
        )

    def _end(self, rate: float, side: float, events: float, trials: float, alpha: float) -> float:
        def excess(place: float) -> float:
            theta = rate + place * (side - rate)
            return self.log_e(theta, events=events, trials=trials) + math.log(alpha)

        if rate == side or excess(1.0) < 0:
            return side
        # As fine as floats are: beside 0 and 1 the e-value changes much over the last digits.
        return rate + crossing(excess, 0.0, 1.0, tolerance=0.0) * (side - rate)


def rare_event_trials(margin: float, alpha: float) -> float:
    """Trials without a single event after which the rate is known to be below `margin`.

    The sequence is tuned to the margin, as `difference` does it.
    """
    require_positive("margin", margin)
    sequence = ProportionSequence(typical=margin)

    def excess(log_trials: float) -> float:
        return sequence.log_e(margin, events=0.0, trials=math.exp(log_trials)) + math.log(alpha)

    return math.exp(crossing(excess, 0.0, math.log(1e4 / margin)))
