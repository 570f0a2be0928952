"""What the lake knows of a metric before it is analysed: its level and spread so far, and what is left out
of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from duckdb import DuckDBPyConnection

from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.effects import CLEAR
from resources.lake.connection import Lake, table
from resources.lake.experiment import ExperimentQuery, MetricQuery, outcome_names
from resources.lake.schema import KEY, fields
from resources.lake.unit_values import make_cohort, make_unit_values

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
        return [known_of(connection, i, metric, cap) for i, (metric, cap) in enumerate(pairs)]


def known_of(
    connection: DuckDBPyConnection, i: int, metric: MetricQuery, capped: MeasuredMetric
) -> Known | None:
    """What is known of the i-th metric from `unit_values`."""
    cap = capped.cap if capped.winsorise is None else _quantile(connection, i, metric, capped.winsorise)
    y = f"y{i}" if cap is None else f"least(y{i}, {float(cap)!r})"
    d = f"d{i}" if metric.kind is UnitValue.RATIO else "1.0"
    x = "NULL"
    if metric.covariate is not None:
        x = f"(SELECT avg(x{i}) FILTER (x{i} <> 0) + {COVARIATE_REFERENCE!r} FROM unit_values)"
    # The delta method: the variance of y - R d over the squared mean denominator.
    row: Any = connection.execute(
        f"""WITH v AS (SELECT {y} AS y, {d} AS d FROM unit_values WHERE y{i} IS NOT NULL),
            r AS (SELECT count(*) AS n, avg(d) AS mean_d,
                CASE WHEN avg(d) > 0 AND count(*) * avg(d) ** 2 >= {CLEAR!r} * var_pop(d) THEN sum(y) / sum(d) END AS ratio
                FROM v)
        SELECT any_value(n), any_value(ratio), var_pop(y - ratio * d) / any_value(mean_d) ** 2,
            coalesce(kurtosis_pop(y - ratio * d), 0) + 3, {x} FROM v, r"""
    ).fetchone()
    units, value, variance, kurtosis, covariate = row
    if not units or value is None:
        return None
    return Known(units=units, value=value, variance=variance, kurtosis=kurtosis, cap=cap, covariate=covariate)


def _quantile(connection: DuckDBPyConnection, i: int, metric: MetricQuery, share: float) -> float | None:
    """Of the values that there are: where most units have none and count as 0, a quantile of all would cap everything at 0.

    None where capping by it would leave one value, which tells no version from another.
    """
    there = f"WHERE y{i} <> 0" if metric.zero_when_missing else ""
    row: Any = connection.execute(
        f"""SELECT CASE WHEN cap > low OR low = high THEN cap END
        FROM (SELECT quantile_cont(y{i}, $share) AS cap FROM unit_values {there}),
            (SELECT min(y{i}) AS low, max(y{i}) AS high FROM unit_values)""",
        {"share": share},
    ).fetchone()
    return row[0]


# Outcomes that the experiment does not count, with their number: nothing is dropped in silence.


class OutcomeQuality(NamedTuple):
    """Of the outcomes since the experiment's start."""

    keys: int
    unknown: int
    """Keys that made no request in the log: kept, and counted should the request still come."""
    before_exposure: int
    """Values seen before their key's first request: no metric counts them."""
    ambiguous: int
    """Keys that callers gave to several requests: nobody knows which of them it is about, so it counts for none."""
    quarantined: int
    """Values and lines that are not usable: NaN, infinite, not a number, in the future, malformed."""
    reason: str
    """The most frequent reason for a quarantine; empty without one."""

    @property
    def sentence(self) -> str:
        """In words; empty where nothing was left out."""
        parts = [
            f"{self.unknown:,} of {self.keys:,} outcome keys made no request" if self.unknown else "",
            f"{self.before_exposure:,} outcomes came before their request" if self.before_exposure else "",
            f"{self.ambiguous:,} outcome keys name several requests" if self.ambiguous else "",
            f"{self.quarantined:,} outcomes are quarantined (mostly: {self.reason})"
            if self.quarantined
            else "",
        ]
        told = "; ".join(part for part in parts if part)
        return f"Kept out: {told}." if told else ""


def outcomes_seen(lake: Lake, model: str) -> frozenset[str]:
    """Every outcome that there has ever been a value of. Raises `LakeError`."""
    with lake.connect() as connection:
        fields(connection, model)
        query = f"SELECT DISTINCT metric FROM {table(model, 'outcomes')}"
        return frozenset(row[0] for row in connection.execute(query).fetchall())


def outcome_quality(lake: Lake, model: str, query: ExperimentQuery) -> OutcomeQuality:
    """Count what `query` cannot use. Raises `LakeError`."""
    key = KEY if query.by_request else "unit_id"
    several = "calls > 1" if query.by_request else "false"
    with lake.connect() as connection:
        fields(connection, model)
        row: Any = connection.execute(
            f"""WITH found AS (
                SELECT key, "at" FROM {table(model, "outcomes")}
                WHERE list_contains($metrics::VARCHAR[], metric) AND "at" >= $start AND "at" < $until),
            asked AS (
                SELECT key, min(requested_at) AS first, count(DISTINCT request_id) AS calls
                FROM (SELECT {key} AS key, requested_at, request_id FROM {table(model, "predictions")})
                SEMI JOIN found USING (key) GROUP BY key)
            SELECT count(DISTINCT key), count(DISTINCT key) FILTER (first IS NULL),
                count(*) FILTER ("at" < first - $skew), count(DISTINCT key) FILTER ({several})
            FROM found LEFT JOIN asked USING (key)""",
            {
                "metrics": outcome_names(query),
                "start": query.start,
                "until": query.watermark,
                "skew": query.clock_skew,
            },
        ).fetchone()
        bad: Any = connection.execute(
            f"""SELECT count(*), coalesce(mode(reason), '') FROM {table(model, "quarantine")}
            WHERE source = 'outcomes' AND quarantined_at >= $start""",
            {"start": query.start},
        ).fetchone()
    return OutcomeQuality(*row, *bad)
