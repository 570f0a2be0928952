"""What is known of the champion from the lake: the baseline, variance, caps and traffic that constants come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from duckdb import DuckDBPyConnection

from pipelines.manifest.model import Metric, RolloutManifest
from resources.experiment.queries import is_served, metric_query
from resources.lake.cohorts import make_cohort
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricKind, MetricQuery, StepWindow
from resources.lake.names import table
from resources.lake.schema import fields
from resources.lake.unit_values import make_unit_values

LOOKED_BACK = timedelta(days=14)
_ODD = 0.1234567891234567
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


@dataclass(frozen=True, kw_only=True)
class History:
    """The champion over a span of time."""

    start: datetime
    end: datetime
    units_per_day: float
    """Distinct units of all live traffic, whichever version answered."""
    requests_per_day: float
    metrics: Mapping[str, Known]
    """By name; a metric without a counted unit is not there."""


def champion_history(
    lake: Lake, manifest: RolloutManifest, champion: str, metrics: Sequence[Metric], *, until: datetime
) -> History:
    """The last `LOOKED_BACK` before `until`. Raises `LakeError` for a source that is not there."""
    window = StepWindow(until - LOOKED_BACK, until, 0)
    start, units, requests = _traffic(lake, manifest, window)
    days = max((until - start) / timedelta(days=1), 1e-9)
    return History(
        start=start,
        end=until,
        units_per_day=units / days,
        requests_per_day=requests / days,
        metrics=measured(lake, manifest, champion, metrics, (window,), watermark=until),
    )


def measured(
    lake: Lake,
    manifest: RolloutManifest,
    champion: str,
    metrics: Sequence[Metric],
    windows: Sequence[StepWindow],
    *,
    watermark: datetime,
) -> Mapping[str, Known]:
    """These metrics over the champion's units that are first seen in `windows` and final by `watermark`."""
    by_request = manifest.experiment.unit == "request"
    found: dict[str, Known] = {}
    for served in (False, True):
        chosen = [metric for metric in metrics if is_served(metric) is served]
        query = ExperimentQuery(
            champion=champion,
            challenger=f"not {champion}",
            steps=tuple(windows),
            metrics=tuple(_query(metric, by_request) for metric in chosen),
            outcome_window=manifest.experiment.outcome_window,
            watermark=watermark,
            by_request=by_request,
        )
        if chosen:
            found |= _measure(lake, manifest.model, query, chosen)
    return found


def _query(metric: Metric, by_request: bool) -> MetricQuery:
    reference = 0.0 if metric.covariate is None else _ODD
    return metric_query(metric, by_request=by_request, covariate_reference=reference)


def _measure(lake: Lake, model: str, query: ExperimentQuery, metrics: Sequence[Metric]) -> dict[str, Known]:
    with lake.connect() as connection:
        columns = fields(connection, model)
        make_cohort(connection, model, query)
        make_unit_values(connection, model, query, columns)
        known = {metric.name: _known(connection, i, metric) for i, metric in enumerate(metrics)}
    return {name: k for name, k in known.items() if k is not None}


def _known(connection: DuckDBPyConnection, i: int, metric: Metric) -> Known | None:
    cap = metric.cap
    if metric.winsorise is not None:
        row: Any = connection.execute(
            f"SELECT quantile_cont(y{i}, $share) FROM unit_values", {"share": metric.winsorise}
        ).fetchone()
        cap = row[0]
    is_ratio = MetricKind(metric.type.value) is MetricKind.RATIO
    y = f"y{i}" if cap is None else f"least(y{i}, {float(cap)!r})"
    d = f"d{i}" if is_ratio else "1.0"
    x = "NULL"
    if metric.covariate is not None:
        x = f"(SELECT avg(x{i}) FILTER (x{i} <> 0) + {_ODD!r} FROM unit_values)"
    # The delta method: the variance of y - R d over the squared mean denominator.
    row = connection.execute(
        f"""WITH v AS (SELECT {y} AS y, {d} AS d FROM unit_values WHERE y{i} IS NOT NULL),
            r AS (SELECT count(*) AS n, sum(y) / nullif(sum(d), 0) AS ratio, avg(d) AS mean_d FROM v)
        SELECT any_value(n), any_value(ratio), var_pop(y - ratio * d) / any_value(mean_d) ** 2,
            coalesce(kurtosis_pop(y - ratio * d), 0) + 3, {x} FROM v, r"""
    ).fetchone()
    units, value, variance, kurtosis, covariate = row
    if not units or value is None:
        return None
    return Known(units=units, value=value, variance=variance, kurtosis=kurtosis, cap=cap, covariate=covariate)


def _traffic(lake: Lake, manifest: RolloutManifest, window: StepWindow) -> tuple[datetime, int, int]:
    """(first request, distinct units, requests) in the window."""
    unit = "request_id" if manifest.experiment.unit == "request" else "unit_id"
    with lake.connect() as connection:
        fields(connection, manifest.model)
        row: Any = connection.execute(
            f"""SELECT min(requested_at), count(DISTINCT {unit}), count(DISTINCT request_id)
            FROM {table(manifest.model, "predictions")}
            WHERE assignment = 'weighted' AND requested_at >= $start AND requested_at < $end""",
            {"start": window.start, "end": window.end},
        ).fetchone()
    first, units, requests = row
    return first or window.end, units, requests
