"""Small pictures for Dagster metadata: Markdown with an embedded PNG, drawn without a display."""

import base64
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from typing import Any, NamedTuple

from resources.checks.evidently import ColumnDrift, DriftReport

_INK, _GREY, _BLUE, _RED = "#24292f", "#8c959f", "#3b6fb6", "#c0392b"

_MOST = 20

_CLIP = 3.0
"""Bars end at this many thresholds: one column far out must not flatten the rest."""

_STYLE: Any = {
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


class EffectAt(NamedTuple):
    """A difference canary minus stable at one look, with its confidence interval."""

    at: datetime
    effect: float
    low: float
    high: float


class PowerAt(NamedTuple):
    """The chance (0 to 1) to detect an effect with this many units per arm."""

    units: float
    power: float


@dataclass(frozen=True)
class Picture:
    """A PNG and the words for those who cannot see it."""

    png: bytes
    alt: str

    @property
    def markdown(self) -> str:
        """For `MetadataValue.md`."""
        return f"![{self.alt}](data:image/png;base64,{base64.b64encode(self.png).decode()})"


def drift_scores(report: DriftReport) -> Picture:
    """Bars of each column's score over its threshold: one line to cross, whatever the method."""
    scored = sorted((c for c in report.columns if c.score is not None), key=lambda c: c.severity)[-_MOST:]
    title = f"{report.model}: {report.comparison.replace('_', ' ')}, until {_minute(report.window_end)}"
    with _axes(max(1.6, 0.24 * len(scored) + 1.0), title) as (axes, picture):
        names = [f"{c.column} (nulls)" if c.method.endswith("_nulls") else c.column for c in scored]
        colours = [_RED if c.drifted else _BLUE for c in scored]
        bars = axes.barh(names, [min(c.severity, _CLIP) for c in scored], color=colours, height=0.7)
        axes.axvline(1, color=_INK, linewidth=1, linestyle="--")
        notes = axes.bar_label(bars, [_score_label(c) for c in scored], padding=3, fontsize=8)
        for note in notes:
            note.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
        axes.set_xlim(0, max(1.25, *(1.15 * min(c.severity, _CLIP) for c in scored)) if scored else 1.25)
        axes.set_xlabel("score / threshold (dashed: the threshold; number: the score)")
    return Picture(picture.getvalue(), f"Drift scores. {report.reason}")


def effect_over_time(
    looks: Sequence[EffectAt], *, margin: float, metric: str, better: str = "lower"
) -> Picture:
    """The interval of canary minus stable at every look, and the line that harm must not cross.

    `margin` is positive, in the metric's own unit; where higher is better it is drawn below zero.
    """
    if not looks:
        raise ValueError("no looks to draw, at least one is needed")
    line = margin if better == "lower" else -margin
    with _axes(2.8, f"{metric}: canary minus stable") as (axes, picture):
        times = [look.at for look in looks]
        lows, highs = [look.low for look in looks], [look.high for look in looks]
        axes.fill_between(times, lows, highs, color=_BLUE, alpha=0.2, linewidth=0)
        axes.vlines(times, lows, highs, color=_BLUE, alpha=0.35, linewidth=0.8)
        axes.plot(times, [k.effect for k in looks], color=_BLUE, marker="o", markersize=3, label="effect")
        axes.axhline(0, color=_GREY, linewidth=0.8)
        axes.axhline(line, color=_RED, linewidth=1.2, linestyle="--", label=f"margin {line:+.4g}")
        axes.set_ylabel("difference")
        _time_axis(axes, times)
        axes.legend(loc="upper right", ncols=2)
    last = looks[-1]
    return Picture(
        picture.getvalue(),
        f"{metric}: {last.effect:+.4g} [{last.low:+.4g}, {last.high:+.4g}], margin {line:+.4g}",
    )


def power_curve(points: Sequence[PowerAt], *, target: float, planned: float, metric: str) -> Picture:
    """Power against units per arm, with the power asked for and the units planned."""
    if not points:
        raise ValueError("no points to draw, at least one is needed")
    with _axes(2.6, f"{metric}: chance to detect the smallest effect of interest") as (axes, picture):
        axes.plot([p.units for p in points], [100 * p.power for p in points], color=_BLUE)
        axes.axhline(100 * target, color=_GREY, linewidth=1, linestyle="--", label=f"asked for {target:.0%}")
        axes.axvline(planned, color=_RED, linewidth=1, linestyle="--", label=f"planned {planned:,.0f}")
        axes.set_ylim(0, 102)
        axes.set_xlabel("units per arm")
        axes.set_ylabel("power (%)")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.legend(loc="lower right")
    return Picture(picture.getvalue(), f"{metric}: {target:.0%} power at {planned:,.0f} units per arm")


@contextmanager
def _axes(height: float, title: str) -> Generator[tuple[Any, BytesIO]]:
    """One set of axes, 6.4 inches wide; the PNG is in the buffer afterwards. No global state is touched."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=(6.4, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title)
        yield axes, picture
        figure.savefig(picture, format="png", dpi=110)


def _score_label(column: ColumnDrift) -> str:
    return f"{column.score:.3f}{' (bar cut)' if column.severity > _CLIP else ''}"


def _time_axis(axes: Any, times: Sequence[datetime]) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(minticks=3, maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.set_xlabel("time (UTC)")
    around = (times[-1] - times[0]) * 0.03 or timedelta(minutes=5)
    axes.set_xlim(times[0] - around, times[-1] + around)


def _minute(at: datetime) -> str:
    return at.strftime("%Y-%m-%d %H:%M")
