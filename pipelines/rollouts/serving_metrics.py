"""What the serving side counts of a rollout: the manifest's metrics, and which answers each of their tests is about."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import reduce
from typing import assert_never

from pipelines.core.manifest.model import Guardrail, Metric, RolloutManifest
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts, slow_answers
from pipelines.core.vocabulary import OnFail
from pipelines.rollouts.sections import Of
from resources.serving.contract import Answers, RevisionCounters, together

ERRORS = "serving.errors"

OVER_SLO = "serving.over_slo"

REPEATED = "-repeated"
"""Ends the name of a metric's evidence on all answers, where what rolls back counts each unit once."""


REQUEST_FAULTS = "request-faults"
"""What neither side answered: kept beside the metrics' counts, part of none. No metric can have this name."""


def is_shown(name: str) -> bool:
    """Whether the ledger's counts of this name are a metric's own, and not what one of its tests counts."""
    return not name.endswith((REPEATED, *(of for of in Of if of)))


@dataclass(frozen=True, kw_only=True)
class ServingMetric:
    """One metric that the serving side counts."""

    name: str
    """By which its counts are known."""
    source: str
    slo_ms: int | None
    on_fail: OnFail
    of: Of = Of.ANSWERS

    @property
    def plain(self) -> str:
        """By which its evidence is known."""
        return self.name.removesuffix(self.of)

    @property
    def by_unit(self) -> bool:
        """Each unit's first answer in some time, instead of all answers."""
        return self.of is not Of.ANSWERS

    def counted(self, revision: RevisionCounters | None, *, copies: bool = False) -> tuple[int, int]:
        """(trials, events) of the revision; nothing of either where it does not count this SLO, or units.

        What is wrong with the request is no trial: whoever sends much of it would thin out the errors that are none. Between
        a request and its copy it is one: the copy of a bad request fails as well. Never more events than trials: the
        gateway's counters are read one after the other, under load.
        """
        answers = None if revision is None else revision if copies else self._answers(revision)
        if answers is None or (self.slo_ms is not None and self.slo_ms not in answers.over_slo):
            return 0, 0
        trials = answers.requests if copies else max(0, answers.requests - answers.request_faults)
        events = self._events(answers, copies=copies)
        return trials, min(events, trials)

    def test(self) -> ConditionalBinomial:
        """Its test for harm, before anything is counted."""
        return ConditionalBinomial() if self.slo_ms is None else slow_answers()

    def _answers(self, revision: RevisionCounters) -> Answers | None:
        match self.of:
            case Of.ANSWERS:
                return revision
            case Of.FIRST | Of.BLOCK:
                return revision.first
            case Of.DISTINCT | Of.LATER:
                return revision.distinct
            case _:
                assert_never(self.of)

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
    """What is counted. Where units are compared, what rolls back counts a unit once in each test (`Of`).

    All its answers together hold: they come sooner, and one unit can make any number of them.
    """
    metrics = serving_metrics(manifest)
    if manifest.experiment.unit == "request":
        return metrics
    first = tuple(replace(metric, of=Of.FIRST) for metric in metrics)
    tested = (
        replace(metric, name=metric.name + of, of=of)
        for of in (Of.DISTINCT, Of.LATER, Of.BLOCK)
        for metric in metrics
    )
    repeated = (replace(metric, name=metric.name + REPEATED, on_fail=OnFail.HOLD) for metric in metrics)
    return (*first, *tested, *repeated)


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


def of_the_share(new: Counts, percent: float) -> Counts:
    """Of an interval within which the share was taken away, at most what was answered beside it.

    When it was taken away no counter says, and versions that are compared over different times prove nothing. So the other side
    has as many answers as belong to the canary's, and all its events are taken to be among them: no harm is found that
    was none, and some may be missed that is found once the share is back.
    """
    if not 0 < percent < 100:
        return new
    trials = min(new.champion_trials, round(new.canary_trials * (100 - percent) / percent))
    return new._replace(champion_trials=trials, champion_events=min(new.champion_events, trials))
