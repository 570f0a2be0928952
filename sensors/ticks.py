"""One sensor of a kind serves all models: it looks again and again within its tick, and ends it with the first news.

A tick costs Dagster some 50 ms of CPU, whatever is found; a look that finds nothing costs a query. So a sensor that
looks for most of a minute is quicker than one that is evaluated every few seconds, and costs a fraction.
"""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import NamedTuple

import dagster as dg

from pipelines.core.errors import RampgateError
from pipelines.core.rollout.state import RolloutState
from pipelines.rollouts.open_rollout import read_rollout
from resources.ledger.ledger import Ledger, RolloutRow
from resources.notifier import contained

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


def all_found(parts: Iterable[Found]) -> Found:
    """What was found of several models, in their order; without a cursor."""
    parts = tuple(parts)
    return Found(
        tuple(request for part in parts for request in part.requests),
        tuple(sentence for part in parts for sentence in part.said),
    )


def look_at_all(
    context: dg.SensorEvaluationContext, ledger: Ledger, sensor: str, look: Callable[[], Found]
) -> Found:
    """What `look` finds; what goes wrong on the way is said, and tried again."""
    with contained(ledger, context.log, where=f"the {sensor}") as trouble:
        try:
            return look()
        except RampgateError as error:
            return Found(said=(f"cannot tell: {error}",))
    return Found(said=(trouble.words,))


def look_at_one(
    context: dg.SensorEvaluationContext,
    ledger: Ledger,
    sensor: str,
    row: RolloutRow,
    look: Callable[[RolloutState], Found],
) -> Found:
    """What `look` makes of one open rollout. Whatever goes wrong with one model delays no other."""
    with contained(ledger, context.log, where=f"{row.model}'s {sensor}", model=row.model) as trouble:
        try:
            return look(read_rollout(ledger, row.rollout_id))
        except RampgateError as error:
            return Found(said=(f"{row.model}: cannot tell: {error}",))
    return Found(said=(trouble.words,))


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
