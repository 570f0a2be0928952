"""The live counters of one rehearsed rollout, and the tests on them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.core.rollout.doubt import doubt_evidence
from pipelines.core.rollout.policy import LIVE_DOUBT
from pipelines.core.statistics.binomial import Counts
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.sections import LOG_DISTINCT
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.history import is_served
from pipelines.experiments.rehearsal_stage import RehearsalStage, Scene
from pipelines.rollouts.guardrails import DOUBT_LASTS, HOLD_LASTS, UNITS_THAT_FAIL
from pipelines.rollouts.harm_budget import harm_budget
from pipelines.rollouts.sections import Of
from pipelines.rollouts.serving_metrics import REPEATED, ServingMetric, watched_metrics

_SECOND = timedelta(seconds=1)


class Crossing(NamedTuple):
    """Harm that the live counters found."""

    tick: int
    evidence: tuple[Evidence, ...]


class RehearsedCounters:
    """The live counters' tests of one rollout, tick by tick: what `GuardrailWatch` does with what it reads.

    Where units are compared, each one's first answer in the rollout is tested. Blocks of time and gateways that start later
    are not played.
    """

    def __init__(self, stage: RehearsalStage, scene: Scene) -> None:
        self._manifest, self._scene = stage.manifest, scene
        self.metrics = [m for m in watched_metrics(stage.manifest) if m.of in (Of.ANSWERS, Of.DISTINCT)]
        served = [metric.name for metric in stage.metrics if is_served(metric)]
        self._columns = {m.name: 1 + served.index(m.plain.removesuffix(REPEATED)) for m in self.metrics}
        self.holds: dict[str, Evidence] = {}
        self.begin(baking=False)

    def begin(self, *, baking: bool) -> None:
        """The ramp, or the bake: each has a part of the error budget of its own."""
        self._budget = harm_budget(self._manifest, baking=baking, live=True)
        self._processes = {metric.name: metric.test() for metric in self.metrics}
        self._failed = dict.fromkeys(self._processes, 0.0)

    def seal(self) -> None:
        """The share changes."""
        self._processes = {name: process.sealed() for name, process in self._processes.items()}

    def take(self, canary: Array, champion: Array, first: int, last: int) -> Crossing | None:
        """The ticks from `first` up to `last`; where harm is found it ends there."""
        for tick in range(first, last):
            for metric in self.metrics:
                self._observe(metric, canary[tick], champion[tick], tick)
            if found := self._harm(tick):
                return Crossing(tick, found)
        return None

    def _observe(self, metric: ServingMetric, canary: Array, champion: Array, tick: int) -> None:
        side, column = int(metric.by_unit), self._columns[metric.name]
        counts = Counts(canary[side, 0], canary[side, column], champion[side, 0], champion[side, column])
        length = float(self._scene.edges[tick + 1] - self._scene.edges[tick])
        self._processes[metric.name] = self._processes[metric.name].observe(counts, seconds=length)
        self._failed[metric.name] += counts.canary_events

    def _log_e(self, metric: ServingMetric) -> float:
        part = LOG_DISTINCT if metric.of is Of.DISTINCT else 0.0
        return self._processes[metric.name].log_e + part

    def _harm(self, tick: int) -> tuple[Evidence, ...]:
        log_e = {m.name: self._log_e(m) for m in self.metrics if m.on_fail is not OnFail.WARN}
        rolling = {m.name: log_e[m.name] for m in self.metrics if m.on_fail is OnFail.ROLL_BACK}
        together = set(self._budget.harmful(rolling))
        found = list[Evidence]()
        for metric in self.metrics:
            crossed = metric.name in together or (
                metric.on_fail is OnFail.HOLD and self._budget.is_harm(log_e[metric.name])
            )
            if not crossed:
                continue
            evidence = self._evidence(metric, tick, log_e[metric.name])
            if metric.on_fail is OnFail.ROLL_BACK and self._many_units(metric):
                found.append(evidence)
            elif metric.on_fail is OnFail.ROLL_BACK:
                # What too few units could have caused holds under another name: a look may still take it back.
                self._held(replace(evidence, name=metric.plain + REPEATED))
            else:
                self._held(evidence)
            if metric.name.endswith(REPEATED):
                self._processes[metric.name] = metric.test()
        return tuple(found)

    def _held(self, evidence: Evidence) -> None:
        self.holds[evidence.name] = replace(evidence, on_fail=OnFail.HOLD, valid_for=HOLD_LASTS)

    def _many_units(self, metric: ServingMetric) -> bool:
        return not metric.by_unit or self._failed[metric.name] >= UNITS_THAT_FAIL

    def _evidence(self, metric: ServingMetric, tick: int, log_e: float) -> Evidence:
        return Evidence(
            name=metric.plain,
            source="serving",
            verdict=Verdict.FAIL,
            reason=f"e-value {math.exp(min(log_e, 700)):.3g}",
            at=self.at(tick),
            on_fail=metric.on_fail,
        )

    def at(self, tick: int) -> datetime:
        """The end of a tick."""
        return self._scene.begins + timedelta(seconds=float(self._scene.edges[tick + 1]))

    def said(self, now: datetime) -> Iterator[Evidence]:
        """What holds, and what casts doubt."""
        yield from (each for each in self.holds.values() if now - each.at < HOLD_LASTS)
        asked = (m for m in self.metrics if m.on_fail is not OnFail.WARN and not m.name.endswith(REPEATED))
        known = {m.plain: self._log_e(m) for m in asked}
        below = self._manifest.experiment.advance_below
        yield doubt_evidence(LIVE_DOUBT, known, below, source="serving", at=now, valid_for=DOUBT_LASTS)
