"""A manifest's metric as the lake is asked for it."""

from datetime import timedelta

from pipelines.manifest.model import Metric, MetricType, RolloutManifest
from resources.lake.experiment import MetricKind, MetricQuery
from resources.lake.sources import outcome


def metrics_of(manifest: RolloutManifest) -> tuple[Metric, ...]:
    """The primary metric, then the guardrails."""
    return (manifest.experiment.primary, *manifest.guardrails)


def outcomes_of(metric: Metric) -> tuple[str, ...]:
    """The outcomes that it is made of; whether a unit returns is seen in the prediction log."""
    if metric.type is MetricType.RETENTION:
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
        kind=MetricKind(metric.type.value),
        source=metric.source,
        denominator=metric.denominator,
        covariate=metric.covariate,
        covariate_reference=covariate_reference,
        cap=cap if cap is not None else metric.cap,
        reference=reference,
        slo_ms=slo_ms,
        retention=metric.retention,
        window=timedelta(0) if is_served(metric) and not by_request else None,
    )
