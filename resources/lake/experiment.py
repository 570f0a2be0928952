"""What to read from the lake for one experiment."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.core.errors import LakeError
from pipelines.core.metric_types import Missing, UnitValue
from pipelines.core.statistics.slices import SliceColumn
from resources.lake.connection import identifier
from resources.lake.schema import ANSWERED, ATTEMPT, Fields, earlier_attempts
from resources.registry.signature import SQL_COUNTS


class StepWindow(NamedTuple):
    """A time in which the shares of traffic did not change."""

    start: datetime
    end: datetime
    step: int
    """Index of the rollout step, growing with time. One step may have several windows."""


class Span(NamedTuple):
    """What became final between two looks."""

    after: datetime | None
    """The watermark of the previous look; None: everything that is final is new."""
    watermark: datetime


@dataclass(frozen=True, kw_only=True)
class MetricQuery:
    """One metric, and where its values come from."""

    name: str
    kind: UnitValue
    source: str
    """`outcomes.<metric>`, `predictions.features.<name>`, `predictions.outputs.<name>`, `predictions.<name>` (a
    feature or an output of that name, latency_ms or status), `serving.errors` or `serving.over_slo`."""
    denominator: str | None = None
    """For a ratio: its source."""
    covariate: str | None = None
    """A source of `predictions`, taken at exposure; a missing one is `covariate_reference`."""
    covariate_reference: float = 0.0
    """Subtracted from the covariate: the pre-period mean."""
    cap: float | None = None
    """Greater values count as this one."""
    reference: float = 0.0
    """Subtracted from each unit's value (against cancellation); not for ratios."""
    slo_ms: float | None = None
    """For `serving.over_slo`."""
    retention: timedelta | None = None
    missing: Missing | None = None
    """Default: zero for a proportion, exclude for anything else."""
    window: timedelta | None = None
    """How long after exposure values count; default: the experiment's outcome window, or none at all where the
    unit is a request and the source is known with its answer."""

    def __post_init__(self) -> None:
        needs = {
            "denominator": (self.kind is UnitValue.RATIO, self.denominator is not None),
            "retention": (self.kind is UnitValue.RETURN, self.retention is not None),
            "slo_ms": (self.source == "serving.over_slo", self.slo_ms is not None),
        }
        for name, (needed, given) in needs.items():
            if needed != given:
                raise LakeError(
                    f"metric {self.name!r} ({self.kind}, {self.source}): {name} is"
                    f" {'missing' if needed else 'not allowed'}"
                )
        if self.kind is UnitValue.RATIO and self.reference:
            raise LakeError(f"metric {self.name!r}: a ratio takes no reference, got {self.reference}")

    @property
    def zero_when_missing(self) -> bool:
        default = Missing.ZERO if self.kind is UnitValue.ANY else Missing.EXCLUDE
        return (self.missing or default) is Missing.ZERO

    @property
    def leaves_units_out(self) -> bool:
        """Whether a unit may have no value at the end of its window, and is not counted then."""
        return self.kind is not UnitValue.RETURN and not self.zero_when_missing

    @property
    def reads_outcomes(self) -> bool:
        return any(source.startswith("outcomes.") for source in (self.source, self.denominator or ""))


@dataclass(frozen=True, kw_only=True)
class ExperimentQuery:
    """Two versions, the steps they shared traffic in, and what to compare."""

    champion: str
    """Its version."""
    challenger: str
    steps: tuple[StepWindow, ...]
    metrics: tuple[MetricQuery, ...]
    outcome_window: timedelta
    watermark: datetime
    """All predictions and outcomes up to here are taken to be in the lake; a unit counts once its window has
    passed by then."""
    by_request: bool = True
    """The unit is the request; else the `x-unit-id`."""
    bucket: timedelta = timedelta(minutes=5)
    values_since: datetime | None = None
    """Only units exposed from here on are given values: the buckets before are known. None: all units."""
    slices: tuple[SliceColumn, ...] = ()
    """Inputs of the model by which units are told apart, as they were when the unit was first seen."""
    sliced: Mapping[str, Span] = field(default_factory=dict[str, Span])
    """The metrics that are told slice by slice, with what of them became final since the look before."""
    slices_alone: frozenset[str] = frozenset()
    """Metrics that are asked for by slice, and else counted elsewhere."""
    clock_skew: timedelta = timedelta(seconds=5)
    """An outcome may be this much earlier than its exposure."""

    def __post_init__(self) -> None:
        if self.champion == self.challenger:
            raise LakeError(f"champion and challenger are both version {self.champion!r}")
        if not self.steps:
            raise LakeError("an experiment needs at least one step window")
        ordered = sorted(self.steps)
        for one, next_one in zip(ordered, ordered[1:], strict=False):
            if next_one.start < one.end or next_one.step < one.step:
                raise LakeError(f"step windows overlap or go back: {one} and {next_one}")
        if self.bucket <= timedelta(0):
            raise LakeError(f"bucket == {self.bucket}, must be > 0")

    @property
    def start(self) -> datetime:
        return min(step.start for step in self.steps)

    @property
    def first_valued(self) -> datetime:
        """No unit exposed before this is given a value."""
        return self.start if self.values_since is None else max(self.start, self.values_since)

    @property
    def end(self) -> datetime:
        return max(step.end for step in self.steps)

    def step_ends(self) -> dict[int, datetime | None]:
        """When each step's last units came; None for the one that is still open."""
        ends: dict[int, datetime | None] = {step.step: step.end for step in self.steps}
        return ends | {max(ends): None}

    def window_of(self, metric: MetricQuery) -> timedelta:
        """How long after exposure `metric` counts."""
        return window_of(metric, outcome_window=self.outcome_window, by_request=self.by_request)


def window_of(metric: MetricQuery, *, outcome_window: timedelta, by_request: bool) -> timedelta:
    """How long after exposure `metric` counts."""
    if metric.window is not None:
        return metric.window
    if metric.kind is UnitValue.RETURN:
        return (metric.retention or timedelta(0)) + outcome_window
    instant = by_request and not metric.source.startswith("outcomes.")
    mixed = metric.denominator is not None and metric.denominator.startswith("outcomes.")
    return timedelta(0) if instant and not mixed else outcome_window


# Where a metric's values come from, as SQL over the lake's tables.


REFUSED = "refused"
"""A column beside those of `predictions`: whether every attempt at the request failed, so that it was the request's."""

EARLIER = "earlier"
"""A column beside those of `predictions`: whether the call was asked again, so that its caller got another record."""

_PLAIN = ("latency_ms", "status")


def outcome(source: str) -> str | None:
    """The metric's name in `outcomes`, or None where `source` is something else."""
    prefix, _, name = source.partition(".")
    return name if prefix == "outcomes" and name else None


def row_value(metric: MetricQuery, source: str, columns: tuple[Fields, Fields]) -> str:
    """SQL for the value in one row of `predictions`, a DOUBLE. Raises `LakeError` for what is not there.

    What belongs to the whole answer is taken once, from row 0 of a batch.
    """
    if source == "serving.errors":
        return _once(f"NOT ({ANSWERED} OR {REFUSED})")
    if source == "serving.over_slo" and metric.slo_ms is not None:
        return _once(f"latency_ms > {float(metric.slo_ms)!r}")
    prefix, _, name = source.partition(".")
    if prefix == "predictions" and name in _PLAIN:
        return _once(name)
    found = meant(name, columns) if prefix == "predictions" else []
    if len(found) != 1:
        raise LakeError(f"metric {metric.name!r}: source {source!r} {_allowed(found, columns)}")
    struct, field, kind = found[0]
    if kind not in SQL_COUNTS:
        raise LakeError(f"metric {metric.name!r}: {struct}.{field} is {kind}, must be a number or a boolean")
    return f"(CASE WHEN NOT {EARLIER} THEN {struct}.{identifier(field)}::DOUBLE END)"


def with_attempts(rows: str, metrics: Iterable[MetricQuery]) -> str:
    """The rows, with the columns `REFUSED` and `EARLIER` where a metric needs them."""
    read = [s for metric in metrics for s in (metric.source, metric.denominator, metric.covariate) if s]
    added = ""
    if "serving.errors" in read:
        added += f", request_id IN ({_refused(rows)}) AS {REFUSED}"
    if any(source.startswith("predictions.") for source in read):
        added += f", {ATTEMPT} IN ({earlier_attempts(rows, of='request_id')}) AS {EARLIER}"
    return f"(SELECT *{added} FROM {rows})" if added else rows


def _refused(rows: str) -> str:
    """Requests that were the fault: a failure is tried again, on the champion's side, so two records of failures are all
    there is of such a request. One record alone says nothing of the other attempt, and stays an error.
    """
    return f"""SELECT request_id FROM {rows} WHERE "row" = 0 GROUP BY request_id
        HAVING count(*) > 1 AND NOT bool_or({ANSWERED})"""


def outcome_names(query: ExperimentQuery) -> list[str]:
    """The outcome metrics that `query` reads."""
    sources = [source for metric in query.metrics for source in (metric.source, metric.denominator) if source]
    return sorted({name for name in map(outcome, sources) if name is not None})


def _once(expression: str) -> str:
    return f'(CASE WHEN "row" = 0 THEN ({expression})::DOUBLE END)'


def meant(name: str, columns: tuple[Fields, Fields]) -> list[tuple[str, str, str]]:
    """(struct, field, type) of every field that `predictions.<name>` can mean; as in DuckDB, case does not count."""
    return [
        (struct, field, kind)
        for struct, held in zip(("features", "outputs"), columns, strict=True)
        for field, kind in held.items()
        if name.lower() in (field.lower(), f"{struct}.{field}".lower())
    ]


def _allowed(found: list[tuple[str, str, str]], columns: tuple[Fields, Fields]) -> str:
    if found:
        return "is both: write " + " or ".join(f"predictions.{struct}.{field}" for struct, field, _ in found)
    names = [*columns[0], *columns[1], *_PLAIN]
    return (
        "is not there; allowed: serving.errors, serving.over_slo, outcomes.<metric>, predictions.<column> with"
        f" one of {', '.join(names)}"
    )
