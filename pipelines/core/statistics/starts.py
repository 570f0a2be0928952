"""Harm that begins late: money set aside for bets that start later than the rollout.

An e-process that began with the rollout forgets nothing: what it lost while the version was healthy must be won back
before it can say that the version is bad now. So only the share 1 - `later` of the money bets from the start. The
rest is cash, of which F(n) has been put on copies of the bet by the n-th tick of a clock:

    E_n = (1 - later) E_0,n + later sum_{s <= n} (F(s) - F(s - 1)) E_s,n + later (1 - F(n)),
    F(n) = 1 - ln 10 / ln(n + 10),

where E_s bets on what comes after s alone. Every term is an e-process (1 until its start) or cash, and the weights sum to 1: a
convex combination of e-processes is an e-process, so Ville's inequality holds at every look, without a horizon. This is the
mixture of Shiryaev-Roberts type of Shin, Ramdas & Rinaldo (2023, "E-detectors", arXiv 2203.03532, their section on mixtures over
start times), with a prior over starts in place of their sum, so that the error is a probability and no rate.

The clock must not know who had the events: it may count events of both arms (the bet is fair given a bucket's total; Lindon &
Malek 2022) or buckets. F has a tail so heavy that what a late start costs grows with ln n, and not with n as without it.
"""

import math
from typing import overload

import numpy as np

from pipelines.core.statistics.inputs import Array

LATER = 0.2
"""The share of the money for harm that begins later: it costs at most 4 % of the delay where harm is there from the start."""

_SOON = 10.0
"""Ticks of the clock after which a third of that share is staked."""


@overload
def log_started(before: float, now: float, later: float) -> float: ...
@overload
def log_started(before: Array, now: Array, later: float) -> Array: ...
def log_started(before: Array | float, now: Array | float, later: float) -> Array | float:
    """ln of the money that is staked between two readings of the clock; -inf where it did not move."""
    a, b = np.log(np.add(before, _SOON)), np.log(np.add(now, _SOON))
    # F(now) - F(before), without the difference of two numbers close to each other.
    staked = later * math.log(_SOON) * np.log1p((now - before) / np.add(before, _SOON)) / (a * b)
    with np.errstate(divide="ignore"):
        return np.log(staked)


@overload
def log_cash(now: float, later: float) -> float: ...
@overload
def log_cash(now: Array, later: float) -> Array: ...
def log_cash(now: Array | float, later: float) -> Array | float:
    """ln of the money that has not been staked yet."""
    with np.errstate(divide="ignore"):
        return np.log(later * math.log(_SOON) / np.log(np.add(now, _SOON)))


def log_mixed(log_e: Array, later: float = LATER) -> float:
    """ln of the mixture, given ln of the e-values of the bets that start at each tick of the clock; shape (ticks,)."""
    ticks = np.arange(len(log_e), dtype=float)
    started = log_started(ticks, ticks + 1, later)
    started[:1] = np.logaddexp(started[:1], math.log1p(-later))
    bets = float(np.logaddexp.reduce(started + log_e)) if len(log_e) else math.log1p(-later)
    return float(np.logaddexp(bets, log_cash(float(len(log_e)), later)))
