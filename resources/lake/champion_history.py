"""The champion's own past by bins of units, so that any bins can be taken for a challenger's: what a rehearsal plays.

A unit falls into one of some bins by the hash of what the gateway assigns by (the unit id, or the request without one). A random
choice of bins is a random choice of units, and units that return, and requests of one caller, stay together as they would.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from duckdb import DuckDBPyConnection

from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.inputs import Array
from resources.lake.connection import Lake, table
from resources.lake.experiment import ExperimentQuery, MetricQuery, row_value, with_attempts
from resources.lake.measuring import COVARIATE_REFERENCE, Known, MeasuredMetric, known_of
from resources.lake.schema import fields
from resources.lake.sums import added_up, stacked, terms
from resources.lake.unit_values import exposures, make_cohort, make_unit_values


class AnsweredSpan(NamedTuple):
    """What the champion answered of a stretch of live traffic."""

    first: datetime | None
    """Its first answer; None without any."""
    answers: int
    without_unit: int
    """Of them, those without a unit id."""
    by_others: int
    """Answers of other versions since its first one."""


def answered_span(lake: Lake, model: str, champion: str, *, start: datetime, until: datetime) -> AnsweredSpan:
    """The champion's live answers in [start, until). Raises `LakeError`."""
    with lake.connect() as connection:
        fields(connection, model)
        row: Any = connection.execute(
            f"""WITH live AS (SELECT requested_at, version = $champion AS mine, unit_id FROM {table(model, "predictions")}
                WHERE assignment = 'weighted' AND "row" = 0 AND requested_at >= $start AND requested_at < $until)
            SELECT min(requested_at) FILTER (mine), count(*) FILTER (mine), count(*) FILTER (mine AND unit_id IS NULL),
                count(*) FILTER (NOT mine AND requested_at >= (SELECT min(requested_at) FROM live WHERE mine)) FROM live""",
            {"champion": champion, "start": start, "until": until},
        ).fetchone()
    return AnsweredSpan(*row)


@dataclass(frozen=True, eq=False)
class UnitHistory:
    """Sums over units by bin and bucket of first exposure; rows of bins and buckets without a unit are left out."""

    known: tuple[Known | None, ...]
    """Of each metric."""
    bins: Array
    buckets: Array
    """From the query's start on; shape (rows,)."""
    sums: tuple[Array, ...]
    """Of each metric, shape (rows, its `kept_sums`)."""
    counted: Array
    """Shape (counts, 4): bin, bucket, units first exposed there, and of them those for which a version is drawn."""

    @property
    def units(self) -> int:
        """All of them."""
        return int(self.counted[:, 2].sum())


def unit_history(
    lake: Lake, model: str, query: ExperimentQuery, capped: Sequence[MeasuredMetric], *, bins: int
) -> UnitHistory:
    """The champion's units, and their values as an experiment counts them. Raises `LakeError`.

    Args:
        lake, model: where.
        query: one step; metrics without caps, covariates with `COVARIATE_REFERENCE` as theirs. Means are summed less their
            mean, as a look does.
        capped: one entry for each metric.
        bins: how many.
    """
    with lake.connect() as connection:
        columns = fields(connection, model)
        make_cohort(connection, model, query, side=_bin("coalesce(caller, unit)", bins))
        make_unit_values(connection, model, query, columns)
        pairs = list(zip(query.metrics, capped, strict=True))
        known = tuple(known_of(connection, i, metric, cap) for i, (metric, cap) in enumerate(pairs))
        found = _grouped(connection, query, known)
        counted = _counted(connection, query)
    return UnitHistory(
        known=known,
        bins=found["bin"].astype(float),
        buckets=found["bucket"].astype(float),
        sums=tuple(
            np.stack([found[f"{name}_{i}"] for name in kept_sums(metric)], axis=1)
            for i, metric in enumerate(query.metrics)
        ),
        counted=counted,
    )


def kept_sums(metric: MetricQuery) -> tuple[str, ...]:
    """What is added up of the metric, and `lost`: the units without a value."""
    return (*added_up(metric.kind, covariate=metric.covariate is not None), "lost")


def every_sum(metric: MetricQuery, kept: Array) -> Array:
    """The fields of `Sums`, shape (..., 10), from those of `kept_sums`; `lost` is left out."""
    return stacked({name: kept[..., i] for i, name in enumerate(kept_sums(metric)) if name != "lost"})


def _bin(of: str, bins: int) -> str:
    return f"(hash({of}) % {bins:d})::USMALLINT"


def _bucket(of: str, query: ExperimentQuery) -> str:
    start = query.start.timestamp() * 1e6
    return f"((epoch_us({of}) - {start:.0f}::BIGINT) // {query.bucket // timedelta(microseconds=1)})"


def _grouped(
    connection: DuckDBPyConnection, query: ExperimentQuery, known: Sequence[Known | None]
) -> dict[str, Any]:
    sums = ", ".join(_sums(i, metric, known[i]) for i, metric in enumerate(query.metrics))
    statement = f"""SELECT challenger AS bin, {_bucket("exposed", query)} AS bucket, {sums}
        FROM unit_values GROUP BY ALL"""
    return connection.execute(statement).fetchnumpy()


def _sums(i: int, metric: MetricQuery, known: Known | None) -> str:
    cap = None if known is None else known.cap
    y = f"y{i}" if cap is None else f"least(y{i}, {float(cap)!r})"
    if metric.kind is UnitValue.AMOUNT and known is not None:
        y = f"({y} - {known.value!r})"
    y = f"CASE WHEN y{i} IS NOT NULL THEN {y} END"
    d = f"d{i}" if metric.denominator else f"CASE WHEN y{i} IS NOT NULL THEN 1.0 END"
    mean = 0.0 if known is None or known.covariate is None else known.covariate
    x = (
        f"CASE WHEN x{i} <> 0 THEN x{i} + {COVARIATE_REFERENCE - mean!r} ELSE 0 END"
        if metric.covariate
        else "0"
    )
    known_by = terms(y, d, x) | {"lost": f"count(lost{i})"}
    return ", ".join(f"coalesce({known_by[name]}, 0)::DOUBLE AS {name}_{i}" for name in kept_sums(metric))


def _counted(connection: DuckDBPyConnection, query: ExperimentQuery) -> Array:
    """A caller who is known stays where he is: a version is drawn for his first request alone."""
    rows = connection.execute(
        f"""SELECT bin, bucket, sum(unit)::DOUBLE AS units, sum(drawn)::DOUBLE AS drawn FROM (
            SELECT challenger AS bin, {_bucket("exposed", query)} AS bucket, count(*) AS unit,
                count(*) FILTER (caller IS NULL) AS drawn FROM cohort GROUP BY ALL
            UNION ALL
            SELECT bin, {_bucket("first", query)}, 0, count(*) FROM (
                SELECT any_value(challenger) AS bin, min(exposed) AS first FROM cohort
                WHERE caller IS NOT NULL GROUP BY caller) GROUP BY ALL)
        GROUP BY ALL"""
    ).fetchnumpy()
    return np.stack([rows[name].astype(float) for name in ("bin", "bucket", "units", "drawn")], axis=1)


# Answers as the gateway's counters have them, which roll back within seconds.


@dataclass(frozen=True, eq=False)
class AnswerHistory:
    """Answers and events by bin and bucket; rows of none are left out."""

    bins: Array
    buckets: Array
    counts: Array
    """Shape (rows, 1 + starts, 1 + metrics): of all answers, and of those that are their unit's first since each start, trials
    and each metric's events. Where the unit is the request all are first ones, whatever the start: shape (rows, 2, 1 + metrics)."""
    close: tuple["CloseUp", ...]
    """The time after each start, answer by answer."""


@dataclass(frozen=True, eq=False)
class CloseUp:
    """Single answers after one start."""

    seconds: Array
    """Since it; shape (answers,)."""
    bins: Array
    counts: Array
    """Shape (answers, 2, 1 + metrics): of all answers, and of units' first ones since this start."""


def answer_history(
    lake: Lake,
    model: str,
    query: ExperimentQuery,
    *,
    bins: int,
    starts: Sequence[float],
    closely: float,
) -> AnswerHistory:
    """The champion's answers. Raises `LakeError`.

    Args:
        lake, model: where.
        query: one step; the metrics that the serving side counts.
        bins: how many.
        starts: seconds after the query's start. Each unit's first answer since each is told apart from its others, and `closely`
            seconds from it are read answer by answer.
        closely: how long.
    """
    with lake.connect() as connection:
        _make_answers(connection, model, query, bins)
        sides = ["true", *(_first_since(start) for start in (starts[:1] if query.by_request else starts))]
        whats = ["true", *(f"v{i}" for i in range(len(query.metrics)))]
        counted = ", ".join(
            f"count(*) FILTER ({side} AND {what}) AS c{i}_{j}"
            for i, side in enumerate(sides)
            for j, what in enumerate(whats)
        )
        width = query.bucket // timedelta(microseconds=1)
        found = connection.execute(
            f"SELECT bin, us // {width} AS bucket, {counted} FROM answers GROUP BY ALL"
        ).fetchnumpy()
        close = tuple(_close_up(connection, len(query.metrics), start, closely) for start in starts)
    counts = [[found[f"c{i}_{j}"] for j in range(len(whats))] for i in range(len(sides))]
    return AnswerHistory(
        bins=found["bin"].astype(float),
        buckets=found["bucket"].astype(float),
        counts=np.moveaxis(np.array(counts, float), -1, 0),
        close=close,
    )


def _make_answers(connection: DuckDBPyConnection, model: str, query: ExperimentQuery, bins: int) -> None:
    """Fill the temporary table `answers`: bin, us (since the start), before (the same of its unit's last one), v<i> per metric."""
    seen, columns = exposures(model, query), fields(connection, model)
    values = ", ".join(
        f"({row_value(metric, metric.source, columns)}) > 0 AS v{i}" for i, metric in enumerate(query.metrics)
    )
    us = f"epoch_us(requested_at) - {query.start.timestamp() * 1e6:.0f}::BIGINT"
    last = f"CASE WHEN unit_id IS NOT NULL THEN lag({us}) OVER (PARTITION BY hash(unit_id) ORDER BY requested_at) END"
    before = "NULL::BIGINT" if query.by_request else last
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE answers AS
        SELECT {_bin("coalesce(unit_id, request_id)", bins)} AS bin, {us} AS us,
            {before} AS before, {values}
        FROM {with_attempts(seen.rows, query.metrics)} WHERE step IS NOT NULL AND "row" = 0""",
        seen.parameters,
    )


def _first_since(start: float) -> str:
    """SQL of whether an answer is its unit's first since so many seconds after the query's start."""
    return f"us >= {1e6 * start:.0f} AND (before IS NULL OR before < {1e6 * start:.0f})"


def _close_up(connection: DuckDBPyConnection, metrics: int, start: float, closely: float) -> CloseUp:
    values = "".join(f", v{i}" for i in range(metrics))
    found = connection.execute(
        f"""SELECT us / 1e6 - {start!r} AS seconds, bin, {_first_since(start)} AS first{values} FROM answers
        WHERE us >= {1e6 * start:.0f} AND us < {1e6 * (start + closely):.0f}"""
    ).fetchnumpy()
    first = found["first"].astype(float)
    trials = [
        np.ones_like(first),
        *(np.ma.filled(found[f"v{i}"], False).astype(float) for i in range(metrics)),
    ]
    every = np.stack(trials, axis=1)
    return CloseUp(
        seconds=found["seconds"].astype(float),
        bins=found["bin"].astype(float),
        counts=np.stack([every, every * first[:, None]], axis=1),
    )
