"""What a rehearsal plays: the champion's last weeks by bins of units, and whether there is enough of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.core.errors import RampgateError
from pipelines.core.manifest.model import Metric, RolloutManifest
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.planning import duration_words
from pipelines.experiments.floors import Expected
from pipelines.experiments.history import (
    LOOKED_BACK,
    horizon,
    is_served,
    metric_query,
    metrics_of,
    outcomes_of,
)
from pipelines.experiments.look_inputs import bucket_width_within
from pipelines.experiments.registering import RegisteredConstants, register, waiting_words
from resources.lake.champion_history import (
    AnsweredSpan,
    AnswerHistory,
    UnitHistory,
    answer_history,
    answered_span,
    kept_sums,
    unit_history,
)
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow
from resources.lake.measuring import COVARIATE_REFERENCE, Known, MeasuredMetric, outcomes_seen

BINS, MORE_BINS = 1000, 4000
"""Of units; more for steps below 1 %."""

_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)

STARTS, _READ_AGAIN, _MOST_READ_AGAIN = 4, 12_000_000, 4
"""Times from which rollouts are played. Where units return, each start is another reading of the lake: so many rows, and so
many times, at most."""

_FINER = 0.03
"""Seconds at first, later so much of the time since the start: as exactly is it known when harm is found."""

_MOST_NUMBERS = 25_000_000
"""Bins times buckets times sums that are kept in memory: 200 MB."""


class CannotRehearse(RampgateError):
    """There is too little to play, in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Everything from one start on, for as long as a rollout may take; what lies beyond the history begins it anew."""

    begins: datetime
    constants: tuple[RegisteredConstants, ...]
    """Of each metric."""
    edges: Array
    """Seconds since the start between which answers are counted; shape (ticks + 1,)."""
    answers: Array
    """Shape (bins, ticks, 2, 1 + served metrics): of all answers and of units' first ones since the start, trials and events."""
    units: Array
    """Shape (bins, buckets, 2): units first exposed, and those for which a version is drawn."""
    sums: tuple[Array, ...]
    """Of each metric, shape (bins, buckets, its `kept_sums`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RehearsalStage:
    """What all rehearsed rollouts share."""

    manifest: RolloutManifest
    champion: str
    metrics: tuple[Metric, ...]
    expected: Expected
    width: timedelta
    """Of a bucket of units."""
    bins: int
    queries: tuple[MetricQuery, ...]
    """Of each metric."""
    starts: int
    scene: Callable[[int], Scene]
    """What is played from each start: made when it is asked for, as it is large."""
    notes: tuple[str, ...]
    """What the history is, and what of it cannot be played, in words."""


class _Read(NamedTuple):
    """How the history is cut."""

    manifest: RolloutManifest
    champion: str
    begin: datetime
    buckets: int
    """Whole ones, whose units have all their outcomes."""
    width: timedelta
    course: int
    """Buckets that a rollout may take, its bake included."""
    until: datetime
    bins: int

    @property
    def by_request(self) -> bool:
        return self.manifest.experiment.unit == "request"

    @property
    def repeats(self) -> bool:
        """Whether a rollout may take longer than the history."""
        return self.course > self.buckets

    @property
    def usable_end(self) -> datetime:
        return self.begin + self.buckets * self.width

    def query(self, metrics: Sequence[Metric], begin: datetime) -> ExperimentQuery:
        return ExperimentQuery(
            champion=self.champion,
            challenger=f"not {self.champion}",
            steps=(StepWindow(begin, self.usable_end, 0),),
            metrics=tuple(_metric_query(self.manifest, metric) for metric in metrics),
            outcome_window=self.manifest.experiment.outcome_window,
            watermark=self.until,
            by_request=self.by_request,
            bucket=self.width,
        )


def _metric_query(manifest: RolloutManifest, metric: Metric) -> MetricQuery:
    reference = COVARIATE_REFERENCE if metric.covariate else 0.0
    by_request = manifest.experiment.unit == "request"
    return metric_query(metric, by_request=by_request, covariate_reference=reference)


def set_stage(
    lake: Lake, manifest: RolloutManifest, champion: str, *, now: datetime, most_starts: int = STARTS
) -> RehearsalStage:
    """Read what is to be played, from so many starts at most.

    Raises:
        LakeError: a source that is not there, or a lake that cannot be read.
        CannotRehearse: too little history, a metric without outcomes, a manifest that compares nothing.
    """
    metrics = metrics_of(manifest)
    if not any(step != "shadow" and step < 100 for step in manifest.steps):
        raise CannotRehearse(
            "steps: none between 0 and 100 %, so that nothing is compared and nothing can be rehearsed"
        )
    longest = max(horizon(manifest, metric) for metric in metrics)
    back = max(LOOKED_BACK, manifest.experiment.max_duration, 2 * longest)
    span = answered_span(lake, manifest.model, champion, start=now - back, until=now)
    cut = _cut(manifest, champion, span, longest, now)
    _require_outcomes(lake, manifest, metrics)
    starts = _starts(cut, span.answers, most_starts)
    units = [
        _units_from(lake, cut, metrics, start) for start in (starts if not cut.by_request else starts[:1])
    ]
    constants = [_constants(manifest, metrics, each) for each in units]
    days = (cut.usable_end - cut.begin) / _DAY
    known, daily = _known(metrics, units[0]), span.answers / ((now - cut.begin) / _DAY)
    expected = Expected(units[0].units / days, daily, known)
    answers, closely = _answers(lake, cut, metrics, starts)

    def scene(number: int) -> Scene:
        reading = 0 if cut.by_request else number
        made = _scene(cut, units[reading], answers, closely, starts[number], number)
        return replace(made, constants=constants[reading])

    return RehearsalStage(
        manifest=manifest,
        champion=champion,
        metrics=metrics,
        expected=expected,
        width=cut.width,
        bins=cut.bins,
        queries=cut.query(metrics, cut.begin).metrics,
        starts=len(starts),
        scene=scene,
        notes=tuple(_notes(cut, span, units[0], len(starts))),
    )


def _cut(
    manifest: RolloutManifest, champion: str, span: AnsweredSpan, longest: timedelta, now: datetime
) -> _Read:
    if span.first is None:
        raise CannotRehearse(
            f"version {champion}, which is served, has answered nothing that is in the lake: there is no history to play"
        )
    unit = manifest.experiment.unit
    if unit != "request" and span.without_unit == span.answers:
        raise CannotRehearse(
            f"none of {span.answers:,} answers of version {champion} carries the unit id (x-unit-id) that `unit: {unit}` compares:"
            " a rollout would count nothing"
        )
    usable = now - longest - 5 * _SECOND - span.first
    needed = _needed(manifest, longest)
    if usable < needed:
        waits = f", and outcomes are waited for during the last {_words(longest)} of it" if longest else ""
        raise CannotRehearse(
            f"too little history: a rollout takes {_words(needed)} at least, by the floors of its steps, and version {champion} has"
            f" answered for {_words(now - span.first)}{waits}. Rehearse in {_words(needed - usable)}."
        )
    small = min(step for step in manifest.steps if step != "shadow")
    bins = BINS if small >= 1 else MORE_BINS
    width = bucket_width_within(manifest.experiment.max_duration)
    course = manifest.experiment.max_duration + manifest.bakes_for
    columns = sum(len(kept_sums(_metric_query(manifest, metric))) for metric in metrics_of(manifest))
    coarser = math.ceil(bins * columns * (max(course, usable) / width) / _MOST_NUMBERS)
    width *= coarser
    return _Read(
        manifest=manifest,
        champion=champion,
        begin=span.first,
        buckets=usable // width,
        width=width,
        course=math.ceil(course / width) + 2,
        until=now,
        bins=bins,
    )


def _needed(manifest: RolloutManifest, longest: timedelta) -> timedelta:
    """The least that a rollout takes, by its floors alone."""
    steps = [step for step in manifest.steps if step != "shadow" and step < 100]
    floors = len(steps) * manifest.step.min_duration
    return max(floors, longest, 20 * bucket_width_within(manifest.experiment.max_duration))


def _words(duration: timedelta) -> str:
    return duration_words(duration / _DAY)


def _require_outcomes(lake: Lake, manifest: RolloutManifest, metrics: Sequence[Metric]) -> None:
    if not any(outcomes_of(metric) for metric in metrics):
        return
    seen = outcomes_seen(lake, manifest.model)
    missing = [metric for metric in metrics if not seen.issuperset(outcomes_of(metric))]
    if missing:
        raise CannotRehearse(_waits(missing, seen))


def _waits(metrics: Sequence[Metric], seen: frozenset[str]) -> str:
    told = " ".join(f"{metric.name}: {waiting_words(metric, seen)}" for metric in metrics)
    return f"{told} A rollout would wait for that until `max_duration` and end as inconclusive."


def _known(metrics: Sequence[Metric], units: UnitHistory) -> dict[str, Known]:
    return {m.name: each for m, each in zip(metrics, units.known, strict=True) if each is not None}


def _constants(
    manifest: RolloutManifest, metrics: Sequence[Metric], units: UnitHistory
) -> tuple[RegisteredConstants, ...]:
    known = _known(metrics, units)
    found = [
        register(m, manifest.experiment, known, origin="rehearsal", metrics=len(metrics)) for m in metrics
    ]
    if missing := [m for m, each in zip(metrics, found, strict=True) if each is None]:
        seen = frozenset(name for metric in metrics for name in outcomes_of(metric))
        raise CannotRehearse(_waits(missing, seen))
    return tuple(each for each in found if each is not None)


def _starts(cut: _Read, answers: int, most: int) -> list[int]:
    """Buckets of the history at which rollouts begin, spread over it."""
    if cut.by_request:
        return sorted({i * cut.buckets // most for i in range(most)})
    # A unit that returns is exposed when it is first seen after the start.
    room, readings = (
        cut.buckets - cut.course,
        min(max(_READ_AGAIN // max(answers, 1), 1), _MOST_READ_AGAIN, most),
    )
    if room <= 0 or readings == 1:
        return [0]
    return sorted({i * room // (readings - 1) for i in range(readings)})


def _units_from(lake: Lake, cut: _Read, metrics: Sequence[Metric], start: int) -> UnitHistory:
    query = cut.query(metrics, cut.begin + start * cut.width)
    capped = [MeasuredMetric(metric.cap, metric.winsorise) for metric in metrics]
    return unit_history(lake, cut.manifest.model, query, capped, bins=cut.bins)


def _answers(
    lake: Lake, cut: _Read, metrics: Sequence[Metric], starts: Sequence[int]
) -> tuple[AnswerHistory | None, float]:
    served = [metric for metric in metrics if is_served(metric)]
    seconds = cut.width / _SECOND
    closely = min(seconds * math.ceil(1 / _FINER), cut.buckets * seconds)
    if not served:
        return None, 0.0
    found = answer_history(
        lake,
        cut.manifest.model,
        cut.query(served, cut.begin),
        bins=cut.bins,
        starts=[start * seconds for start in starts],
        closely=closely,
    )
    return found, closely


# Dense tables from one start on.


def _scene(
    cut: _Read, units: UnitHistory, answers: AnswerHistory | None, closely: float, start: int, number: int
) -> Scene:
    """Where the unit is the request any stretch of the one reading will do, round and round; else the reading began here."""
    offset = start if cut.by_request else 0
    length = cut.buckets if cut.by_request else cut.buckets - start
    order = (offset + np.arange(cut.course, dtype=np.int64)) % length
    seconds = cut.width / _SECOND
    closely = min(closely, (cut.buckets - start) * seconds)
    edges = _edges(cut, closely)
    whole = (start + np.arange(cut.course, dtype=np.int64)) % cut.buckets if cut.by_request else start + order
    counted = (
        np.zeros((cut.bins, len(edges) - 1, 2, 1))
        if answers is None
        else _ticks(cut, answers, number, edges, whole, closely)
    )
    at = np.stack([units.bins, units.buckets], axis=1)
    return Scene(
        begins=cut.begin + start * cut.width,
        constants=(),
        edges=edges,
        answers=counted,
        units=np.take(_dense(cut.bins, units.counted, units.counted[:, 2:], length), order, axis=1),
        sums=tuple(np.take(_dense(cut.bins, at, each, length), order, axis=1) for each in units.sums),
    )


def _dense(bins: int, at: Array, values: Array, length: int) -> Array:
    """Shape (bins, buckets, columns), from rows whose first two columns of `at` are bin and bucket."""
    table = np.zeros((bins, length, values.shape[1]))
    places = at.astype(np.int64)
    table[places[:, 0], np.minimum(places[:, 1], length - 1)] = values
    return table


def _edges(cut: _Read, closely: float) -> Array:
    """Seconds at first, then `_FINER` of the age. As long as single answers are known, every multiple of the width is one of them;
    afterwards there are no others."""
    width = cut.width / _SECOND
    end, found = cut.course * width, [0.0]
    while found[-1] < end - 1e-9:
        last = found[-1]
        step, passed = max(1.0, _FINER * last), math.floor(last / width + 1e-9)
        following = width * (passed + 1)
        if step >= width or last >= closely - 1e-9:
            found.append(width * max(passed + 1, round((last + step) / width)))
        else:
            found.append(following if last + 1.5 * step >= following else last + step)
    return np.minimum(found, end)


def _ticks(
    cut: _Read,
    answers: AnswerHistory,
    number: int,
    edges: Array,
    whole: npt.NDArray[np.int64],
    closely: float,
) -> Array:
    """Of the start of this number."""
    close, counts = answers.close[number], answers.counts[:, [0, 1 if cut.by_request else 1 + number]]
    bins, ticks, columns = cut.bins, len(edges) - 1, counts.shape[2]
    width = cut.width / _SECOND
    placed = np.stack([answers.bins, answers.buckets], axis=1)
    coarse = _dense(bins, placed, counts.reshape(len(placed), -1), cut.buckets)
    begins = edges[:-1] / width
    fine = int(np.searchsorted(edges[1:], closely + 1e-9, side="right"))
    first = np.round(begins[fine:]).astype(np.int64)
    later = (
        np.add.reduceat(np.take(coarse, whole, axis=1), first, axis=1)
        if fine < ticks
        else np.zeros((bins, 0, 2 * columns))
    )
    at = np.searchsorted(edges[: fine + 1], close.seconds, side="right") - 1
    kept = (at >= 0) & (at < fine)
    place = close.bins[kept].astype(np.int64) * fine + at[kept]
    values = close.counts[kept].reshape(-1, 2 * columns)
    soon = np.stack([_summed(place, column, bins * fine) for column in values.T], axis=1)
    table = np.concatenate([soon.reshape(bins, fine, 2 * columns), later], axis=1)
    return np.ascontiguousarray(table).reshape(bins, ticks, 2, columns)


def _summed(places: npt.NDArray[np.int64], values: Array, length: int) -> Array:
    return np.bincount(places, values, minlength=length).astype(np.float64)


def _notes(cut: _Read, span: AnsweredSpan, units: UnitHistory, starts: int) -> list[str]:
    long, most = cut.usable_end - cut.begin, cut.manifest.experiment.max_duration
    found = [
        f"Played on version {cut.champion}'s own {_words(long)} from {cut.begin:%Y-%m-%d %H:%M} UTC: {span.answers:,} answers,"
        f" {units.units:,} units; rollouts begin at {starts} {'time' if starts == 1 else 'times'} of it."
    ]
    if cut.repeats:
        again = "" if cut.by_request else ", where units that come back count as new ones"
        found.append(
            f"A rollout may last {_words(most)}{' and its bake' if cut.manifest.bakes_for else ''}, which is more than there is: beyond"
            f" its end the history begins again{again}."
        )
    if span.by_others:
        share = span.by_others / (span.by_others + span.answers)
        found.append(f"{share:.0%} of the answers in this time were other versions' and are left out.")
    if not cut.by_request and span.without_unit:
        found.append(
            f"{span.without_unit / span.answers:.0%} of the answers carry no unit id and count for errors and latency alone."
        )
    return found
