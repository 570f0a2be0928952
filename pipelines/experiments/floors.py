"""What every step of a rollout waits for, whatever the metrics say: the floors of its plan."""

import math
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import NamedTuple

from pipelines.core.manifest.model import DataChecks, Drift, RolloutManifest, format_duration
from pipelines.core.statistics.planning import duration_words
from pipelines.monitoring.windows import SETTLES, has_partitions, rhythm
from resources.lake.measuring import Known

_DAY = timedelta(days=1)

_SURE = 2.0
"""Standard deviations of a window's rows that its length is planned for."""

_HOURS = (1, 2, 3, 4, 6, 8, 12, 24)
"""Windows of a whole number of hours that divide a day have partitions."""


class Expected(NamedTuple):
    """What is known of the traffic, and of the metrics under the champion."""

    units_per_day: float
    """Of both versions together; new ones, each counted once in a rollout."""
    requests_per_day: float
    metrics: Mapping[str, Known]


class Floor(NamedTuple):
    """What a step waits for, whatever the metrics say."""

    days: float
    """Infinite: it does not end in time."""
    because: str
    change: str
    """What would shorten it."""


class PlannedStep(NamedTuple):
    """One step of the ramp before the promotion."""

    percent: float | None
    """None for a shadow step."""
    floor: Floor
    """The longest one."""

    @property
    def name(self) -> str:
        return "shadow" if self.percent is None else f"{self.percent:g} %"

    @property
    def words(self) -> str:
        """How long it lasts at least, and why."""
        least = self.floor.days
        lasts = f"lasts {duration_words(least)} at least" if math.isfinite(least) else "does not end in time"
        return f"The step at {self.name} {lasts}: {self.floor.because}."


def planned_steps(manifest: RolloutManifest, expected: Expected, longest: float) -> tuple[PlannedStep, ...]:
    """The ramp; at the first step that compares, outcomes are waited for, `longest` days."""
    found = list[PlannedStep]()
    for step in manifest.steps:
        if step == "shadow":
            found.append(PlannedStep(None, _longest(_shadow_floors(manifest, expected))))
        elif step < 100:
            first = all(each.percent is None for each in found)
            floors = _floors(manifest, expected, step / 100, longest if first else 0.0)
            found.append(PlannedStep(step, _longest(floors)))
    return tuple(found)


def _longest(floors: Iterator[Floor]) -> Floor:
    return max(floors, key=lambda floor: floor.days)


def _shadow_floors(manifest: RolloutManifest, expected: Expected) -> Iterator[Floor]:
    rows = manifest.validation.agreement_rows
    yield _duration_floor(manifest)
    yield Floor(
        rows / expected.requests_per_day,
        f"{rows:,} answers are compared with the champion's",
        "fewer validation.agreement_rows",
    )
    yield _window_floor(
        manifest, manifest.data_checks, "data_checks", "of both versions", expected.requests_per_day
    )


def _floors(
    manifest: RolloutManifest, expected: Expected, share: float, outcomes_after: float
) -> Iterator[Floor]:
    smaller = min(share, 1 - share)
    look = manifest.experiment.look_every / _DAY
    yield _duration_floor(manifest)
    yield Floor(
        manifest.step.min_units / (expected.units_per_day * smaller) + look,
        f"{manifest.step.min_units:,} units are needed of the smaller version",
        "fewer step.min_units, or a larger step",
    )
    if outcomes_after:
        yield Floor(
            outcomes_after + look,
            f"outcomes are waited for, {duration_words(outcomes_after)} with the bucket they are counted in",
            "a shorter outcome_window or retention",
        )
    yield from window_floors(manifest, expected, share)


def window_floors(manifest: RolloutManifest, expected: Expected, share: float) -> Iterator[Floor]:
    """What a step with this share waits for of data checks and drift: one whole window with enough rows."""
    rows = expected.requests_per_day
    yield _window_floor(manifest, manifest.data_checks, "data_checks", "of both versions", rows)
    smaller = rows * min(share, 1 - share)
    yield _window_floor(manifest, manifest.drift, "drift", "of the smaller version", smaller)


def _duration_floor(manifest: RolloutManifest) -> Floor:
    least = manifest.step.min_duration
    return Floor(
        least / _DAY, f"step.min_duration is {format_duration(least)}", "a shorter step.min_duration"
    )


def _window_floor(
    manifest: RolloutManifest, window: DataChecks | Drift, key: str, whose: str, rows_per_day: float
) -> Floor:
    """A whole window with enough rows; where too few windows have them, the step waits for one that does."""
    from scipy.special import ndtr

    length, wanted = window.window / _DAY, window.min_rows
    rows = rows_per_day * length
    enough = float(ndtr((rows + 0.5 - wanted) / math.sqrt(rows))) if rows > 0 else 0.0
    partitioned = has_partitions(manifest)
    every = rhythm(manifest) / _DAY if partitioned else length
    first = length + (every / 2 + SETTLES / _DAY if partitioned else 0.0)
    days = first + every * (1 / enough - 1) if enough > 0 else math.inf
    if days > manifest.experiment.max_duration / _DAY:
        days = math.inf
    return Floor(
        days,
        f"{key} needs {wanted:,} rows {whose} in a window of {format_duration(window.window)}, where {rows:,.0f} are"
        " expected",
        f"{key}.window: {format_duration(_window_for(wanted, rows_per_day))} or longer,"
        f" or {key}.min_rows: {_rows_for(rows):,} or fewer",
    )


def _window_for(rows: int, rows_per_day: float) -> timedelta:
    """A window that nearly always has so many rows."""
    hours = 24 * (rows + _SURE * math.sqrt(rows)) / max(rows_per_day, 1e-9)
    whole = next((each for each in _HOURS if each >= hours), None)
    return timedelta(hours=whole) if whole is not None else timedelta(days=min(math.ceil(hours / 24), 3650))


def _rows_for(rows: float) -> int:
    return max(1, math.floor(rows - _SURE * math.sqrt(rows)))
