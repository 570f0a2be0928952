"""The counters that the rules read, and what a rule answers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple


class Bucket(NamedTuple):
    """Answers of both sides in the interval that ends at `at`, and how many of them were bad."""

    at: datetime
    canary_trials: float
    canary_events: float
    champion_trials: float
    champion_events: float


@dataclass(frozen=True, kw_only=True)
class Series:
    """One guardrail's buckets, in the order of time."""

    name: str
    kind: Literal["errors", "slow", "other"]
    """`slow`: an event is an answer slower than the objective."""
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True, kw_only=True)
class Action:
    """What one tool's rule would have done; `at` None: nothing while these counters last."""

    peer: str
    rule: str
    """The rule in words, with its numbers."""
    source: str
    """Where the rule is written down."""
    at: datetime | None
    reason: str


class Window(NamedTuple):
    """The canary's counts between two checks."""

    end: datetime
    trials: float
    events: float

    @property
    def bad_share(self) -> float | None:
        """Share of bad answers, 0 to 1; None without answers."""
        return self.events / self.trials if self.trials else None


def windows(
    buckets: Iterable[Bucket], *, begun: datetime, ended: datetime, every: timedelta
) -> Iterator[Window]:
    """The canary's counts in every whole interval from `begun` to `ended`; an interval without buckets is empty."""
    waiting = sorted(buckets)
    place, end = 0, begun + every
    while end <= ended:
        trials = events = 0.0
        while place < len(waiting) and waiting[place].at <= end:
            trials += waiting[place].canary_trials
            events += waiting[place].canary_events
            place += 1
        yield Window(end, trials, events)
        end += every
