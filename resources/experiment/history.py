"""What is known of the champion from the lake: the baseline, variance, caps and traffic that constants come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.manifest.model import Metric, RolloutManifest
from resources.experiment.queries import is_served, metric_query
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow
from resources.lake.exposure import live_traffic
from resources.lake.measuring import COVARIATE_REFERENCE, Known, MeasuredMetric, measure_units

LOOKED_BACK = timedelta(days=14)


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
    by_request = manifest.experiment.unit == "request"
    traffic = live_traffic(lake, manifest.model, by_request=by_request, start=window.start, end=window.end)
    start = traffic.first or window.end
    days = max((until - start) / timedelta(days=1), 1e-9)
    return History(
        start=start,
        end=until,
        units_per_day=traffic.units / days,
        requests_per_day=traffic.requests / days,
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
    reference = 0.0 if metric.covariate is None else COVARIATE_REFERENCE
    return metric_query(metric, by_request=by_request, covariate_reference=reference)


def _measure(lake: Lake, model: str, query: ExperimentQuery, metrics: Sequence[Metric]) -> dict[str, Known]:
    wanted = [MeasuredMetric(metric.cap, metric.winsorise) for metric in metrics]
    found = measure_units(lake, model, query, wanted)
    return {metric.name: known for metric, known in zip(metrics, found, strict=True) if known is not None}
