"""Where units return: which answers make one e-process, and what part of the error budget it has.

A test needs units that do not depend on each other, so none may count twice in it. Who counts knows a unit for a while only.
So there are several e-processes, each over a section in which nobody counts twice, each from 1 on:

- the answers that are a unit's first in the whole rollout, which has nearly all of the error (`DISTINCT`);
- the same at whoever began to count later and knows nobody yet, anew with each of them (`LATER`);
- the answers that are a unit's first within one short block of time, one block after the other (`BLOCKS`).

What depends on each other lies in different sections, and they are not multiplied, nor added up: what is fair given one
section's past need not be fair given another's. Each must reach boundary / w by itself, where all w add up to 1 at most:

    P(sup_k w_k sup_n E_k,n >= m / alpha) <= sum_k w_k alpha / m <= alpha / m.

Within a section the metrics learn of a unit at the same moment, so their e-values are added up there, and the sum of all
metrics of a rollout is held to m / alpha as it is without sections (`look_spec`). The number of sections has no bound: the
weights within `LATER` and `BLOCKS` are priors over the natural numbers, the latter with the heavy tail of `starts`.
"""

import math

from pipelines.core.statistics.starts import log_started

DISTINCT, LATER, BLOCKS = 0.92, 0.04, 0.04
"""Parts of the error: ln(1 / .92) is 2 to 3 % of what a boundary asks for."""

LOG_DISTINCT = math.log(DISTINCT)


def log_later(number: int) -> float:
    """ln of the weight of the test that began with the number-th later start, from 1 on: 1/2, 1/6, 1/12 ... of the part."""
    return math.log(LATER) - math.log(number * (number + 1))


def log_block(number: int) -> float:
    """ln of the weight of the number-th block of time, from 0 on; what late blocks have falls with ln n squared and n."""
    return math.log(BLOCKS) + log_started(float(number), float(number + 1), 1.0)
