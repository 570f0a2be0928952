"""From cumulative counters to the counts of one interval; a restarted gateway is recognised, not subtracted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from pipelines.manifest.model import Guardrail, Metric, OnFail, RolloutManifest
from pipelines.statistics.binomial import Counts
from resources.serving.backend import Counters, RevisionCounters

ERRORS = "serving.errors"
OVER_SLO = "serving.over_slo"


@dataclass(frozen=True, kw_only=True)
class ServingMetric:
    """One metric that the serving side counts."""

    name: str
    source: str
    slo_ms: int | None
    on_fail: OnFail

    def events(self, revision: RevisionCounters) -> int:
        """How many of the revision's answers count for this metric. Raises KeyError for an SLO not counted."""
        return revision.errors if self.slo_ms is None else revision.over_slo[self.slo_ms]


def serving_metrics(manifest: RolloutManifest) -> tuple[ServingMetric, ...]:
    """The manifest's metrics whose source is `serving.*`."""
    metrics: tuple[Metric, ...] = (*manifest.guardrails, manifest.experiment.primary)
    return tuple(
        ServingMetric(
            name=metric.name,
            source=metric.source,
            slo_ms=None if metric.slo is None else round(metric.slo / timedelta(milliseconds=1)),
            on_fail=metric.on_fail if isinstance(metric, Guardrail) else OnFail.ROLL_BACK,
        )
        for metric in metrics
        if metric.source in (ERRORS, OVER_SLO)
    )


def difference(before: Counters | None, now: Counters) -> Mapping[str, RevisionCounters]:
    """What each version's counters grew by since `before`, by version.

    A new epoch means that the counters started again from zero: all they show is new. Without a `before`
    nothing is known about the interval and everything is zero.
    """
    if before is None:
        return {r.version: _minus(r, r) for r in now.revisions}
    earlier = {r.revision: r for r in before.revisions} if before.epoch == now.epoch else {}
    return {r.version: _minus(r, earlier.get(r.revision)) for r in now.revisions}


def counts(
    metric: ServingMetric, grown: Mapping[str, RevisionCounters], *, canary: str, champion: str
) -> Counts:
    """The interval's trials and events of both sides for one metric; a side that is not there has none."""
    new, old = grown.get(canary), grown.get(champion)
    return Counts(
        canary_trials=new.requests if new else 0,
        canary_events=_events(metric, new),
        champion_trials=old.requests if old else 0,
        champion_events=_events(metric, old),
    )


def _events(metric: ServingMetric, revision: RevisionCounters | None) -> int:
    """Never more than the trials: the gateway's counters are read one after the other, under load."""
    return min(metric.events(revision), revision.requests) if revision else 0


def _minus(now: RevisionCounters, before: RevisionCounters | None) -> RevisionCounters:
    if before is None:
        return now
    return RevisionCounters(
        revision=now.revision,
        version=now.version,
        requests=max(0, now.requests - before.requests),
        errors=max(0, now.errors - before.errors),
        over_slo={ms: max(0, n - before.over_slo.get(ms, 0)) for ms, n in now.over_slo.items()},
    )
