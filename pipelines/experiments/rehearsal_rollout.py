"""One rehearsed rollout, from its first share to its end: looks, counters and rules are those of a rollout."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Decided,
    Decision,
    DecisionKind,
    Done,
    Intent,
    Started,
)
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.fold import step as folded
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics.effects import Cell, Sums
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.analysing import analyse_next
from pipelines.experiments.evidence import look_evidence, staleness
from pipelines.experiments.floors import Floor, window_floors
from pipelines.experiments.history import horizon, is_served
from pipelines.experiments.look_inputs import ends_at, look_spec
from pipelines.experiments.rehearsal_counters import Crossing, RehearsedCounters
from pipelines.experiments.rehearsal_draws import BothSides, Draws, InjectedHarm, baked_percent, shares_of
from pipelines.experiments.rehearsal_stage import RehearsalStage, Scene
from resources.lake.champion_history import every_sum

_OLDER = 6
"""A look when the step is so many parts older."""

_SECOND = timedelta(seconds=1)


class Rehearsed(NamedTuple):
    """What became of one rollout."""

    end: str
    """`promoted`, `rolled_back`, `undone` (rolled back in the bake), `inconclusive`, or the rule that ended it."""
    seconds: float
    """Until the end or, promoted, until the promotion."""
    because: tuple[str, ...]
    """The evidence that ended it, or was in the way to the last."""
    held: frozenset[str]
    """What it ever held for."""
    hit: float
    """Units (of live counters, answers) that were harmed until then."""
    live: bool = False
    """Found on the live counters."""

    @property
    def found(self) -> bool:
        """Whether it was taken back for harm."""
        return self.end in ("rolled_back", "undone")


class _Step(NamedTuple):
    """A share in force."""

    bucket: int
    """From this one on."""
    percent: float
    number: int
    """As `step_windows` numbers them."""


@dataclass(eq=False)
class _Series:
    """Looks that belong together: of the ramp, or of the bake."""

    baking: bool
    cells: list[Cell] = field(default_factory=list[Cell])
    looks: list[Look] = field(default_factory=list[Look])
    had_final: bool = False


class RehearsedRollout:
    """One rollout on one scene."""

    def __init__(
        self,
        stage: RehearsalStage,
        scene: Scene,
        policy: Policy,
        draws: Draws,
        row: int,
        harm: InjectedHarm | None,
    ) -> None:
        self._stage, self._scene, self._draws, self._row, self._harm = stage, scene, draws, row, harm
        self._live, self._series = RehearsedCounters(stage, scene), _Series(baking=False)
        self._width = stage.width / _SECOND
        self._ticks = np.round(scene.edges / self._width, 9)
        self._final = [0] * len(stage.metrics)
        self._lags = [math.ceil(round(horizon(stage.manifest, m) / stage.width, 9)) for m in stage.metrics]
        self._steps: list[_Step] = []
        self._held: set[str] = set()
        self._promoted: float | None = None
        self._tick = 0
        first, begins = shares_of(policy)[0], scene.begins
        deployed = self._act(_started(stage, policy, begins), Action.DEPLOY, None, None, begins)
        self._state = self._act(deployed, Action.SET_PERCENT, 0, first, begins)
        self._enter(first, 0)

    def played(self) -> Rehearsed:
        """From the first share to the end."""
        last = len(self._scene.edges) - 1
        while self._tick < last:
            until = self._next_look()
            if (crossing := self._watch(until)) is not None:
                decision = decide(self._state, crossing.evidence, self._live.at(crossing.tick))
                if decision.kind is DecisionKind.ROLL_BACK:
                    return self._ended(decision, crossing.tick + 1, live=True)
                self._hold(decision)
            self._tick = until
            decision = self._look(is_last=until >= last)
            if decision.kind is DecisionKind.ROLL_BACK or decision.rule == "baked":
                return self._ended(decision, until)
            self._follow(decision)
            if self._state.phase is Phase.ENDED:
                break
        return self._ended(None, self._tick)

    # What comes next.

    def _next_look(self) -> int:
        """The tick until which nothing is looked at."""
        now, state = self._scene.edges[self._tick], self._state
        since = (state.since - self._scene.begins) / _SECOND
        every = max(self._stage.manifest.experiment.look_every / _SECOND, self._width, (now - since) / _OLDER)
        dues = [now + every]
        floors = [
            state.policy.min_duration,
            *(timedelta(days=f.days) for f in self._floors.values() if math.isfinite(f.days)),
        ]
        dues += [since + floor / _SECOND for floor in floors]
        dues.append((ends_at(state) - self._scene.begins) / _SECOND)
        due = min(each for each in dues if each > now + 1e-6)
        whole = self._looked_at
        return int(whole[min(np.searchsorted(self._scene.edges[whole], due - 1e-6), len(whole) - 1)])

    @cached_property
    def _looked_at(self) -> npt.NDArray[np.int64]:
        """Ticks that begin with a bucket of units."""
        whole = np.flatnonzero(np.abs(self._ticks - np.round(self._ticks)) < 1e-6).astype(np.int64)
        return whole[whole > 0]

    @property
    def _share(self) -> BothSides:
        return self._draws.shares[self._steps[-1].percent]

    def _watch(self, until: int) -> Crossing | None:
        if not self._live.metrics:
            return None
        champion, challenger = (side.answers[self._row] for side in self._share)
        return self._live.take(challenger, champion, self._tick, until)

    # One look.

    def _look(self, *, is_last: bool) -> Decision:
        now, bucket = self._now(self._tick), round(float(self._ticks[self._tick]))
        look = self._analysed(
            bucket, is_final=is_last or self._now(self._next_look()) >= ends_at(self._state)
        )
        evidence = (
            *look_evidence(self._stage.manifest, self._state, look, at=now),
            *self._live.said(now),
            *self._windows(now),
        )
        return decide(self._state, evidence, now)

    def _now(self, tick: int) -> datetime:
        return self._scene.begins + timedelta(seconds=float(self._scene.edges[tick]))

    def _analysed(self, bucket: int, *, is_final: bool) -> Look:
        stage, series = self._stage, self._series
        series.cells += self._newly_final(bucket)
        final = is_final and not series.had_final
        series.had_final |= final
        shares = {step.number: step.percent / 100 for step in self._steps}
        asked = look_spec(stage.manifest, shares, self._scene.constants, is_final=final, baking=series.baking)
        spec = replace(asked, metrics=tuple(replace(each, is_coarse=True) for each in asked.metrics))
        look = analyse_next(
            series.cells,
            spec,
            self._units(bucket),
            past=series.looks,
            planned_looks={c.spec.name: c.looks for c in self._scene.constants if c.looks is not None},
            is_last_step=self._state.step + 1 >= len(self._state.policy.ramp),
        )
        series.looks.append(look)
        return look

    def _newly_final(self, bucket: int) -> Iterator[Cell]:
        """Of each metric what became final since the last look, step by step."""
        for at in range(len(self._final)):
            begin, end = self._final[at], max(bucket - self._lags[at], self._final[at])
            self._final[at] = end
            for step, first, last in self._spans(begin, end):
                yield self._cell(at, step, first, last)

    def _spans(self, begin: int, end: int) -> Iterator[tuple[_Step, int, int]]:
        """The buckets of each step in between."""
        following = [step.bucket for step in self._steps[1:]] + [end]
        for step, until in zip(self._steps, following, strict=True):
            first, last = max(begin, step.bucket), min(end, until)
            if first < last:
                yield step, first, last

    def _cell(self, at: int, step: _Step, first: int, last: int) -> Cell:
        sides, query = self._draws.shares[step.percent], self._stage.queries[at]
        champion, challenger = (
            side.sums[at][self._row, last] - side.sums[at][self._row, first] for side in sides
        )
        return Cell(
            metric=query.name,
            step=step.number,
            bucket=self._scene.begins.timestamp() + first * self._width,
            champion=Sums(*every_sum(query, champion).tolist()),
            challenger=Sums(*every_sum(query, challenger).tolist()),
            reference=self._scene.constants[at].reference,
            champion_lost=float(champion[-1]),
            challenger_lost=float(challenger[-1]),
        )

    def _units(self, bucket: int) -> list[StepUnits]:
        found = list[StepUnits]()
        for step, first, last in self._spans(0, bucket):
            sides = self._draws.shares[step.percent]
            zero, one = (side.units[self._row, last] - side.units[self._row, first] for side in sides)
            drawn = (float(zero[1]), float(one[1]))
            found.append(StepUnits(step.number, float(zero[0]), float(one[0]), step.percent / 100, *drawn))
        return found

    def _windows(self, now: datetime) -> Iterator[Evidence]:
        """Data checks and drift find nothing between two equal versions; what a step waits for is their rows."""
        for name, floor in self._floors.items():
            over = now - self._state.since >= timedelta(days=min(floor.days, 1e6))
            yield Evidence(
                name=name,
                source=name,
                verdict=Verdict.PASS if over else Verdict.UNKNOWN,
                reason=floor.because,
                at=now,
                pending=not over,
                valid_for=staleness(self._stage.manifest),
            )

    # What follows.

    def _enter(self, percent: float, bucket: int) -> None:
        """A share comes into force."""
        stage = self._stage
        self._steps.append(_Step(bucket, percent, len(self._steps)))
        self._floors: dict[str, Floor] = {}
        if not self._series.baking:
            checks, drift = window_floors(stage.manifest, stage.expected, percent / 100)
            warns = stage.manifest.drift.on_fail is OnFail.WARN
            self._floors = {"data_quality": checks} | ({} if warns else {"drift_canary": drift})

    def _follow(self, decision: Decision) -> None:
        now, bucket = self._now(self._tick), round(float(self._ticks[self._tick]))
        self._hold(decision)
        state = folded(self._state, _decided(self._state, decision, now))
        if decision.kind is DecisionKind.ADVANCE and decision.percent is not None:
            self._live.seal()
            self._state = self._act(state, Action.SET_PERCENT, decision.step, decision.percent, now)
            self._enter(decision.percent, bucket)
        elif decision.kind is DecisionKind.PROMOTE:
            self._promoted = float(self._scene.edges[self._tick])
            self._promote(state, now, bucket)
        else:
            self._state = state

    def _promote(self, state: RolloutState, now: datetime, bucket: int) -> None:
        if not state.bakes:
            self._state = replace(state, phase=Phase.ENDED)
            return
        percent = baked_percent(state.policy)
        self._live.seal()
        self._live.begin(baking=True)
        self._series = _Series(baking=True)
        self._state = self._act(state, Action.BAKE, None, percent, now)
        self._enter(percent, bucket)

    def _act(
        self, state: RolloutState, action: Action, step: int | None, percent: float | None, at: datetime
    ) -> RolloutState:
        """An intent and that it is done."""
        name, seq = f"{action}-{state.seq}", state.seq
        intent = Intent(
            rollout_id=state.rollout_id, seq=seq + 1, at=at, by=_BY, action_id=name, action=action, percent=percent,
            step=step,
        )  # fmt: skip
        done = Done(rollout_id=state.rollout_id, seq=seq + 2, at=at, by=_BY, action_id=name)
        return folded(folded(state, intent), done)

    def _hold(self, decision: Decision) -> None:
        if decision.kind is DecisionKind.HOLD:
            by_evidence = decision.rule in ("failed_check", "unknown")
            self._held |= set(decision.evidence) if by_evidence else {decision.rule}

    def _ended(self, decision: Decision | None, tick: int, *, live: bool = False) -> Rehearsed:
        self._held |= set(self._live.holds)
        seconds = float(self._scene.edges[tick])
        baked = self._promoted is not None
        rule = "inconclusive" if decision is None else decision.rule
        end = ("undone" if baked else "rolled_back") if rule == "harm" else rule
        if baked and end != "undone":
            end, seconds = "promoted", self._promoted or 0.0
        because = decision.evidence if decision is not None else ()
        return Rehearsed(end, seconds, because, frozenset(self._held), self._hit(tick), live)

    def _hit(self, tick: int) -> float:
        harm = self._harm
        if harm is None:
            return 0.0
        metric = next(each for each in self._stage.metrics if each.name == harm.metric)
        if is_served(metric):
            served = [m.name for m in self._stage.metrics if is_served(m)]
            return self._answers_hit(1 + served.index(harm.metric), tick)
        units = sum(each.challenger for each in self._units(math.floor(self._ticks[tick] + 1e-9)))
        return units * (harm.level if metric.type.is_share else 1.0)

    def _answers_hit(self, column: int, tick: int) -> float:
        """Events that would not have been there."""
        found = 0.0
        begins = [int(np.searchsorted(self._ticks, step.bucket - 1e-9)) for step in self._steps]
        for step, first, last in zip(self._steps, begins, [*begins[1:], tick], strict=True):
            champion, challenger = (
                each.answers[self._row, first:last, 0, column] for each in self._draws.shares[step.percent]
            )
            found += float((challenger + champion - self._draws.every[first:last, 0, column]).sum())
        return found


_BY = "rehearsal"


def _started(stage: RehearsalStage, policy: Policy, at: datetime) -> RolloutState:
    return fold(
        [
            Started(
                rollout_id=_BY, seq=1, at=at, by=_BY, model=stage.manifest.model, version=f"{stage.champion}-again",
                champion=stage.champion, artefact=Artefact(uri="", digest=""), salt="", policy=policy, manifest_digest="",
            )
        ]
    )  # fmt: skip


def _decided(state: RolloutState, decision: Decision, at: datetime) -> Decided:
    return Decided(rollout_id=state.rollout_id, seq=state.seq + 1, at=at, by=_BY, decision=decision)
