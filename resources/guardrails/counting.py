"""From cumulative counters to the counts of one interval; a restarted gateway is recognised, not subtracted."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import reduce

from pipelines.manifest.model import Guardrail, Metric, OnFail, RolloutManifest
from pipelines.statistics.binomial import Counts
from resources.serving.backend import Answers, Counters, RevisionCounters, since, together

ERRORS = "serving.errors"
OVER_SLO = "serving.over_slo"


REQUEST_FAULTS = "request-faults"
"""What neither side answered: kept beside the metrics' counts, part of none. No metric can have this name."""
REPEATED = "-repeated"
"""Ends the name of a metric's evidence on all answers, where what rolls back counts each unit once."""


@dataclass(frozen=True, kw_only=True)
class ServingMetric:
    """One metric that the serving side counts."""

    name: str
    source: str
    slo_ms: int | None
    on_fail: OnFail
    by_unit: bool = False
    """Each unit's first answer in a window, instead of all answers."""

    def counted(self, revision: RevisionCounters | None, *, copies: bool = False) -> tuple[int, int]:
        """(trials, events) of the revision; nothing of either where it does not count this SLO, or units.

        What is wrong with the request is no trial: whoever sends much of it would thin out the errors that are none. Between
        a request and its copy it is one: the copy of a bad request fails as well. Never more events than trials: the
        gateway's counters are read one after the other, under load.
        """
        answers = None if revision is None else revision.first if self.by_unit and not copies else revision
        if answers is None or (self.slo_ms is not None and self.slo_ms not in answers.over_slo):
            return 0, 0
        trials = answers.requests if copies else max(0, answers.requests - answers.request_faults)
        events = self._events(answers, copies=copies)
        return trials, min(events, trials)

    def _events(self, answers: Answers, *, copies: bool) -> int:
        if self.slo_ms is not None:
            return answers.over_slo[self.slo_ms]
        return answers.errors + (answers.request_faults if copies else 0)


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


def watched_metrics(manifest: RolloutManifest) -> tuple[ServingMetric, ...]:
    """What is tested on live counters. Where units are compared, each metric twice: what rolls back counts a unit once.

    All its answers together hold: they come sooner, and one unit can make any number of them.
    """
    metrics = serving_metrics(manifest)
    if manifest.experiment.unit == "request":
        return metrics
    once = tuple(replace(metric, by_unit=True) for metric in metrics)
    repeated = (replace(metric, name=metric.name + REPEATED, on_fail=OnFail.HOLD) for metric in metrics)
    return (*once, *repeated)


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
        grown[r.version] = together(grown[r.version], new) if r.version in grown else new
    return grown


def counts(
    metric: ServingMetric, grown: Mapping[str, RevisionCounters], *, canary: str, copies: bool = False
) -> Counts:
    """The interval's trials and events of both sides for one metric; a side that is not there has none.

    `copies`: the canary answers copies of what the other side is asked.
    """
    ours, theirs = grown.get(canary), beside(grown, canary)
    return Counts(*metric.counted(ours, copies=copies), *metric.counted(theirs, copies=copies))


def request_faults(grown: Mapping[str, RevisionCounters], *, canary: str) -> Counts:
    """The interval's requests of both sides, and those of them that neither side answered."""
    sides = (grown.get(canary), beside(grown, canary))
    ours, theirs = ((0, 0) if each is None else (each.requests, each.request_faults) for each in sides)
    return Counts(*ours, *theirs)


def beside(grown: Mapping[str, RevisionCounters], canary: str) -> RevisionCounters | None:
    """The other side: whatever else answered, by whichever name the registry knows it."""
    others = [revision for version, revision in grown.items() if version != canary]
    return reduce(together, others) if others else None


def _minus(now: RevisionCounters, before: RevisionCounters | None) -> RevisionCounters:
    return now if before is None else since(now, before)
