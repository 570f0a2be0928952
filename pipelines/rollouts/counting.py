"""From the gateways' cumulative counters to what was answered since the last look: each answer once, or not at all.

Gateways start, end and start again by themselves, and one that does not answer now has counted all the same. So each start of
each gateway is compared with its own last reading, never with a sum, and:

- One that is read for the first time counts whole only where it says that it began since, under this share and less than a
  lease before the last look: then it had counted nothing. Of any other nobody can tell what is new; it counts from now on.
- One that nobody could read while others were read counts where it left off, within a lease. After that it may have taken
  the share away by itself, and one interval would mix two shares; it counts from now on.
- What one counted between its last reading and its end is lost.

What is lost is lost of both versions alike: unknown, neither bad nor good.
"""

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from resources.ledger.counters import CounterBucket
from resources.serving.contract import (
    LEASE,
    UNIT_WINDOW,
    Counters,
    GatewayCounters,
    RevisionCounters,
    counted_other_errors,
    epoch_of,
    since,
    together,
)

MOST_FORMER = 500
"""So many names of gateways that have gone are kept."""


class Growth(NamedTuple):
    """What one gateway has counted in one stretch of time."""

    gateway: GatewayCounters
    """As it is read now."""
    begun: datetime
    """Where the stretch begins; it ends where the gateway was read."""
    revisions: tuple[RevisionCounters, ...]

    @property
    def length(self) -> timedelta:
        """Never negative: the clock may have been set back."""
        return max(timedelta(0), self.gateway.at - self.begun)

    def is_older_than(self, time: datetime) -> bool:
        """Whether the gateway began before: then it knows whom it has answered since."""
        return self.gateway.started is not None and self.gateway.started <= time


@dataclass(frozen=True, kw_only=True)
class Watermark:
    """How far the gateways' counters were read: whatever they show beyond it was not counted yet."""

    at: datetime
    """When they were read last."""
    since: datetime
    """Since when the canary has the share that it has, as far as whoever counts knows."""
    gateways: tuple[GatewayCounters, ...]
    """The last reading of each start of a gateway, where that was less than a lease before `at`."""
    former: tuple[str, ...] = ()
    """Starts that were read and are not compared any more: never new again, whatever somebody's clock says."""
    starts: int = 0
    """How many starts were read that the first reading did not have: each knows no unit yet."""
    newest: datetime | None = None
    """When the last of them was read first."""
    most: int = 1
    """So many gateways at most answered at once: a unit may be new at each of them."""

    @property
    def epoch(self) -> str:
        """A name of just those that answered last."""
        return epoch_of(self._read_last)

    @property
    def read(self) -> int:
        """How many answered last."""
        return len(self._read_last)

    @property
    def _read_last(self) -> tuple[GatewayCounters, ...]:
        return tuple(each for each in self.gateways if each.at == self.at)

    def moved(self, now: Counters) -> "Watermark":
        """Everything up to `now` is counted."""
        before = {each.instance: each for each in self.gateways}
        read = tuple(_with_former(each, before.pop(each.instance, None)) for each in _read_at_once(now))
        silent = tuple(each for each in before.values() if abs(now.at - each.at) < LEASE)
        new = sum(self._is_new(each) for each in now.gateways)
        return self._without(
            replace(
                self,
                at=now.at,
                gateways=(*read, *silent),
                starts=self.starts + new,
                newest=now.at if new else self.newest,
                most=max(self.most, len(read)),
            )
        )

    def _is_new(self, now: GatewayCounters) -> bool:
        last = self._last(now)
        return now.instance not in self.former if last is None else _began_again(last, now)

    def _last(self, now: GatewayCounters) -> GatewayCounters | None:
        return next((each for each in self.gateways if each.instance == now.instance), None)

    def under_another_share(self) -> "Watermark":
        """The share has changed since the last look: what was not read then is not compared across the change."""
        return self._without(replace(self, since=self.at, gateways=self._read_last))

    def _without(self, next_one: "Watermark") -> "Watermark":
        """The next one, which knows by name whom it has no reading of any more."""
        kept = {each.instance for each in next_one.gateways}
        gone = tuple(each.instance for each in self.gateways if each.instance not in kept)
        return replace(next_one, former=(*self.former, *gone)[-MOST_FORMER:]) if gone else next_one

    def beginning(self, now: GatewayCounters) -> GatewayCounters:
        """What `now` is compared with; itself where it is not known what of it is new."""
        if (last := self._last(now)) is not None:
            return now if _began_again(last, now) else last
        if now.started is None or now.instance in self.former:
            return now
        is_new = now.started > max(self.since, self.at - LEASE)
        return replace(now, at=now.started, revisions=()) if is_new else now


def first_watermark(counters: Counters) -> Watermark:
    """Nothing is counted of what these show."""
    read = _read_at_once(counters)
    return Watermark(at=counters.at, since=counters.at, gateways=read, most=len(read))


def growth(before: Watermark | None, now: Counters) -> tuple[Growth, ...]:
    """What each gateway's counters grew by since `before`. Without a `before` nothing is known, and nothing grew."""
    return tuple(_grown(each if before is None else before.beginning(each), each) for each in now.gateways)


def by_version(grown: Iterable[Growth]) -> Mapping[str, RevisionCounters]:
    """All of it added up. A version may have several revisions: one that was rolled out again, while the gateway still shows
    what it counted before."""
    sums: dict[str, RevisionCounters] = {}
    for each in (each for stretch in grown for each in stretch.revisions):
        sums[each.version] = together(sums[each.version], each) if each.version in sums else each
    return sums


def _grown(begin: GatewayCounters, now: GatewayCounters) -> Growth:
    earlier = _by_key(begin)
    revisions = (since(each, found) if (found := earlier.get(_key(each))) else each for each in now.revisions)
    return Growth(now, begin.at, tuple(revisions))


def _read_at_once(now: Counters) -> tuple[GatewayCounters, ...]:
    """By their time they are known as those that were read last."""
    return tuple(each if each.at == now.at else replace(each, at=now.at) for each in now.gateways)


def _key(revision: RevisionCounters) -> tuple[str, str]:
    return revision.revision, revision.stand_in


def _by_key(gateway: GatewayCounters) -> dict[tuple[str, str], RevisionCounters]:
    return {_key(each): each for each in gateway.revisions}


def _began_again(before: GatewayCounters, now: GatewayCounters) -> bool:
    """Whether it seems to have started again under the same name: then nothing that it shows can be told from what was counted.

    Its counters fell, or it says that it began after it was read last; a clock that was set forward looks like that, too.
    """
    had = _by_key(before)
    fell = any(each.requests < had[_key(each)].requests for each in now.revisions if _key(each) in had)
    return fell or (now.started is not None and now.started > before.at)


def _with_former(now: GatewayCounters, before: GatewayCounters | None) -> GatewayCounters:
    """With what it showed of revisions that it does not show any more: they may come back."""
    if before is None or _began_again(before, now):
        return now
    shown = _by_key(now)
    former = tuple(each for key, each in _by_key(before).items() if key not in shown)
    return replace(now, revisions=(*now.revisions, *former)) if former else now


_WATERMARK = TypeAdapter(Watermark)

_REVISIONS = TypeAdapter(tuple[RevisionCounters, ...])


def written(watermark: Watermark) -> str:
    """As the ledger keeps it."""
    return _WATERMARK.dump_json(watermark).decode()


def read_watermark(value: str) -> Watermark | None:
    """What `written` wrote, or an earlier release; None where that one counted other errors.

    The difference to what is counted now would be all the bad requests of a rollout at once.
    """
    found = json.loads(value)
    if "revisions" not in found:
        return _WATERMARK.validate_json(value)
    return None if counted_other_errors(found["revisions"]) else _of_earlier_release(found)


def _of_earlier_release(found: Mapping[str, Any]) -> Watermark:
    """It kept one sum of all gateways. Where there was one gateway that is its reading, and counting goes on from it; several
    count from now on, unless they began later."""
    instance, _, stable = str(found["epoch"]).partition("/")
    revisions = tuple(
        each if each.revision == stable else replace(each, stand_in=stable)
        for each in _REVISIONS.validate_python(found["revisions"])
    )
    at = datetime.fromisoformat(found["at"])
    return Watermark(
        at=at, since=at, gateways=(GatewayCounters(instance=instance, at=at, revisions=revisions),)
    )


# How many distinct units failed, where units are compared. Each gateway knows by itself which units it has answered.


WITHIN = UNIT_WINDOW * 0.8
"""Shorter than the gateway's window, however late an answer is: in this long no unit counts twice at one gateway."""


class FailedUnits(NamedTuple):
    """Units that a version has failed for certain, by what one gateway counted."""

    at: datetime
    metric: str
    units: float
    gateway: str
    """Which start of it; of several together, as the ledger has them, their epoch."""


def failed_units(metric: str, failed: float, stretch: Growth) -> Iterator[FailedUnits]:
    """In a stretch longer than `WITHIN` one unit may count several times."""
    if proven := failed // (1 + stretch.length // WITHIN):
        yield FailedUnits(stretch.gateway.at, metric, proven, stretch.gateway.instance)


def proven_by(
    buckets: Iterable[CounterBucket], metrics: Collection[str], upto: Watermark, *, begin: datetime
) -> list[FailedUnits]:
    """What the ledger's buckets since `begin` prove: as of each one's beginning, where it counts for the shortest."""
    epoch, former = upto.epoch, upto.epoch
    found: list[FailedUnits] = []
    for (at, ended), group in groupby(buckets, key=lambda each: (each.at, each.epoch)):
        for each in group:
            proven = each.canary_events // (1 + (at - begin) // WITHIN)
            # Where another gateway came or went meanwhile, it is part of what the bucket counts.
            if proven and each.metric in metrics and former == ended == epoch:
                found.append(FailedUnits(begin, each.metric, proven / upto.read, epoch))
        begin, former = at, ended
    return still_proven(found, upto.at)


def still_proven(failed: Iterable[FailedUnits], now: datetime) -> list[FailedUnits]:
    """Of a short time: after it a gateway may count the same unit again. By a clock that was set back, nothing is."""
    return [each for each in failed if timedelta(0) <= now - each.at < WITHIN]


def certainly_failed(failed: Iterable[FailedUnits], metric: str) -> int:
    """The fewest units that can have failed: a unit may count at each gateway once, and again at one that has started again."""
    at_each: dict[str, float] = {}
    for each in failed:
        if each.metric == metric:
            at_each[each.gateway] = at_each.get(each.gateway, 0.0) + each.units
    return math.floor(max(at_each.values(), default=0.0))
