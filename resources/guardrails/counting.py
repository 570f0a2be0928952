"""From cumulative counters to the counts of one interval; a restarted gateway is recognised, not subtracted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce

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

    def counted(self, revision: RevisionCounters | None) -> tuple[int, int]:
        """(trials, events) of the revision; nothing of either where it does not count this SLO.

        Never more events than trials: the gateway's counters are read one after the other, under load.
        """
        if revision is None or (self.slo_ms is not None and self.slo_ms not in revision.over_slo):
            return 0, 0
        events = revision.errors if self.slo_ms is None else revision.over_slo[self.slo_ms]
        return revision.requests, min(events, revision.requests)


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


def harm_tests(manifest: RolloutManifest) -> int:
    """How many tests for harm share the rollout's error budget.

    Every metric is tested at the looks; those that the serving side counts are tested on its live counters as well.
    """
    return 1 + len(manifest.guardrails) + len(serving_metrics(manifest))


def difference(before: Counters | None, now: Counters) -> Mapping[str, RevisionCounters]:
    """What each version's counters grew by since `before`, by version.

    A new epoch means that the counters started again from zero: all they show is new. Without a `before`
    nothing is known about the interval and everything is zero. A version may have several revisions: one that
    was rolled out again, while the gateway still shows what it counted before.
    """
    earlier = {r.revision: r for r in before.revisions} if before and before.epoch == now.epoch else {}
    grown: dict[str, RevisionCounters] = {}
    for r in now.revisions:
        new = _minus(r, r if before is None else earlier.get(r.revision))
        grown[r.version] = _plus(grown[r.version], new) if r.version in grown else new
    return grown


def counts(metric: ServingMetric, grown: Mapping[str, RevisionCounters], *, canary: str) -> Counts:
    """The interval's trials and events of both sides for one metric; a side that is not there has none."""
    return Counts(*metric.counted(grown.get(canary)), *metric.counted(beside(grown, canary)))


def beside(grown: Mapping[str, RevisionCounters], canary: str) -> RevisionCounters | None:
    """The other side: whatever else answered, by whichever name the registry knows it."""
    others = [revision for version, revision in grown.items() if version != canary]
    return reduce(_plus, others) if others else None


def _minus(now: RevisionCounters, before: RevisionCounters | None) -> RevisionCounters:
    if before is None:
        return now
    return RevisionCounters(
        revision=now.revision,
        version=now.version,
        requests=max(0, now.requests - before.requests),
        errors=max(0, now.errors - before.errors),
        faults=max(0, now.faults - before.faults),
        over_slo={ms: max(0, n - before.over_slo.get(ms, 0)) for ms, n in now.over_slo.items()},
    )


def _plus(one: RevisionCounters, other: RevisionCounters) -> RevisionCounters:
    return RevisionCounters(
        revision=other.revision,
        version=other.version,
        requests=one.requests + other.requests,
        errors=one.errors + other.errors,
        faults=one.faults + other.faults,
        over_slo={ms: n + other.over_slo.get(ms, 0) for ms, n in one.over_slo.items()},
    )
