"""One-sided bounds on the difference of two proportions, exact and asymptotic side by side.

Which of the two is tighter depends on the number of events. Choosing by the data costs error, so the
error is split beforehand: a quarter to the exact bound, three quarters to the asymptotic one; the tighter
of the two then holds at every look with probability 1 - alpha (union bound).
"""

import math

from pipelines.statistics.difference import Buckets, upper_bound
from pipelines.statistics.effects import Effect
from pipelines.statistics.sequences import AsymptoticSequence, is_enough

EXACT_PART = 0.25
"""Share of the error that the exact bound gets."""
ENOUGH_EVENTS = 30.0
"""Expected events (and non-events) per arm from which the asymptotic bound is used.

More than a test against "no difference" needs: at the edge of a margin the rates differ, and a canary that
has few events by chance has a small estimated variance as well. Simulated with a version worse by exactly its
margin, the asymptotic bound alone was wrong in 6.6 % of rollouts from 5 events on, and in 3.6 % at most from
30 on (20 scenarios, 400 looks); its part of the error is 3.75 %.
"""
PLENTY = 200.0
"""Expected events per arm from which the exact bound is not worth its computing time."""


def proportion_upper(
    buckets: Buckets,
    effect: Effect,
    sequence: AsymptoticSequence,
    alpha: float,
    *,
    typical: float | None = None,
) -> float:
    """Upper bound on p1 - p0 at every look, with probability 1 - alpha.

    Args:
        buckets: the counts, in time order.
        effect: the same data, stratified.
        sequence: tuned beforehand.
        alpha: one-sided error over all looks.
        typical: the base rate one expects, for the exact bound.
    """
    bound = 1.0
    if is_enough(effect) and effect.fewest_expected >= ENOUGH_EVENTS:
        bound = min(bound, sequence.upper(effect, (1 - EXACT_PART) * alpha))
    if effect.fewest_expected < PLENTY:
        bound = min(bound, _exact_upper(buckets, alpha * EXACT_PART, typical))
    return bound


def proportion_lower(
    buckets: Buckets,
    effect: Effect,
    sequence: AsymptoticSequence,
    alpha: float,
    *,
    typical: float | None = None,
) -> float:
    """Lower bound on p1 - p0; the upper bound with the variants' roles exchanged."""
    return -proportion_upper(buckets.swapped(), effect.mirrored(), sequence, alpha, typical=typical)


def _exact_upper(buckets: Buckets, alpha: float, typical: float | None) -> float:
    """For rates above a half the non-events are the rare ones: p1 - p0 is their difference turned round."""
    trials = math.fsum(buckets.canary_trials) + math.fsum(buckets.champion_trials)
    events = math.fsum(buckets.canary_events) + math.fsum(buckets.champion_events)
    common = (typical if typical is not None else events / trials if trials else 0.0) > 0.5
    if not common:
        return upper_bound(buckets, alpha, typical=typical)
    rare = None if typical is None else 1 - typical
    return upper_bound(buckets.complement().swapped(), alpha, typical=rare)
