"""HTML from values: text is escaped unless it is `Markup`, so that nothing a caller sent becomes a tag."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import NamedTuple


class Markup(str):
    """HTML that was made here, and is put in as it is."""

    __slots__ = ()


def text(value: object) -> Markup:
    """The value as text, escaped; Markup as it is."""
    return value if isinstance(value, Markup) else Markup(escape(str(value), quote=True))


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """`<name a="b">children</name>`; an attribute `class_` is `class`, `_` is `-`, None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """The parts after one another, each escaped."""
    return Markup(between.join(text(part) for part in parts))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> Markup:
    """A table that scrolls sideways on its own; `empty` in words where there is no row."""
    lines = [tag("tr", *(tag("td", cell) for cell in row)) for row in rows]
    if not lines:
        return tag("p", empty, class_="quiet")
    header = tag("thead", tag("tr", *(tag("th", title, scope="col") for title in head)))
    return tag("div", tag("table", header, tag("tbody", *lines)), class_="scroll")


def link(label: object, url: str) -> Markup:
    """A link, if the URL is one of ours to follow: http or https, else the label alone."""
    return tag("a", label, href=url) if url.startswith(("http://", "https://")) else text(label)


def badge(words: object, kind: str) -> Markup:
    """A small coloured label; `kind` is good, bad, wait or plain."""
    return tag("span", words, class_=f"badge {kind}")


# Charts over time as inline SVG: pure functions from points to markup, coloured by the page's style.


WIDTH, HEIGHT = 720, 190

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 24

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


def chart(what: Chart) -> Markup:
    """The SVG, about 720 by 190 units, as wide as the page lets it be."""
    scale = _Scale.of(what)
    parts: list[Markup] = [tag("title", what.title), *_value_axis(what, scale), *_time_axis(what, scale)]
    parts += [_mark(mark, scale) for mark in what.marks]
    if what.zero and scale.low < 0 < scale.high:
        parts.append(_level(0.0, scale, "zero"))
    points = thinned(what.points)
    if any(point.low is not None for point in points):
        parts.append(_band(points, scale))
    parts.append(_path(points, scale, what.steps))
    if points and not what.steps:
        last = points[-1]
        parts.append(tag("circle", cx=_n(scale.x(last.at)), cy=_n(scale.y(last.value)), r=3, class_="dot"))
    if what.limit is not None:
        parts += _limit(what.limit, scale)
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=what.title)


class _Scale(NamedTuple):
    begun: datetime
    span: timedelta
    low: float
    high: float

    @classmethod
    def of(cls, what: Chart) -> "_Scale":
        span = max(what.ended - what.begun, timedelta(seconds=1))
        if what.fixed is not None:
            return cls(what.begun, span, *what.fixed)
        values = [
            v for p in what.points for v in (p.value, p.low, p.high) if v is not None and math.isfinite(v)
        ]
        values += [] if what.limit is None else [what.limit.value]
        values += [0.0] if what.zero or not values else []
        low, high = min(values), max(values)
        room = (high - low) * 0.08 or 1.0
        return cls(what.begun, span, low - room, high + room)

    def x(self, at: datetime) -> float:
        share = min(max((at - self.begun) / self.span, 0.0), 1.0)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (
            min(max((value - self.low) / (self.high - self.low), 0.0), 1.0) if math.isfinite(value) else 1.0
        )
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from `low` to `high`, about `wanted` of them."""
    raw = (high - low) / wanted
    magnitude = 10.0 ** math.floor(math.log10(raw))
    size = next(step * magnitude for step in (1, 2, 2.5, 5, 10) if step * magnitude >= raw * 0.999)
    first = math.ceil(low / size - 1e-9)
    return [k * size for k in range(first, math.floor(high / size + 1e-9) + 1)]


def _value_axis(what: Chart, scale: _Scale) -> Iterable[Markup]:
    for value in ticks(scale.low, scale.high):
        yield _level(value, scale, "axis")
        label = f"{value:.6g}{what.unit}"
        yield tag("text", label, x=_LEFT - 6, y=_n(scale.y(value) + 4), text_anchor="end")


def _time_axis(what: Chart, scale: _Scale) -> Iterable[Markup]:
    long = scale.span > timedelta(days=2)
    form = "%d %b" if long else "%H:%M" if scale.span > timedelta(minutes=10) else "%H:%M:%S"
    for k in range(5):
        at = what.begun + scale.span * k / 4
        anchor = "start" if k == 0 else "end" if k == 4 else "middle"
        yield tag("text", f"{at:{form}}", x=_n(scale.x(at)), y=HEIGHT - 6, text_anchor=anchor)


def _level(value: float, scale: _Scale, kind: str) -> Markup:
    y = _n(scale.y(value))
    return tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, class_=kind)


def _limit(limit: Limit, scale: _Scale) -> tuple[Markup, Markup]:
    words = tag(
        "text",
        limit.label,
        x=_LEFT + 6,
        y=_n(scale.y(limit.value) - 5),
        class_="limit-text",
    )
    return _level(limit.value, scale, "limit"), words


def _mark(mark: Mark, scale: _Scale) -> Markup:
    x = _n(scale.x(mark.at))
    return tag("line", tag("title", mark.label), x1=x, x2=x, y1=_TOP, y2=HEIGHT - _BOTTOM, class_="mark")


def _path(points: Sequence[Point], scale: _Scale, steps: bool) -> Markup:
    pieces: list[str] = []
    for k, point in enumerate(points):
        x, y = _n(scale.x(point.at)), _n(scale.y(point.value))
        pieces += [f"M{x} {y}"] if k == 0 else [f"H{x}V{y}" if steps else f"L{x} {y}"]
    return tag("path", d="".join(pieces), class_="line")


def _band(points: Sequence[Point], scale: _Scale) -> Markup:
    bounded = [(p.at, p.low, p.high) for p in points if p.low is not None and p.high is not None]
    upper = [f"{_n(scale.x(at))} {_n(scale.y(high))}" for at, _, high in bounded]
    lower = [f"{_n(scale.x(at))} {_n(scale.y(low))}" for at, low, _ in reversed(bounded)]
    return tag("path", d=f"M{'L'.join(upper + lower)}Z", class_="area")


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _value(point: Point) -> float:
    return point.value


def figure(what: Chart, caption: str, heading: str = "") -> Markup:
    """The chart with its caption below, and a heading above where several stand together."""
    return tag("figure", tag("h3", heading) if heading else "", chart(what), tag("figcaption", caption))
