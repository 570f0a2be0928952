"""The fast guardrails: one rollout's serving counters, judged several times a second, with an e-process for each.

The watermark (the last counters read) and the buckets made of them are written in one transaction, so that a watcher that dies
loses nothing: the next one's first bucket spans the gap.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import assert_never

from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.doubt import doubt_evidence
from pipelines.core.rollout.policy import CHAMPION_HEALTH, LIVE_DOUBT
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics.binomial import Counts
from pipelines.core.statistics.look_spec import log_sum
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.rollouts.counting import (
    FailedUnits,
    Growth,
    Watermark,
    by_version,
    certainly_failed,
    failed_units,
    first_watermark,
    growth,
    proven_by,
    read_watermark,
    still_proven,
    written,
)
from pipelines.rollouts.harm_budget import harm_budget
from pipelines.rollouts.sections import SECTIONS, Of, Sections
from pipelines.rollouts.serving_metrics import (
    ERRORS,
    REPEATED,
    REQUEST_FAULTS,
    ServingMetric,
    beside,
    counts,
    of_the_share,
    request_faults,
    watched_metrics,
)
from resources.ledger.counters import CounterBucket, CounterStore, SeenCounters
from resources.serving.contract import UNITS_REMEMBERED, Counters, RevisionCounters

UNHEALTHY_SHARE = 0.5
"""Share of the champion's answers that are faults, from which it must not be given the traffic back. Other errors
do not count: a flood of bad requests fails on both sides, and must not keep a bad canary in traffic."""

UNHEALTHY_MIN_REQUESTS = 20

ALONE_MIN_REQUESTS = 50
"""Answers of a canary beside which nobody answers, from which failing `UNHEALTHY_SHARE` of them is harm."""

UNITS_THAT_FAIL = 3
"""Units that a canary must have failed before it is rolled back for it, where units are compared: within a window, or new ones."""

HOLD_LASTS = timedelta(minutes=10)

DOUBT_LASTS = timedelta(minutes=3)
"""It is said again every minute, and written down again when it is half as old."""

HEALTH_WINDOW = timedelta(seconds=30)

BUCKETS_PER_AGE = 5000


class GuardrailWatch:
    """The state of one watcher; `observe` takes counters in, `evidence` says what they amount to."""

    def __init__(
        self, *, store: CounterStore, manifest: RolloutManifest, state: RolloutState, save_every: timedelta
    ) -> None:
        self._store, self._key, self._save_every = store, f"watch:{state.rollout_id}", save_every
        self.metrics = watched_metrics(manifest)
        self._by_unit = manifest.experiment.unit != "request"
        self._manifest = manifest
        self._state = state
        self._seen: SeenCounters | None = store.seen(self._key)
        self._last = None if self._seen is None else read_watermark(self._seen.value)
        self._saved_at = datetime.min.replace(tzinfo=state.started_at.tzinfo)
        self._unsaved: dict[str, Counts] = {}
        self._health: list[tuple[datetime, int, int]] = []
        self.unread: tuple[str, ...] = ()
        """Why gateways are missing in what was observed last."""
        self._begin(state)
        buckets = store.buckets(state.rollout_id)
        self._failed_units: list[FailedUnits] = self._proven_by(buckets)
        self._take_again(buckets)

    def _take_again(self, buckets: Sequence[CounterBucket]) -> None:
        """What an earlier watch has counted, of the part of the rollout that goes on."""
        step, begun = None, self._state.started_at
        for at, group in groupby(buckets, key=lambda each: each.at):
            for bucket in filter(self._goes_on, group):
                if step is not None and bucket.step != step:
                    self._seal()
                step = bucket.step
                self._take(bucket.metric, _counts_of(bucket), at - begun)
            begun = at

    def _goes_on(self, bucket: CounterBucket) -> bool:
        """Whether it belongs to the ramp or the bake that is under way, and to no section that is over."""
        bake, newest = self._state.bake_exposure, None if self._last is None else self._last.newest
        is_over = newest is not None and bucket.metric.endswith(Of.LATER) and bucket.at <= newest
        return (bake is None or bucket.step >= bake) and not is_over

    def _begin(self, state: RolloutState) -> None:
        """The ramp, or the bake: nothing is counted yet, and each has a part of the error budget of its own."""
        self._budget = harm_budget(self._manifest, baking=state.promotion is not None, live=True)
        self.processes = {m.name: m.test() for m in self.metrics if m.of is not Of.FIRST}
        self.totals = {name: Counts() for name in (*(m.name for m in self.metrics), REQUEST_FAULTS)}
        self._sections = Sections(self._last)
        self._repeated: dict[str, Evidence] = {}

    @property
    def boundary(self) -> float:
        """ln of what the guardrails' e-values must add up to."""
        return self._budget.log_boundary

    def _seal(self) -> None:
        self.processes = {name: process.sealed() for name, process in self.processes.items()}

    def remember(self, overtaken: "GuardrailWatch") -> None:
        """What no bucket tells, of a watch over the same rollout whose counters another process has written down.

        Up to what that one has counted: the rest is in the difference to it, and is seen again.
        """
        if self._last is None or overtaken._key != self._key:
            return
        self._health = [each for each in overtaken._health if each[0] <= self._last.at]
        self._repeated = dict(overtaken._repeated)

    def follow(self, state: RolloutState) -> None:
        """The rollout has moved on: close the buckets of the old traffic share."""
        before = self._state
        if (state.exposure, state.percent) != (before.exposure, before.percent):
            self._seal()
            self._failed_units = []  # the gateways count every unit anew
            if self._last is not None:
                self._last = self._last.under_another_share()
                self._save(self._last)
        if before.promotion is None and state.promotion is not None:
            self._begin(state)
        self._state = state

    def observe(self, counters: Counters, *, lapsed: bool = False) -> None:
        """Take in cumulative counters, of the gateways that could be read; `save_if_due` writes them down.

        `lapsed`: the share may have been taken away since they were read last.

        The other side is whatever answers beside the canary: a champion that was deleted or renamed in the registry, or
        replaced by hand, is no less of a comparison.
        """
        stretches, canary = growth(self._last, counters), self._state.version
        mark = first_watermark(counters) if self._last is None else self._last.moved(counters)
        copies = self._state.phase is Phase.SHADOW
        for of in self._sections.enter(mark, self._state):
            self._begin_anew(of)
        everything = by_version(stretches)
        grown = {
            of: by_version(self._sections.countable(of, stretches, self._state))
            for of in {metric.of for metric in self.metrics if metric.of in SECTIONS}
        }
        share = self._share_before() if lapsed or self._has_lapsed_since() else None
        self._failed_units = still_proven(self._failed_units, counters.at)
        took = timedelta(0) if self._last is None else counters.at - self._last.at
        for metric in self.metrics:
            if not self._knows_all(metric):
                continue
            new = self._compared(
                counts(metric, grown.get(metric.of, everything), canary=canary, copies=copies)
            )
            self._count(metric.name, new if share is None else of_the_share(new, share), took)
            if metric.of is Of.FIRST:
                self._note_units(metric, stretches)
        self._count(REQUEST_FAULTS, request_faults(everything, canary=canary), took)
        self._note_health(everything, counters.at)
        self._note_repeated(counters.at)
        self._last = mark
        self.unread = counters.unread

    def _has_lapsed_since(self) -> bool:
        gone = self._state.lapsed
        return gone is not None and self._last is not None and self._last.at <= gone.taken_at

    def _share_before(self) -> float:
        """In percent; of a copy of all traffic there are as many answers as of the other side."""
        gone = self._state.lapsed
        if self._state.mirror or (gone is not None and gone.mirror):
            return 50.0
        return self._state.percent if gone is None else gone.percent

    def _compared(self, new: Counts) -> Counts:
        """At 100 % the canary is judged alone: whoever still reaches the other side got there by chance."""
        alone = self._state.percent >= 100
        return new._replace(champion_trials=0.0, champion_events=0.0) if alone else new

    def _begin_anew(self, of: Of) -> None:
        for metric in (each for each in self.metrics if each.of is of):
            self.processes[metric.name], self.totals[metric.name] = metric.test(), Counts()
            self._unsaved.pop(metric.name, None)

    def _knows_all(self, metric: ServingMetric) -> bool:
        """Whether no gateway can have forgotten one of the units that count once in the section.

        In a block a gateway has those to remember as well that asked shortly before it.
        """
        match metric.of:
            case Of.ANSWERS | Of.FIRST:
                return True
            case Of.DISTINCT | Of.LATER:
                return self.totals[metric.name].trials < UNITS_REMEMBERED
            case Of.BLOCK:
                return self.totals[metric.name].trials < UNITS_REMEMBERED / 2
            case _:
                assert_never(metric.of)

    def _count(self, name: str, new: Counts, took: timedelta) -> None:
        self._take(name, new, took)
        if not name.endswith(Of.BLOCK):
            self._unsaved[name] = self._unsaved.get(name, Counts()).plus(new)

    def _note_units(self, metric: ServingMetric, grown: Sequence[Growth]) -> None:
        """How many units the canary has failed for certain, gateway by gateway."""
        copies, canary = self._state.phase is Phase.SHADOW, self._state.version
        for stretch in grown:
            _, failed = metric.counted(by_version([stretch]).get(canary), copies=copies)
            self._failed_units += failed_units(metric.plain, failed, stretch)

    def _proven_by(self, buckets: Sequence[CounterBucket]) -> list[FailedUnits]:
        """What another watch had noted under this share, or somewhat less."""
        begin = self._state.weights[-1].at if self._state.weights else self._state.started_at
        names = {metric.name for metric in self.metrics if metric.of is Of.FIRST}
        mine = [each for each in buckets if each.step == self._state.exposure and each.at > begin]
        return [] if self._last is None else proven_by(mine, names, self._last, begin=begin)

    def _note_health(self, grown: Mapping[str, RevisionCounters], at: datetime) -> None:
        champion = beside(grown, self._state.version)
        answers = champion.first if champion and self._by_unit else champion
        if answers is not None:
            self._health.append((at, answers.requests, answers.faults))
        self._health = [entry for entry in self._health if abs(at - entry[0]) <= HEALTH_WINDOW]

    def _note_repeated(self, at: datetime) -> None:
        """All answers hold for a while when they cross, and are counted from there anew."""
        for metric in self.metrics:
            if metric.name.endswith(REPEATED) and self.processes[metric.name].log_e >= self.boundary:
                self._repeated[metric.name] = self._harm(metric, at)
                self.processes[metric.name] = metric.test()

    def save_if_due(self) -> None:
        """`save`, unless that was less than `save_every` ago, or a small part of the rollout's age.

        The counters are cumulative, so that saving seldom loses nothing; a rollout of weeks has some ten thousand
        buckets in the ledger instead of a million.
        """
        if self._last is None:
            return
        wait = max(self._save_every, (self._last.at - self._state.started_at) / BUCKETS_PER_AGE)
        since = self._last.at - self._saved_at
        if since >= wait or since < timedelta(0):
            self._save(self._last)

    def save(self) -> None:
        """Write what has not been written. Raises LedgerConflict when another watcher has taken over."""
        if self._last is not None:
            self._save(self._last)

    def evidence(self, now: datetime) -> tuple[Evidence, ...]:
        """One piece of evidence for each guardrail that fails, and the champion's health if it is bad.

        Where units are compared, what one unit's answers alone could have caused holds, and rolls nothing back.
        """
        together = self._crossed_together()
        failing = [m for m in self._tested if m.name in together or self._crosses(m)]
        failing.sort(key=self._log_e)  # of a metric's tests the strongest one speaks
        known = {m.plain for m in failing}
        alone = [m for m in self.metrics if m.plain not in known and self._fails_alone(m)]
        harm = [self._judged(self._harm(m, now, together), m) for m in (*failing, *alone)]
        repeated = (item for item in self._repeated.values() if abs(now - item.at) < HOLD_LASTS)
        holds = {item.name: item for item in (*repeated, *harm) if item.name.endswith(REPEATED)}
        rest = {item.name: item for item in harm if item.name not in holds}
        return (*rest.values(), *holds.values(), *self._champion_health(now))

    @property
    def _tested(self) -> list[ServingMetric]:
        return [metric for metric in self.metrics if metric.name in self.processes]

    def doubt(self, now: datetime) -> tuple[Evidence, ...]:
        """That a guardrail's evidence of harm is too strong to give the canary more; nothing where it is not."""
        asked = (m for m in self._tested if m.on_fail is not OnFail.WARN and not m.name.endswith(REPEATED))
        known: dict[str, float] = {}
        for metric in asked:
            known[metric.plain] = max(self._log_e(metric), known.get(metric.plain, -math.inf))
        below = self._manifest.experiment.advance_below
        said = doubt_evidence(LIVE_DOUBT, known, below, source="serving", at=now, valid_for=DOUBT_LASTS)
        return () if said.verdict is Verdict.PASS else (said,)

    def _log_e(self, metric: ServingMetric) -> float:
        """ln of the e-value times its section's part of the error, to be compared with the boundary."""
        process = self.processes.get(metric.name)
        return 0.0 if process is None else process.log_e + self._sections.log_weight(metric.of)

    def _crosses(self, metric: ServingMetric) -> bool:
        return self._log_e(metric) >= self.boundary

    def _crossed_together(self) -> Mapping[str, float]:
        """The metrics whose e-values together call for a rollback, each with ln of the sum of all that may.

        Together are those that count the same answers: what is fair by one count need not be fair given another.
        """
        crossed: dict[str, float] = {}
        for of in Of:
            mine = [m for m in self._tested if m.of is of and m.on_fail is OnFail.ROLL_BACK]
            found = {m.name: self._log_e(m) for m in mine}
            crossed |= dict.fromkeys(self._budget.harmful(found), log_sum(found.values()))
        return crossed

    def _judged(self, harm: Evidence, metric: ServingMetric) -> Evidence:
        units = certainly_failed(self._failed_units, metric.plain)
        if metric.of is Of.DISTINCT and self._last is not None:
            units = max(units, int(self.totals[metric.name].canary_events) // self._last.most)
        if not metric.by_unit or units >= UNITS_THAT_FAIL or self._state.phase is Phase.SHADOW:
            return harm
        few = f"{harm.reason}; of {units} units for certain, and a rollback needs {UNITS_THAT_FAIL}"
        return replace(
            harm, name=metric.plain + REPEATED, reason=few, on_fail=OnFail.HOLD, valid_for=HOLD_LASTS
        )

    def _fails_alone(self, metric: ServingMetric) -> bool:
        """A canary that fails most of its answers beside nobody: there is nothing that it could be compared with."""
        total = self.totals[metric.name]
        enough = total.canary_trials >= ALONE_MIN_REQUESTS and total.champion_trials == 0
        return (
            enough
            and metric.of in (Of.ANSWERS, Of.FIRST)
            and metric.source == ERRORS
            and total.canary_events >= UNHEALTHY_SHARE * total.canary_trials
        )

    def _harm(
        self, metric: ServingMetric, now: datetime, together: Mapping[str, float] | None = None
    ) -> Evidence:
        total, log_e = self.totals[metric.name], self._log_e(metric)
        summed = (together or {}).get(metric.name, log_e)
        others = f", {_e_value(summed)} with the others" if _e_value(summed) != _e_value(log_e) else ""
        nobody = self.totals[REQUEST_FAULTS]
        faults = nobody.canary_events + nobody.champion_events
        which = f", each a unit's first{self._sections.in_words(metric.of)}" if metric.by_unit else ""
        left_out = f"; left out: {faults:.0f} requests that neither side answered" if faults else ""
        return Evidence(
            name=metric.plain,
            source="serving",
            verdict=Verdict.FAIL,
            reason=(
                f"{total.canary_events:.0f} of {total.canary_trials:.0f} answers at the canary against"
                f" {total.champion_events:.0f} of {total.champion_trials:.0f} at the champion{which}"
                f" (e-value {_e_value(log_e)}{others}, boundary {math.exp(self.boundary):.3g}){left_out}"
            ),
            at=now,
            on_fail=metric.on_fail,
            valid_for=HOLD_LASTS if metric.name.endswith(REPEATED) else timedelta(hours=1),
            values={**total._asdict(), "log_e": log_e, "boundary": self.boundary, "request_faults": faults},
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

    def _take(self, metric: str, new: Counts, took: timedelta) -> None:
        if metric in self.processes:
            seconds = max(0.0, took.total_seconds())  # the clock may have been set back
            self.processes[metric] = self.processes[metric].observe(new, seconds=seconds)
        if metric in self.totals:
            self.totals[metric] = self.totals[metric].plus(new)

    def _save(self, upto: Watermark) -> None:
        buckets = [
            CounterBucket(
                rollout_id=self._state.rollout_id,
                epoch=upto.epoch,
                at=upto.at,
                step=self._state.exposure,
                metric=name,
                **new._asdict(),
            )
            for name, new in self._unsaved.items()
            if new.trials
        ]
        self._seen = self._store.append(buckets, key=self._key, value=written(upto), after=self._seen)
        self._unsaved, self._saved_at = {}, upto.at


def _e_value(log_e: float) -> str:
    return f"{math.exp(min(log_e, 700)):.3g}"


def _counts_of(bucket: CounterBucket) -> Counts:
    return Counts(bucket.canary_trials, bucket.canary_events, bucket.champion_trials, bucket.champion_events)
