"""What is known of the champion from the lake: the baseline, variance, caps and traffic that constants come
from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.core.manifest.model import Metric, RolloutManifest
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, StepWindow, outcome, window_of
from resources.lake.exposure import live_traffic
from resources.lake.measuring import COVARIATE_REFERENCE, Known, MeasuredMetric, measure_units


def metrics_of(manifest: RolloutManifest) -> tuple[Metric, ...]:
    """The primary metric, then the guardrails."""
    return (manifest.experiment.primary, *manifest.guardrails)


def outcomes_of(metric: Metric) -> tuple[str, ...]:
    """The outcomes that it is made of; whether a unit returns is seen in the prediction log."""
    if metric.type.is_seen_later:
        return ()
    names = (outcome(source) for source in (metric.source, metric.denominator) if source)
    return tuple(name for name in names if name is not None)


def is_served(metric: Metric) -> bool:
    """Whether it is about the serving side: an answer that failed, or that was too slow."""
    return metric.source.startswith("serving.")


def is_counted_live(manifest: RolloutManifest, metric: Metric) -> bool:
    """Whether the look reads the serving side's counters for it.

    Counters count answers. Where the unit is not the request, answers of one unit depend on each other and a
    test on answers would be wrong far too often: the look then reads the lake, unit by unit.
    """
    return is_served(metric) and manifest.experiment.unit == "request"


def metric_query(
    metric: Metric,
    *,
    by_request: bool,
    cap: float | None = None,
    reference: float = 0.0,
    covariate_reference: float = 0.0,
) -> MetricQuery:
    """The metric with its registered constants.

    Of a unit that returns, a serving metric takes the first answer: one observation per unit, known at once, on
    the scale that the margin is written in (a share of answers).
    """
    slo_ms = None if metric.slo is None else metric.slo / timedelta(milliseconds=1)
    return MetricQuery(
        name=metric.name,
        kind=metric.type.unit_value,
        source=metric.source,
        denominator=metric.denominator,
        covariate=metric.covariate,
        covariate_reference=covariate_reference,
        cap=cap if cap is not None else metric.cap,
        reference=reference,
        slo_ms=slo_ms,
        retention=metric.retention,
        missing=metric.missing,
        window=timedelta(0) if is_served(metric) and not by_request else None,
    )


def horizon(manifest: RolloutManifest, metric: Metric) -> timedelta:
    """How long after its exposure a unit counts for the metric."""
    by_request = manifest.experiment.unit == "request"
    query = metric_query(metric, by_request=by_request)
    return window_of(query, outcome_window=manifest.experiment.outcome_window, by_request=by_request)


# What is known of the champion from the lake: the baseline, variance, caps and traffic that constants come from.


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
    """The last `LOOKED_BACK` before `until`, or twice the time that a unit takes to count, if that is longer: of a horizon of
    three weeks no unit of the last two would count. Raises `LakeError` for a source that is not there.
    """
    longest = max((horizon(manifest, metric) for metric in metrics), default=timedelta(0))
    window = StepWindow(until - max(LOOKED_BACK, 2 * longest), until, 0)
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
