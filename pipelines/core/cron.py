"""Five-field cron expressions, read as wall-clock times of one time zone.

Only what freeze windows need: the last firing at or before a moment. cronsim reads the expression, as crontab(5) says
it: day of month and day of week are alternatives when both are restricted. What daylight saving does is said here, for
a freeze must not end early: a wall-clock time that it skips fires when the skipped hour ends; one that it repeats
fires twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import Field


class _Allowed(NamedTuple):
    name: str
    field: Field
    low: int
    high: int


_FIELDS = (
    _Allowed("minute", Field.MINUTE, 0, 59),
    _Allowed("hour", Field.HOUR, 0, 23),
    _Allowed("day of month", Field.DAY, 1, 31),
    _Allowed("month", Field.MONTH, 1, 12),
    _Allowed("day of week", Field.DOW, 0, 7),
)

_LARGEST_CHANGE = timedelta(hours=4)
"""No clock is put forward or back by more."""


@dataclass(frozen=True)
class Cron:
    """A parsed expression. `Cron.parse` is the way to get one."""

    expression: str

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """Parse `minute hour day month weekday`; a ValueError names the field, the value and the range."""
        parts = expression.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"cron {expression!r} has {len(parts)} fields, expected 5: minute hour day month weekday"
            )
        for allowed, text in zip(_FIELDS, parts, strict=True):
            _require_field(allowed, text, expression)
        return cls(expression)

    @property
    def fires(self) -> bool:
        """Whether it ever does: a day that none of its months has never comes."""
        try:
            CronSim(self.expression, datetime(2000, 1, 1))
        except CronSimError:
            return False
        return True

    def previous(self, now: datetime, *, within: timedelta, zone: ZoneInfo) -> datetime | None:
        """The last firing in (now - within, now], in UTC; None if there is none."""
        earliest = now - within
        found: datetime | None = None
        for wall in self._backwards(now.astimezone(zone), earliest.astimezone(zone)):
            if found is not None and found.astimezone(zone).replace(tzinfo=None) - wall > _LARGEST_CHANGE:
                break
            fired = [moment for moment in _moments(wall, zone) if earliest < moment <= now]
            found = max(fired if found is None else [*fired, found], default=None)
        return found

    def _backwards(self, latest: datetime, earliest: datetime) -> Iterator[datetime]:
        """The wall-clock times that match, the last one first, and as far beyond both ends as a clock change goes."""
        if not self.fires:
            return
        after = latest.replace(tzinfo=None) + _LARGEST_CHANGE
        before = earliest.replace(tzinfo=None) - _LARGEST_CHANGE
        for wall in CronSim(self.expression, after, reverse=True):
            if wall < before:
                return
            yield wall


def _moments(wall: datetime, zone: ZoneInfo) -> Iterator[datetime]:
    """When a clock on the wall shows this time: twice if it is repeated, once if it is skipped."""
    for fold in (0, 1):
        shown = wall.replace(tzinfo=zone, fold=fold)
        moment = shown.astimezone(UTC)
        # The second reading of a skipped time would lie before the change.
        if fold == 0 or moment.astimezone(zone).replace(tzinfo=None) == wall:
            yield moment


def _require_field(allowed: _Allowed, text: str, expression: str) -> None:
    try:
        allowed.field.parse(text.upper())
    except (CronSimError, ValueError) as error:
        raise ValueError(
            f"cron {expression!r}: {allowed.name} is {text!r}, expected {allowed.low} to {allowed.high}, `*`,"
            " ranges a-b, lists a,b and steps */n"
        ) from error
