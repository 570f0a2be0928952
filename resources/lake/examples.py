"""Requests of a slice that counted against a version, as the lake holds them."""

from datetime import datetime
from typing import Any, NamedTuple

from pipelines.core.errors import LakeError
from pipelines.core.metric_types import UnitValue
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery
from resources.lake.schema import fields
from resources.lake.unit_values import exposures, make_cohort, make_unit_values

MOST_EXAMPLES = 5


class Example(NamedTuple):
    """The first request of a unit."""

    request_id: str
    at: datetime
    value: float
    """What the unit counts as in the metric."""
    status: int | None
    latency_ms: float | None
    features: str
    """JSON, as is what was answered."""
    outputs: str


def bad_examples(
    lake: Lake, model: str, query: ExperimentQuery, *, place: int, more_is_worse: bool
) -> list[Example]:
    """At most `MOST_EXAMPLES` units of the challenger in one slice that count against it, the worst first, then the newest.

    Of a share those that have it (or have it not, where more is better), of anything else those with the most (or least). `query`
    has one metric and one column of slices; `place` is the slice's in it. Raises `LakeError`.
    """
    if len(query.metrics) != 1 or len(query.slices) != 1:
        raise LakeError("examples are of one metric and one column of slices")
    metric, order = query.metrics[0], "DESC" if more_is_worse else "ASC"
    seen = exposures(model, query)
    with lake.connect() as connection:
        make_cohort(connection, model, query)
        make_unit_values(connection, model, query, fields(connection, model), more=("unit",))
        rows: list[Any] = connection.execute(
            f"""WITH bad AS (
                SELECT unit, exposed, {_unit_value(metric)} AS value FROM unit_values
                WHERE challenger AND slice0 = $place AND {_is_bad(metric, more_is_worse=more_is_worse)}
                ORDER BY value {order}, exposed DESC, unit LIMIT {MOST_EXAMPLES})
            SELECT request_id, requested_at, value, status, latency_ms, coalesce(to_json(features)::VARCHAR, ''),
                coalesce(to_json(outputs)::VARCHAR, '')
            FROM bad JOIN (SELECT * FROM {seen.rows} WHERE "row" = 0) USING (unit)
            WHERE requested_at = exposed
            QUALIFY row_number() OVER (PARTITION BY unit ORDER BY request_id, revision) = 1
            ORDER BY value {order}, exposed DESC, unit""",
            seen.parameters | {"place": place},
        ).fetchall()
    return [Example(*row) for row in rows]


def _unit_value(metric: MetricQuery) -> str:
    return "y0 / d0" if metric.denominator else f"y0 + {float(metric.reference)!r}"


def _is_bad(metric: MetricQuery, *, more_is_worse: bool) -> str:
    if metric.kind in (UnitValue.ANY, UnitValue.RETURN):
        return f"y0 = {int(more_is_worse)}"
    return "y0 IS NOT NULL AND d0 <> 0" if metric.denominator else "y0 IS NOT NULL"
