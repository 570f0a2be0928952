"""Mean, variance and cap of each metric over the units of one version."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from resources.lake.cohorts import make_cohort
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricKind, MetricQuery
from resources.lake.schema import fields
from resources.lake.unit_values import make_unit_values

COVARIATE_REFERENCE = 0.1234567891234567
"""Subtracted from covariates here: no value is exactly it, so that 0 is left for the missing ones alone."""


@dataclass(frozen=True, kw_only=True)
class Known:
    """One metric under the champion, per unit; values are capped as the experiment will cap them."""

    units: int
    value: float
    """Mean, rate or ratio."""
    variance: float
    """Of one unit's value; for a ratio by the delta method."""
    kurtosis: float
    """Of the same; 3 for a normal variable."""
    cap: float | None
    covariate: float | None
    """Mean of the covariate."""


class MeasuredMetric(NamedTuple):
    """How a metric's values are capped."""

    cap: float | None
    winsorise: float | None
    """The quantile of the values that becomes their cap; None: `cap` is it."""


def measure_units(
    lake: Lake, model: str, query: ExperimentQuery, capped: Sequence[MeasuredMetric]
) -> list[Known | None]:
    """What is known of each of the query's metrics; None without a counted unit. Raises `LakeError`.

    `capped` has one entry for each of them; covariates have `COVARIATE_REFERENCE` as their reference.
    """
    with lake.connect() as connection:
        columns = fields(connection, model)
        make_cohort(connection, model, query)
        make_unit_values(connection, model, query, columns)
        pairs = zip(query.metrics, capped, strict=True)
        return [_known(connection, i, metric, cap) for i, (metric, cap) in enumerate(pairs)]


def _known(
    connection: DuckDBPyConnection, i: int, metric: MetricQuery, capped: MeasuredMetric
) -> Known | None:
    cap = capped.cap if capped.winsorise is None else _quantile(connection, i, capped.winsorise)
    y = f"y{i}" if cap is None else f"least(y{i}, {float(cap)!r})"
    d = f"d{i}" if metric.kind is MetricKind.RATIO else "1.0"
    x = "NULL"
    if metric.covariate is not None:
        x = f"(SELECT avg(x{i}) FILTER (x{i} <> 0) + {COVARIATE_REFERENCE!r} FROM unit_values)"
    # The delta method: the variance of y - R d over the squared mean denominator.
    row: Any = connection.execute(
        f"""WITH v AS (SELECT {y} AS y, {d} AS d FROM unit_values WHERE y{i} IS NOT NULL),
            r AS (SELECT count(*) AS n, sum(y) / nullif(sum(d), 0) AS ratio, avg(d) AS mean_d FROM v)
        SELECT any_value(n), any_value(ratio), var_pop(y - ratio * d) / any_value(mean_d) ** 2,
            coalesce(kurtosis_pop(y - ratio * d), 0) + 3, {x} FROM v, r"""
    ).fetchone()
    units, value, variance, kurtosis, covariate = row
    if not units or value is None:
        return None
    return Known(units=units, value=value, variance=variance, kurtosis=kurtosis, cap=cap, covariate=covariate)


def _quantile(connection: DuckDBPyConnection, i: int, share: float) -> float | None:
    row: Any = connection.execute(
        f"SELECT quantile_cont(y{i}, $share) FROM unit_values", {"share": share}
    ).fetchone()
    return row[0]
