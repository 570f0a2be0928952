"""Five-field cron expressions, read as wall-clock times of one time zone.

Only what freeze windows need: the last firing at or before a moment. Day of month and day of week are
alternatives when both are restricted, as in crontab(5). A wall-clock time that daylight saving skips fires
when the skipped hour ends; one that it repeats fires twice.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)
_ITEM = re.compile(r"^(?:(\*)|(\w+)(?:-(\w+))?)(?:/(\d+))?$")


@dataclass(frozen=True)
class Cron:
    """A parsed expression. `Cron.parse` is the way to get one."""

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    either_day: bool
    """Both day fields are restricted: one of them matching is enough."""

    @classmethod
    def parse(cls, expression: str) -> "Cron":
        """Parse `minute hour day month weekday`; a ValueError names the field, the value and the range."""
        parts = expression.split()
        if len(parts) != len(_FIELDS):
            raise ValueError(
                f"cron {expression!r} has {len(parts)} fields, expected 5: minute hour day month weekday"
            )
        sets = [_parse_field(field, text, expression) for field, text in zip(_FIELDS, parts, strict=True)]
        minutes, hours, days, months, weekdays = sets
        either = not parts[2].startswith("*") and not parts[4].startswith("*")
        return cls(minutes, hours, days, months, frozenset(day % 7 for day in weekdays), either)

    def previous(self, now: datetime, *, within: timedelta, zone: ZoneInfo) -> datetime | None:
        """The last firing in (now - within, now], in UTC; None if there is none."""
        earliest = now - within
        fired = (moment for moment in self._firings(earliest, now, zone) if earliest < moment <= now)
        return max(fired, default=None)

    def _firings(self, earliest: datetime, now: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Candidates on the last matching days; one day more than asked, as a clock change can shift one."""
        day = now.astimezone(zone).date()
        first = earliest.astimezone(zone).date() - timedelta(days=1)
        found = 0
        while day >= first and found < 2:
            if self._matches(day):
                moments = tuple(self._on(day, zone))
                found += any(moment <= now for moment in moments)
                yield from moments
            day -= timedelta(days=1)

    def _matches(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_days = day.day in self.days
        in_weekdays = day.isoweekday() % 7 in self.weekdays
        return (in_days or in_weekdays) if self.either_day else (in_days and in_weekdays)

    def _on(self, day: date, zone: ZoneInfo) -> Iterator[datetime]:
        for hour in self.hours:
            for minute in self.minutes:
                for fold in (0, 1):
                    wall = datetime.combine(day, time(hour, minute, fold=fold), zone)
                    if _exists_or_first(wall):
                        yield wall.astimezone(UTC)


def _exists_or_first(wall: datetime) -> bool:
    """Drop the second reading of a skipped wall-clock time, which would lie before the change."""
    back = wall.astimezone(UTC).astimezone(wall.tzinfo)
    return back.replace(tzinfo=None) == wall.replace(tzinfo=None) or wall.fold == 0


def _parse_field(field: _Field, text: str, expression: str) -> frozenset[int]:
    values: set[int] = set()
    for item in text.split(","):
        values |= _parse_item(field, item, expression)
    return frozenset(values)


def _parse_item(field: _Field, item: str, expression: str) -> set[int]:
    match = _ITEM.match(item)
    if match is None:
        raise _wrong(field, item, expression)
    star, first, last, step = match.groups()
    if star:
        low, high = field.low, field.high
    else:
        low = _number(field, first, expression)
        high = _number(field, last, expression) if last else (field.high if step else low)
    if low > high or step == "0":
        raise _wrong(field, item, expression)
    return set(range(low, high + 1, int(step or 1)))


def _number(field: _Field, text: str, expression: str) -> int:
    name = text.lower()
    if name in field.names:
        return field.names.index(name) + field.low
    if not text.isdecimal() or not field.low <= int(text) <= field.high:
        raise _wrong(field, text, expression)
    return int(text)


def _wrong(field: _Field, item: str, expression: str) -> ValueError:
    return ValueError(
        f"cron {expression!r}: {field.name} is {item!r}, expected {field.low} to {field.high}, `*`,"
        " ranges a-b, lists a,b and steps */n"
    )
