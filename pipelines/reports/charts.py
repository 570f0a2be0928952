"""Charts over time: where on the page's SVG each thing lies. `templates/chart.html` draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import ClassVar, NamedTuple

MOST_POINTS = 400


class Point(NamedTuple):
    """A value at a time, with the ends of its interval where it has one."""

    at: datetime
    value: float
    low: float | None = None
    high: float | None = None


class Limit(NamedTuple):
    """A horizontal line that must not be crossed."""

    value: float
    label: str


class Mark(NamedTuple):
    """A moment worth a vertical line."""

    at: datetime
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart. All times lie in [begun, ended]; values outside the scale are cut off at its ends."""

    width: ClassVar = 720
    height: ClassVar = 190
    left: ClassVar = 52
    right: ClassVar = 708
    top: ClassVar = 12
    bottom: ClassVar = 166

    title: str
    """What is to be seen, for those who cannot see it."""
    begun: datetime
    ended: datetime
    points: Sequence[Point]
    limit: Limit | None = None
    marks: Sequence[Mark] = ()
    steps: bool = False
    """The value holds until the next point, instead of a line from point to point."""
    zero: bool = False
    unit: str = ""
    fixed: tuple[float, float] | None = None
    """The scale's ends; by default those of the values."""

    def x(self, at: datetime) -> str:
        """Where the time is."""
        share = min(max((at - self.begun) / self._span, 0.0), 1.0)
        return _n(self.left + share * (self.right - self.left))

    def y(self, value: float) -> str:
        """Where the value is; what is not finite is at the top."""
        low, high = self._scale
        share = min(max((value - low) / (high - low), 0.0), 1.0) if math.isfinite(value) else 1.0
        return _n(self.bottom - share * (self.bottom - self.top))

    @property
    def levels(self) -> list[tuple[float, str]]:
        """The value axis: round values, and how they are written."""
        return [(value, f"{value:.6g}{self.unit}") for value in ticks(*self._scale)]

    @property
    def times(self) -> list[tuple[str, str, str]]:
        """The time axis: where, in words, and which end of the words is there."""
        long = self._span > timedelta(days=2)
        form = "%d %b" if long else "%H:%M" if self._span > timedelta(minutes=10) else "%H:%M:%S"
        found = [self.begun + self._span * k / 4 for k in range(5)]
        anchors = ("start", "middle", "middle", "middle", "end")
        return [(self.x(at), f"{at:{form}}", anchor) for at, anchor in zip(found, anchors, strict=True)]

    @property
    def shows_zero(self) -> bool:
        low, high = self._scale
        return self.zero and low < 0 < high

    @cached_property
    def shown(self) -> list[Point]:
        """The points that are drawn."""
        return thinned(self.points)

    @property
    def path(self) -> str:
        """The line through the values, in SVG's language."""
        places = [(self.x(point.at), self.y(point.value)) for point in self.shown]
        drawn = [f"H{x}V{y}" if self.steps else f"L{x} {y}" for x, y in places[1:]]
        return "".join([f"M{x} {y}" for x, y in places[:1]] + drawn)

    @property
    def band(self) -> str:
        """The area between the ends of the intervals, in the same language; empty without any."""
        bounded = [
            (self.x(p.at), p.low, p.high) for p in self.shown if p.low is not None and p.high is not None
        ]
        upper = [f"{x} {self.y(high)}" for x, _, high in bounded]
        lower = [f"{x} {self.y(low)}" for x, low, _ in reversed(bounded)]
        return f"M{'L'.join(upper + lower)}Z" if bounded else ""

    @property
    def _span(self) -> timedelta:
        return max(self.ended - self.begun, timedelta(seconds=1))

    @cached_property
    def _scale(self) -> tuple[float, float]:
        if self.fixed is not None:
            return self.fixed
        found = [
            v for p in self.points for v in (p.value, p.low, p.high) if v is not None and math.isfinite(v)
        ]
        found += [] if self.limit is None else [self.limit.value]
        found += [0.0] if self.zero or not found else []
        room = (max(found) - min(found)) * 0.08 or 1.0
        return min(found) - room, max(found) + room


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most about `most` points; of each stretch the lowest and the highest stay, and always the last."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept: list[Point] = []
    for start in range(0, len(points), size):
        stretch = points[start : start + size]
        extremes = {min(stretch, key=_value), max(stretch, key=_value)}
        kept += sorted(extremes, key=lambda point: point.at)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them."""
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    size = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= raw * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [k * size for k in range(first, math.floor(high / size + 1e-9) + 1)]


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _value(point: Point) -> float:
    return point.value
