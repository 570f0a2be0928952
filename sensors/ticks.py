"""One sensor of a kind serves all models: it looks again and again within its tick, and ends it with the first news.

A tick costs Dagster some 50 ms of CPU, whatever is found; a look that finds nothing costs a query. So a sensor that
looks for most of a minute is quicker than one that is evaluated every few seconds, and costs a fraction.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import dagster as dg

TICK = timedelta(seconds=45)
"""How long a tick looks; Dagster waits a minute for it."""

MOST_SAID = 20
"""Models that a tick's message speaks of."""


class Found(NamedTuple):
    """What one look at all models has found."""

    requests: tuple[dg.RunRequest, ...] = ()
    said: tuple[str, ...] = ()
    """A sentence for each model about which there is something to say."""
    cursor: str | None = None
    """The next one, beside requests."""


def looked(
    look: Callable[[], Found], *, every: timedelta, tick: timedelta, otherwise: str
) -> dg.SkipReason | dg.SensorResult:
    """Look until there is a run to be asked for, or the tick is over; at least once."""
    until = time.monotonic() + tick.total_seconds()
    while True:
        found = look()
        if found.requests:
            return dg.SensorResult(run_requests=found.requests, cursor=found.cursor)
        if time.monotonic() + every.total_seconds() > until:
            return dg.SkipReason(_in_short(found.said) or otherwise)
        time.sleep(every.total_seconds())


def _in_short(said: tuple[str, ...]) -> str:
    more = len(said) - MOST_SAID
    return "; ".join((*said[:MOST_SAID], *((f"and {more} more",) if more > 0 else ())))
