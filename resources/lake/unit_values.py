"""First-exposure cohorts: which unit belongs to which variant, step and time. Everything else joins to them.

A unit belongs to the version that its first request in the experiment got, whatever happens to it later
(intention to treat). Two things look alike and are not:

- a unit that goes from the champion to the challenger when the share grows: what a sticky ramp does to units on
  purpose. It stays in its first cohort; leaving it out would empty the champion's side of returning units.
- a unit seen on both versions at one step, or back on the champion later: stickiness was broken. Such a
  crossover is counted and left out.

A request that is retried on the other version is one request of the version that it was first sent to.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError
from pipelines.core.metric_types import UnitValue
from resources.lake.connection import literal, mentioned, table
from resources.lake.experiment import (
    ExperimentQuery,
    MetricQuery,
    outcome,
    outcome_names,
    row_value,
    with_attempts,
)
from resources.lake.schema import ANSWERED, KEY, LARGEST, Fields, one_request
from resources.lake.slices import placed, slice_names, slice_values


class Exposures(NamedTuple):
    """SQL of the exposed rows of `predictions`, and the parameters it takes."""

    rows: str
    """Rows with unit, key (what outcomes know the unit by), request_id, requested_at, step and `challenger` (a boolean) beside the columns of the table."""
    parameters: dict[str, Any]


def exposures(model: str, query: ExperimentQuery) -> Exposures:
    """The weighted traffic of both versions from the experiment's start to its watermark.

    `step` is NULL where no step window covers the row: such a row exposes nobody.
    """
    parameters: dict[str, Any] = {
        "champion": query.champion,
        "challenger": query.challenger,
        "start": query.start,
        "until": query.watermark,
    }
    cases: list[str] = []
    for i, window in enumerate(query.steps):
        parameters |= {f"start{i}": window.start, f"end{i}": window.end}
        cases.append(f"WHEN requested_at >= $start{i} AND requested_at < $end{i} THEN {int(window.step)}")
    unit, key = ("request_id", KEY) if query.by_request else ("unit_id", "unit_id")
    rows = f"""(
        SELECT *, {unit} AS unit, {key} AS key, version = $challenger AS challenger, CASE {" ".join(cases)} END AS step
        FROM {table(model, "predictions")}
        WHERE assignment = 'weighted' AND version IN ($champion, $challenger)
            AND requested_at >= $start AND requested_at < $until
    )"""
    return Exposures(rows, parameters)


def make_cohort(
    connection: DuckDBPyConnection, model: str, query: ExperimentQuery, *, side: str = "challenger"
) -> None:
    """Fill the temporary table `cohort`: unit, exposed, challenger, step, key, crossover, moved, caller, and slice<i> for each of
    the query's slices; one row per unit.

    `caller` is the unit id that a request bears, where the request is the unit, and else NULL. `side` is SQL, over these columns,
    of what stands in the place of `challenger`. `slice` is the place of the unit's slice in its column, by the first row of its
    first request. Raises `LakeError` for a column that is not there.
    """
    seen = exposures(model, query)
    first, kept = slice_values(connection, model, query), slice_names(query)
    requests = f"""
        SELECT unit, min(requested_at) AS exposed, arg_min(challenger, requested_at) AS challenger,
            arg_min(step, requested_at) AS step, any_value(key) AS key, any_value(unit_id) AS caller{first}
        FROM {seen.rows} WHERE step IS NOT NULL AND unit IS NOT NULL
        GROUP BY unit, request_id"""
    units = f"""
        SELECT unit, min(exposed) AS exposed, arg_min(challenger, exposed) AS challenger,
            arg_min(step, exposed) AS step, unit AS key,
            coalesce(max(step) FILTER (NOT challenger) >= min(step) FILTER (challenger), false) AS crossover,
            bool_or(challenger) AND NOT bool_and(challenger) AS moved, NULL::VARCHAR AS caller
            {"".join(f", arg_min_null({name}, exposed) AS {name}" for name in kept)}
        FROM ({requests}) GROUP BY unit"""
    one_request_each = f"SELECT *, false AS crossover, false AS moved FROM ({requests})"
    found = one_request_each if query.by_request else units
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE cohort AS SELECT * REPLACE ({side} AS challenger)
        FROM ({placed(found, query) if kept else found})""",
        seen.parameters | {f"values{k}": list(column.values) for k, column in enumerate(query.slices)},
    )


# One row per counted unit, with each metric's value, denominator and covariate.


def make_unit_values(
    connection: DuckDBPyConnection,
    model: str,
    query: ExperimentQuery,
    columns: tuple[Fields, Fields],
    *,
    more: Sequence[str] = (),
) -> None:
    """Fill the temporary table `unit_values` from `cohort`: step, exposed, challenger, slice<i>, then y<i>, d<i>, x<i>, lost<i> per
    metric. `more`: further columns of `cohort`.

    y is NULL where the unit does not count for the metric: not mature by the watermark, without a value, or
    with one that cannot be squared. `lost` is 1 where it is mature and should have had one. Crossovers are left out.
    """
    joins = [*_prediction_join(model, query, columns), *_outcome_join(model, query)]
    values = ", ".join(_counted(i, metric, query) for i, metric in enumerate(query.metrics))
    statement = f"""
        CREATE OR REPLACE TEMP TABLE unit_values AS
        SELECT {", ".join(["step", "exposed", "challenger", *slice_names(query), *more])}, {values}
        FROM cohort {" ".join(f"LEFT JOIN ({join}) USING (unit)" for join in joins)}
        WHERE NOT crossover AND exposed >= $valued"""
    parameters = exposures(model, query).parameters
    parameters |= {"metrics": outcome_names(query), "valued": query.first_valued}
    connection.execute(statement, mentioned(statement, parameters))


def _prediction_join(model: str, query: ExperimentQuery, columns: tuple[Fields, Fields]) -> list[str]:
    """At most one query: unit, with what the prediction log says."""
    found: list[str] = []
    for i, metric in enumerate(query.metrics):
        within = _within("requested_at", query.window_of(metric))
        if metric.kind is UnitValue.RETURN:
            found.append(_returned(i, metric, query))
        else:
            for letter, source in (("y", metric.source), ("d", metric.denominator)):
                if source is not None and outcome(source) is None:
                    value = _aggregate(metric, row_value(metric, source, columns))
                    found.append(f"{value} FILTER ({_upto(query, within)}) AS {letter}{i}")
        if metric.covariate is not None:
            value = row_value(metric, metric.covariate, columns)
            found.append(f"arg_min({value}, requested_at) AS x{i}")
        if _told_by_answers(metric):
            found.append(f"bool_or({ANSWERED}) FILTER ({_upto(query, within)}) AS answered{i}")
    if not found:
        return []
    rows = with_attempts(exposures(model, query).rows, query.metrics)
    return [
        f"SELECT unit, {', '.join(found)} FROM {rows} JOIN (SELECT unit, exposed FROM cohort) USING (unit)"
        " WHERE requested_at >= $valued AND requested_at >= exposed GROUP BY unit"
    ]


def _outcome_join(model: str, query: ExperimentQuery) -> list[str]:
    """At most one query: unit, with what the outcomes say.

    Where a caller gave several requests one id, what came of it belongs to none of them (`outcome_quality` counts it).
    """
    found: list[str] = []
    longest = timedelta(0)
    for i, metric in enumerate(query.metrics):
        if metric.kind is UnitValue.RETURN:
            continue  # a unit that returned is in the prediction log
        window = query.window_of(metric)
        for letter, source in (("y", metric.source), ("d", metric.denominator)):
            name = None if source is None else outcome(source)
            if name is not None:
                longest = max(longest, window)
                condition = f"metric = {literal(name)} AND {_within('seen_at', window)}"
                value = _aggregate(metric, "value", average=False)
                found.append(f"{value} FILTER ({condition}) AS {letter}{i}")
    if not found:
        return []
    skew = _interval(query.clock_skew)
    return [
        f"""SELECT unit, {", ".join(found)}
        FROM (SELECT unit, exposed, metric, value, "at" AS seen_at FROM {table(model, "outcomes")}
            JOIN (SELECT unit, exposed, key FROM cohort) USING (key)
            WHERE list_contains($metrics, metric) AND "at" >= $valued::TIMESTAMPTZ - {skew}
            {one_request("unit") if query.by_request else ""})
        WHERE seen_at >= exposed - {skew} AND {_within("seen_at", longest)}
        GROUP BY unit"""
    ]


def _counted(i: int, metric: MetricQuery, query: ExperimentQuery) -> str:
    """y, d and x as they are summed."""
    if metric.zero_when_missing:
        y, d = f"coalesce(y{i}, 0)", f"coalesce(d{i}, 0)"
    else:
        y, d = f"y{i}", f"d{i}"
    capped = f"least({y}, {float(metric.cap)!r})" if metric.cap is not None else y
    value = f"({capped} - {float(metric.reference)!r})"
    mature = f"exposed + {_interval(query.window_of(metric))} <= $until"
    # `least` takes the cap where there is no value.
    usable = f"{mature} AND isfinite({y}) AND {_countable(capped)}"
    if metric.denominator:
        usable += f" AND {_countable(d)} AND ({d} = 0 OR abs({d}) >= {_SMALLEST!r})"
    expected = f"{mature} AND answered{i}" if _told_by_answers(metric) else mature
    parts = [
        f"CASE WHEN {usable} THEN {value} END AS y{i}",
        f"CASE WHEN {expected} AND ({usable}) IS NOT TRUE THEN 1 END AS lost{i}",
    ]
    if metric.denominator:
        parts.append(f"CASE WHEN {usable} THEN {d} END AS d{i}")
    if metric.covariate:
        x = f"(x{i} - {float(metric.covariate_reference)!r})"
        parts.append(
            f"CASE WHEN {usable} THEN CASE WHEN {_countable(f'x{i}')} THEN {x} ELSE 0 END END AS x{i}"
        )
    return ", ".join(parts)


_SMALLEST = 1 / LARGEST
"""Of denominators other than 0."""


def _countable(value: str) -> str:
    """Finite, and so are its powers; NaN is larger than anything."""
    return f"abs({value}) <= {LARGEST!r}"


def _told_by_answers(metric: MetricQuery) -> bool:
    """Whether a unit whose requests all failed has no value for that reason: that is `serving.errors`, and nothing is lost."""
    return metric.leaves_units_out and not metric.reads_outcomes


def _aggregate(metric: MetricQuery, value: str, *, average: bool = True) -> str:
    """A unit's many values as one."""
    if metric.kind is UnitValue.ANY:
        # NaN is larger than 0 there, and says nothing.
        return f"max(CASE WHEN NOT isnan({value}) THEN ({value} > 0)::DOUBLE END)"
    if metric.kind is UnitValue.AMOUNT and average:
        return f"avg({value})"
    return f"sum({value})"


def _returned(i: int, metric: MetricQuery, query: ExperimentQuery) -> str:
    if query.by_request or metric.retention is None:
        raise LakeError(f"metric {metric.name!r}: retention needs units that can return, not requests")
    after = f"requested_at >= exposed + {_interval(metric.retention)}"
    within = _within("requested_at", query.window_of(metric))
    return f"(count(*) FILTER ({after} AND {within}) > 0)::DOUBLE AS y{i}"


def _upto(query: ExperimentQuery, within: str) -> str:
    """All attempts at a request belong to it; of a returning unit, what its window covers."""
    return "true" if query.by_request else within


def _within(moment: str, window: timedelta) -> str:
    return f"{moment} <= exposed + {_interval(window)}"


def _interval(duration: timedelta) -> str:
    return f"INTERVAL '{duration // timedelta(microseconds=1)} microseconds'"
