"""Watches one rollout's serving counters: an e-process per guardrail, kept in the ledger as it goes.

The watermark (the last counters read) and the buckets made of them are written in one transaction, so that a
watcher that dies loses nothing: the next one's first bucket spans the gap.
"""

import json
import math
from datetime import datetime, timedelta

from pydantic import TypeAdapter

from pipelines.manifest.model import OnFail, RolloutManifest
from pipelines.rollout.evidence import Evidence, Verdict
from pipelines.rollout.policy import CHAMPION_HEALTH
from pipelines.rollout.state import RolloutState
from pipelines.statistics.binomial import ConditionalBinomial, Counts
from resources.guardrails.counting import (
    ERRORS,
    ServingMetric,
    beside,
    counts,
    difference,
    harm_tests,
    serving_metrics,
)
from resources.ledger import CounterBucket, CounterStore, Seen
from resources.serving.backend import Counters

UNHEALTHY_SHARE = 0.5
"""Share of the champion's answers that are faults, from which it must not be given the traffic back. Other errors
do not count: a flood of bad requests fails on both sides, and must not keep a bad canary in traffic."""
UNHEALTHY_MIN_REQUESTS = 20
ALONE_MIN_REQUESTS = 50
"""Answers of a canary beside which nobody answers, from which failing `UNHEALTHY_SHARE` of them is harm."""
HEALTH_WINDOW = timedelta(seconds=30)
BUCKETS_PER_AGE = 5000
_COUNTERS = TypeAdapter(Counters)


def harm_boundary(manifest: RolloutManifest) -> float:
    """ln(m / alpha): one error budget over all tests for harm of the rollout."""
    return math.log(harm_tests(manifest) / manifest.experiment.alpha)


class GuardrailWatch:
    """The state of one watcher; `observe` takes counters in, `evidence` says what they amount to."""

    def __init__(
        self, *, store: CounterStore, manifest: RolloutManifest, state: RolloutState, save_every: timedelta
    ) -> None:
        self._store, self._key, self._save_every = store, f"watch:{state.rollout_id}", save_every
        self.metrics = serving_metrics(manifest)
        self.boundary = harm_boundary(manifest)
        self._state = state
        self._seen: Seen | None = store.seen(self._key)
        self._last = None if self._seen is None else _watermark(self._seen.value)
        self._saved_at = datetime.min.replace(tzinfo=state.started_at.tzinfo)
        self._unsaved: dict[str, Counts] = {}
        self._health: list[tuple[datetime, int, int]] = []
        self.processes = {metric.name: ConditionalBinomial() for metric in self.metrics}
        self.totals = {metric.name: Counts() for metric in self.metrics}
        for bucket in store.buckets(state.rollout_id):
            self._take(bucket.metric, _counts_of(bucket))

    def follow(self, state: RolloutState) -> None:
        """The rollout has moved on: close the buckets of the old traffic share."""
        if (state.step, state.percent) != (self._state.step, self._state.percent):
            self.processes = {name: process.sealed() for name, process in self.processes.items()}
            if self._last is not None:
                self._save(self._last)
        self._state = state

    def observe(self, counters: Counters) -> None:
        """Take in cumulative counters; `save_if_due` writes them down.

        The other side is whatever answers beside the canary: a champion that was deleted or renamed in the registry, or
        replaced by hand, is no less of a comparison.
        """
        grown = difference(self._last, counters)
        for metric in self.metrics:
            new = counts(metric, grown, canary=self._state.version)
            self._take(metric.name, new)
            self._unsaved[metric.name] = self._unsaved.get(metric.name, Counts()).plus(new)
        champion = beside(grown, self._state.version)
        if champion is not None:
            self._health.append((counters.at, champion.requests, champion.faults))
        self._health = [entry for entry in self._health if counters.at - entry[0] <= HEALTH_WINDOW]
        self._last = counters

    def save_if_due(self) -> None:
        """`save`, unless that was less than `save_every` ago, or a small part of the rollout's age.

        The counters are cumulative, so that saving seldom loses nothing; a rollout of weeks has some ten thousand
        buckets in the ledger instead of a million.
        """
        if self._last is None:
            return
        wait = max(self._save_every, (self._last.at - self._state.started_at) / BUCKETS_PER_AGE)
        if self._last.at - self._saved_at >= wait:
            self._save(self._last)

    def save(self) -> None:
        """Write what has not been written. Raises LedgerConflict when another watcher has taken over."""
        if self._last is not None:
            self._save(self._last)

    def evidence(self, now: datetime) -> tuple[Evidence, ...]:
        """One piece of evidence for each guardrail that fails, and the champion's health if it is bad."""
        failing = [m for m in self.metrics if self.processes[m.name].log_e >= self.boundary]
        alone = [m for m in self.metrics if m not in failing and self._fails_alone(m)]
        return (*(self._harm(metric, now) for metric in (*failing, *alone)), *self._champion_health(now))

    def _fails_alone(self, metric: ServingMetric) -> bool:
        """A canary that fails most of its answers beside nobody: there is nothing that it could be compared with."""
        total = self.totals[metric.name]
        enough = total.canary_trials >= ALONE_MIN_REQUESTS and total.champion_trials == 0
        return (
            enough
            and metric.source == ERRORS
            and total.canary_events >= UNHEALTHY_SHARE * total.canary_trials
        )

    def _harm(self, metric: ServingMetric, now: datetime) -> Evidence:
        total, log_e = self.totals[metric.name], self.processes[metric.name].log_e
        return Evidence(
            name=metric.name,
            source="serving",
            verdict=Verdict.FAIL,
            reason=(
                f"{total.canary_events:.0f} of {total.canary_trials:.0f} answers at the canary against"
                f" {total.champion_events:.0f} of {total.champion_trials:.0f} at the champion"
                f" (e-value {math.exp(min(log_e, 700)):.3g}, boundary {math.exp(self.boundary):.3g})"
            ),
            at=now,
            on_fail=metric.on_fail,
            values={**total._asdict(), "log_e": log_e, "boundary": self.boundary},
        )

    def _champion_health(self, now: datetime) -> tuple[Evidence, ...]:
        requests, faults = sum(e[1] for e in self._health), sum(e[2] for e in self._health)
        if requests < UNHEALTHY_MIN_REQUESTS or faults < UNHEALTHY_SHARE * requests:
            return ()
        return (
            Evidence(
                name=CHAMPION_HEALTH,
                source="serving",
                verdict=Verdict.FAIL,
                reason=f"the champion could not give {faults} of its last {requests} answers",
                at=now,
                on_fail=OnFail.HOLD,
                valid_for=HEALTH_WINDOW * 2,
                values={"requests": requests, "faults": faults},
            ),
        )

    def _take(self, metric: str, new: Counts) -> None:
        if metric in self.processes and new.trials:
            self.processes[metric] = self.processes[metric].observe(new)
            self.totals[metric] = self.totals[metric].plus(new)

    def _save(self, counters: Counters) -> None:
        buckets = [
            CounterBucket(
                rollout_id=self._state.rollout_id,
                epoch=counters.epoch,
                at=counters.at,
                step=self._state.step,
                metric=name,
                **new._asdict(),
            )
            for name, new in self._unsaved.items()
            if new.trials
        ]
        value = _COUNTERS.dump_json(counters).decode()
        self._seen = self._store.append(buckets, key=self._key, value=value, after=self._seen)
        self._unsaved, self._saved_at = {}, counters.at


def _watermark(value: str) -> Counters | None:
    """The counters last read; None for those of a release that counted fewer kinds of errors.

    Their difference to what is counted now would be all the bad requests of a rollout at once.
    """
    if any("faults" not in revision for revision in json.loads(value)["revisions"]):
        return None
    return _COUNTERS.validate_json(value)


def _counts_of(bucket: CounterBucket) -> Counts:
    return Counts(bucket.canary_trials, bucket.canary_events, bucket.champion_trials, bucket.champion_events)
