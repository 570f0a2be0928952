"""Which shares nobody watches: pure, and on the clock of whoever takes them away.

Nothing compares the clocks of two processes. A watcher leaves a mark each time he says that he watches; whoever enforces
the lease looks at the marks, and notes on its own clock for how long one has not changed.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

from resources.serving.contract import LEASE, Lapse

LOOK = timedelta(seconds=0.5)
"""How often the marks are looked at."""

Mark = TypeVar("Mark", bound=Hashable)


@dataclass
class _Heard(Generic[Mark]):
    mark: Mark
    at: float
    silent: float = 0.0
    """Seconds of looking in which the mark has not changed."""


@dataclass(kw_only=True)
class Keeper(Generic[Mark]):
    """Counts the silence of each share's watcher.

    A share that is seen for the first time, or under a new mark, has its whole lease. Of the time between two looks no more
    than two looks' worth counts: whoever enforces may have been starved, stopped or suspended, and the watchers with it.
    So a share stays at most `lease` and two looks after its last renewal, and never lapses while it is renewed.
    """

    lease: timedelta = LEASE
    every: timedelta = LOOK
    clock: Callable[[], float] = time.monotonic
    _heard: dict[str, _Heard[Mark]] = field(default_factory=dict[str, _Heard[Mark]])

    def look(self, marks: Mapping[str, Mark]) -> dict[str, Mark]:
        """Of the leased shares there are, with the last mark of each, those that nobody has watched for the lease."""
        now = self.clock()
        self._heard = {service: self._hear(service, mark, now) for service, mark in marks.items()}
        most = self.lease.total_seconds()
        return {service: heard.mark for service, heard in self._heard.items() if heard.silent >= most}

    def _hear(self, service: str, mark: Mark, now: float) -> _Heard[Mark]:
        before = self._heard.get(service)
        if before is None or before.mark != mark:
            return _Heard(mark, now)
        grown = min(now - before.at, 2 * self.every.total_seconds())
        return _Heard(mark, now, before.silent + grown)


def lapse_of(version: str, *, percent: float, mirror: bool, lease: timedelta) -> Lapse:
    """What is taken away now, and why."""
    return Lapse(
        version=version, at=datetime.now(UTC), percent=percent, mirror=mirror, reason=unwatched_for(lease)
    )


def unwatched_for(lease: timedelta) -> str:
    """Why, in words."""
    return (
        f"nobody has watched it for {lease.total_seconds():g} s: whoever looks at its counters (guardrail_sensor) is"
        " dead, stopped, starved or switched off"
    )
