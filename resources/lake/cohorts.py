"""First-exposure cohorts: which unit belongs to which variant, step and time. Everything else joins to them.

A unit belongs to the version that its first request in the experiment got, whatever happens to it later
(intention to treat). Two things look alike and are not:

- a unit that goes from the champion to the challenger when the share grows: what a sticky ramp does to units on
  purpose. It stays in its first cohort; leaving it out would empty the champion's side of returning units.
- a unit seen on both versions at one step, or back on the champion later: stickiness was broken. Such a
  crossover is counted and left out.

A request that is retried on the other version is one request of the version that it was first sent to.
"""

from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.experiment import ExperimentQuery
from resources.lake.names import table
from resources.lake.schema import KEY


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


def make_cohort(connection: DuckDBPyConnection, model: str, query: ExperimentQuery) -> None:
    """Fill the temporary table `cohort`: unit, exposed, challenger, step, key, crossover, moved; one row per unit."""
    seen = exposures(model, query)
    requests = f"""
        SELECT unit, min(requested_at) AS exposed, arg_min(challenger, requested_at) AS challenger,
            arg_min(step, requested_at) AS step, any_value(key) AS key
        FROM {seen.rows} WHERE step IS NOT NULL AND unit IS NOT NULL
        GROUP BY unit, request_id"""
    units = f"""
        SELECT unit, min(exposed) AS exposed, arg_min(challenger, exposed) AS challenger,
            arg_min(step, exposed) AS step, unit AS key,
            coalesce(max(step) FILTER (NOT challenger) >= min(step) FILTER (challenger), false) AS crossover,
            bool_or(challenger) AND NOT bool_and(challenger) AS moved
        FROM ({requests}) GROUP BY unit"""
    one_request_each = f"SELECT *, false AS crossover, false AS moved FROM ({requests})"
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE cohort AS {one_request_each if query.by_request else units}",
        seen.parameters,
    )
