"""A rehearsal: rollouts of this manifest on the champion's own last weeks, of the same version, and of one with harm put in.

A random choice of units takes the challenger's place. The looks, the live tests, the budgets and the rules are those of a rollout;
it is looked at when a step is an eighth older than at the look before, where a rollout looks every `look_every`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np

from pipelines.core.manifest.model import Better, Guardrail, Metric
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.doubt import doubt_evidence
from pipelines.core.rollout.events import (
    Action,
    Artefact,
    Decided,
    Decision,
    DecisionKind,
    Done,
    Event,
    Intent,
    Started,
)
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.fold import step as folded
from pipelines.core.rollout.policy import LIVE_DOUBT, Policy
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.core.statistics.effects import Cell, EffectKind, Sums
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.analysing import analyse_next
from pipelines.experiments.evidence import look_evidence, staleness
from pipelines.experiments.floors import Floor, window_floors
from pipelines.experiments.history import horizon, is_served
from pipelines.experiments.look_inputs import ends_at, look_spec
from pipelines.experiments.rehearsal_stage import Scene, Stage
from pipelines.rollouts.counting import WITHIN
from pipelines.rollouts.guardrails import (
    DOUBT_LASTS,
    HOLD_LASTS,
    REPEATED,
    UNITS_THAT_FAIL,
    ServingMetric,
    harm_budget,
    watched_metrics,
)
from resources.lake.champion_history import every_sum, kept_sums

SAME, HARMED = 50, 10
"""Rollouts of the same version, and of each harm."""

LEVELS = (0.01, 0.05, 0.2)

_SEED = 20261128

_OLDER = 8
"""A look when the step is so many parts older."""

_DAY, _SECOND = timedelta(days=1), timedelta(seconds=1)


class Harm(NamedTuple):
    """What is put into the challenger's units."""

    metric: str
    level: float
    """Of a share of units or answers that becomes an event; of a mean or a ratio how much worse it is."""


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


class Played(NamedTuple):
    """All rollouts of one version."""

    harm: Harm | None
    """None: the same version."""
    rollouts: tuple[Rehearsed, ...]

    def of(self, *ends: str) -> int:
        return sum(each.end in ends for each in self.rollouts)

    @property
    def found(self) -> tuple[Rehearsed, ...]:
        return tuple(each for each in self.rollouts if each.found)

    def days(self, quantile: float = 0.5) -> float | None:
        """Until the promotion, of those that were promoted; None without any."""
        times = [each.seconds / 86400 for each in self.rollouts if each.end in ("promoted", "undone")]
        return float(np.quantile(times, quantile)) if times else None

    def seconds(self, quantile: float = 0.5) -> float | None:
        """Until harm was found, where it was; None where it never was."""
        times = [each.seconds for each in self.found]
        return float(np.quantile(times, quantile)) if times else None

    @property
    def hit(self) -> float | None:
        """Units or answers that were harmed until it was found; the median."""
        return float(np.median([each.hit for each in self.found])) if self.found else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """What a rehearsal found."""

    stage: Stage
    same: Played
    harmed: tuple[Played, ...]


def rehearse(
    stage: Stage,
    *,
    same: int = SAME,
    harmed: int = HARMED,
    levels: Sequence[float] = LEVELS,
    seed: int = _SEED,
) -> Rehearsal:
    """Play the rollouts. Seeded: the same history, the same answer.

    Args:
        stage: what is played.
        same: rollouts of the same version.
        harmed: rollouts of each metric and level of harm; metrics that only warn are left out.
        levels: see `Harm`.
        seed: of the random numbers.
    """
    harms = [Harm(m.name, level) for m in stage.metrics if _rolls_back(m) for level in levels]
    wanted: list[Harm | None] = [None] * same + [harm for harm in harms for _ in range(harmed)]
    found: dict[Harm | None, list[Rehearsed]] = {harm: [] for harm in (None, *harms)}
    policy, rng = rehearsed_policy(stage), np.random.default_rng(seed)
    for number in range(stage.starts):
        scene = stage.scene(number)
        mine = wanted[number :: stage.starts]
        draws = _Draws(stage, scene, mine, rng, policy)
        for row, harm in enumerate(mine):
            found[harm].append(_Rollout(stage, scene, policy, draws, row, harm).played())
    return Rehearsal(
        stage=stage,
        same=Played(None, tuple(found[None])),
        harmed=tuple(Played(harm, tuple(found[harm])) for harm in harms),
    )


def _rolls_back(metric: Metric) -> bool:
    return not isinstance(metric, Guardrail) or metric.on_fail is not OnFail.WARN


def rehearsed_policy(stage: Stage) -> Policy:
    """The manifest's, without what no history tells: shadow steps, validation, approvals; shares as whole bins of units."""
    whole = [
        step if step == "shadow" else max(round(step * stage.bins / 100), 1) * 100 / stage.bins
        for step in stage.manifest.steps
    ]
    return replace(
        Policy.of(stage.manifest),
        steps=tuple(step for step in whole if step != "shadow"),
        validate=False,
        dry_run=False,
        approval="none",
    )


class _Taken(NamedTuple):
    """What one side adds up to; the first axis is the rollout."""

    answers: Array
    """By tick: shape (rollouts, ticks, 2, 1 + served)."""
    units: Array
    """Cumulated in time: shape (rollouts, buckets + 1, 2)."""
    sums: tuple[Array, ...]
    """Of each metric, cumulated in time: shape (rollouts, buckets + 1, its sums)."""


class _Sides(NamedTuple):
    """Both sides at one share."""

    champion: _Taken
    challenger: _Taken


class _Draws:
    """Which units each rollout takes at each share, and what they add up to."""

    def __init__(
        self,
        stage: Stage,
        scene: Scene,
        harms: Sequence[Harm | None],
        rng: np.random.Generator,
        policy: Policy,
    ) -> None:
        self._stage, self._scene, self._harms, self._rng = stage, scene, harms, rng
        # A larger share only adds units, as in a rollout.
        self._order = np.array([rng.permutation(stage.bins) for _ in harms]).reshape(len(harms), stage.bins)
        percents = [step for step in policy.ramp if step != "shadow"]
        if policy.bake:
            percents.append(_baked_percent(policy))
        self._every = [each.sum(axis=0) for each in (scene.answers, scene.units, *scene.sums)]
        self.every = self._every[0]
        self.shares = {percent: self._share(percent) for percent in percents}

    def _share(self, percent: float) -> _Sides:
        members = (self._order < round(percent * self._stage.bins / 100)).astype(float)
        scene = self._scene
        challenger = [_added(members, each) for each in (scene.answers, scene.units, *scene.sums)]
        champion = [every - mine for every, mine in zip(self._every, challenger, strict=True)]
        for row, harm in enumerate(self._harms):
            if harm is not None:
                answers, _, *sums = challenger
                self._put(harm, answers[row], [each[row] for each in sums])
        return _Sides(_taken(champion), _taken(challenger))

    def _put(self, harm: Harm, answers: Array, sums: Sequence[Array]) -> None:
        metrics = self._stage.metrics
        served = [metric.name for metric in metrics if is_served(metric)]
        if harm.metric in served:
            _harm_answers(self._rng, answers, 1 + served.index(harm.metric), harm.level)
        at = next(i for i, metric in enumerate(metrics) if metric.name == harm.metric)
        reference = self._scene.constants[at].reference
        names = kept_sums(self._stage.queries[at])
        _harm_sums(self._rng, sums[at], names, metrics[at], reference, harm.level)


def _taken(added: Sequence[Array]) -> _Taken:
    answers, units, *sums = added
    return _Taken(answers, _cumulated(units), tuple(_cumulated(each) for each in sums))


def _added(members: Array, table: Array) -> Array:
    """Over the bins of each rollout."""
    flat = members @ table.reshape(len(table), -1)
    return flat.reshape(len(members), *table.shape[1:])


def _cumulated(values: Array) -> Array:
    """Along the buckets, from 0 on."""
    return np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(values, axis=1)], axis=1)


def _harm_answers(rng: np.random.Generator, answers: Array, column: int, level: float) -> None:
    """Of the answers that were none, a share become events; first ones are some of all."""
    every, first = answers[:, 0], answers[:, 1]
    spared = np.maximum(first[:, 0] - first[:, column], 0)
    others = np.maximum(every[:, 0] - every[:, column] - spared, 0)
    of_first = rng.binomial(np.round(spared).astype(np.int64), level)
    of_others = rng.binomial(np.round(others).astype(np.int64), level)
    first[:, column] += of_first
    every[:, column] += of_first + of_others


def _harm_sums(
    rng: np.random.Generator,
    sums: Array,
    names: Sequence[str],
    metric: Metric,
    reference: float,
    level: float,
) -> None:
    """In place; `sums` by bucket, with one column for each of `names`."""
    at = {name: names.index(name) for name in names}
    if metric.type.kind is EffectKind.PROPORTION:
        events = np.round(sums[:, at["sy"]]).astype(np.int64)
        if metric.better is Better.HIGHER:
            sums[:, at["sy"]] -= rng.binomial(events, level)
        else:
            free = np.maximum(np.round(sums[:, at["n"]]).astype(np.int64) - events, 0)
            sums[:, at["sy"]] += rng.binomial(free, level)
        return
    factor = 1 + (level if metric.better is Better.LOWER else -level)
    shift = (factor - 1) * reference
    # y is the value less its reference: factor * (y + reference) - reference.
    n, sy, syy = (sums[:, at[name]].copy() for name in ("n", "sy", "syy"))
    sums[:, at["sy"]] = factor * sy + shift * n
    sums[:, at["syy"]] = factor**2 * syy + 2 * factor * shift * sy + shift**2 * n
    if "syd" in at:
        sums[:, at["syd"]] *= factor
    if "sxy" in at:
        sums[:, at["sxy"]] = factor * sums[:, at["sxy"]] + shift * sums[:, at["sx"]]


class _Step(NamedTuple):
    """A share in force."""

    bucket: int
    """From this one on."""
    percent: float
    number: int
    """As `step_windows` numbers them."""


class _Crossing(NamedTuple):
    """Harm that the live counters found."""

    tick: int
    evidence: tuple[Evidence, ...]


class _Live:
    """The live counters' tests of one rollout, tick by tick: what `GuardrailWatch` does with what it reads."""

    def __init__(self, stage: Stage, scene: Scene) -> None:
        self._manifest, self._scene = stage.manifest, scene
        self.metrics = watched_metrics(stage.manifest)
        served = [metric.name for metric in stage.metrics if is_served(metric)]
        self._columns = {m.name: 1 + served.index(m.name.removesuffix(REPEATED)) for m in self.metrics}
        self._failed: dict[str, list[tuple[float, float]]] = {}
        self.holds: dict[str, Evidence] = {}
        self.begin(baking=False)

    def begin(self, *, baking: bool) -> None:
        """The ramp, or the bake: each has a part of the error budget of its own."""
        self._budget = harm_budget(self._manifest, baking=baking)
        self._processes = {metric.name: ConditionalBinomial() for metric in self.metrics}

    def seal(self) -> None:
        """The share changes."""
        self._processes = {name: process.sealed() for name, process in self._processes.items()}
        self._failed = {}

    def take(self, canary: Array, champion: Array, first: int, last: int) -> _Crossing | None:
        """The ticks from `first` up to `last`; where harm is found it ends there."""
        for tick in range(first, last):
            for metric in self.metrics:
                self._observe(metric, canary[tick], champion[tick], tick)
            if found := self._harm(tick):
                return _Crossing(tick, found)
        return None

    def _observe(self, metric: ServingMetric, canary: Array, champion: Array, tick: int) -> None:
        side, column = int(metric.by_unit), self._columns[metric.name]
        counts = Counts(canary[side, 0], canary[side, column], champion[side, 0], champion[side, column])
        if not counts.trials:
            return
        self._processes[metric.name] = self._processes[metric.name].observe(counts)
        if metric.by_unit and counts.canary_events:
            length = self._scene.edges[tick + 1] - self._scene.edges[tick]
            proven = counts.canary_events // (1 + length // (WITHIN / _SECOND))
            self._failed.setdefault(metric.name, []).append((self._scene.edges[tick + 1], proven))

    def _harm(self, tick: int) -> tuple[Evidence, ...]:
        log_e = {m.name: self._processes[m.name].log_e for m in self.metrics if m.on_fail is not OnFail.WARN}
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
            if metric.on_fail is OnFail.ROLL_BACK and self._many_units(metric, tick):
                found.append(evidence)
            else:
                self.holds[metric.name] = replace(evidence, on_fail=OnFail.HOLD, valid_for=HOLD_LASTS)
            if metric.name.endswith(REPEATED):
                self._processes[metric.name] = ConditionalBinomial()
        return tuple(found)

    def _many_units(self, metric: ServingMetric, tick: int) -> bool:
        if not metric.by_unit:
            return True
        since = self._scene.edges[tick + 1] - WITHIN / _SECOND
        recent = [units for at, units in self._failed.get(metric.name, []) if at > since]
        return sum(recent) >= UNITS_THAT_FAIL

    def _evidence(self, metric: ServingMetric, tick: int, log_e: float) -> Evidence:
        return Evidence(
            name=metric.name,
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
        known = {m.name: self._processes[m.name].log_e for m in asked}
        below = self._manifest.experiment.advance_below
        yield doubt_evidence(LIVE_DOUBT, known, below, source="serving", at=now, valid_for=DOUBT_LASTS)


@dataclass(eq=False)
class _Series:
    """Looks that belong together: of the ramp, or of the bake."""

    baking: bool
    cells: list[Cell] = field(default_factory=list[Cell])
    looks: list[Look] = field(default_factory=list[Look])
    had_final: bool = False


class _Rollout:
    """One rollout on one scene."""

    def __init__(
        self, stage: Stage, scene: Scene, policy: Policy, draws: _Draws, row: int, harm: Harm | None
    ) -> None:
        self._stage, self._scene, self._draws, self._row, self._harm = stage, scene, draws, row, harm
        self._live, self._series = _Live(stage, scene), _Series(baking=False)
        self._width = stage.width / _SECOND
        self._ticks = np.round(scene.edges / self._width, 9)
        self._final = [0] * len(stage.metrics)
        self._lags = [math.ceil(round(horizon(stage.manifest, m) / stage.width, 9)) for m in stage.metrics]
        self._steps: list[_Step] = []
        self._held: set[str] = set()
        self._promoted: float | None = None
        self._tick = 0
        self._state = self._act(
            self._act(_started(stage, policy, scene.begins), Action.DEPLOY), Action.SET_PERCENT, 0
        )
        self._enter(policy.ramp[0], 0)

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
    def _looked_at(self) -> Array:
        """Ticks that begin with a bucket of units."""
        whole = np.flatnonzero(np.abs(self._ticks - np.round(self._ticks)) < 1e-6)
        return whole[whole > 0]

    @property
    def _share(self) -> _Sides:
        return self._draws.shares[self._steps[-1].percent]

    def _watch(self, until: int) -> _Crossing | None:
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
        state = _with(self._state, _decided(self._state, decision, now))
        if decision.kind is DecisionKind.ADVANCE and decision.percent is not None:
            self._live.seal()
            self._state = self._act(
                state, Action.SET_PERCENT, decision.step, percent=decision.percent, at=now
            )
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
        percent = _baked_percent(state.policy)
        self._live.seal()
        self._live.begin(baking=True)
        self._series = _Series(baking=True)
        self._state = self._act(state, Action.BAKE, None, percent=percent, at=now)
        self._enter(percent, bucket)

    def _act(
        self, state: RolloutState, action: Action, step: int | None = None, *, percent: float | None = None,
        at: datetime | None = None,
    ) -> RolloutState:  # fmt: skip
        """An intent and that it is done."""
        at = at or self._scene.begins
        if percent is None and action is Action.SET_PERCENT:
            first = state.policy.ramp[0]
            percent = None if first == "shadow" else first
        name = f"{action}-{state.seq}"
        common = {"rollout_id": state.rollout_id, "at": at, "by": _BY}
        intent = Intent(
            **common, seq=state.seq + 1, action_id=name, action=action, percent=percent, step=step
        )
        return _with(_with(state, intent), Done(**common, seq=state.seq + 2, action_id=name))

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
        at, metric = next((i, m) for i, m in enumerate(self._stage.metrics) if m.name == harm.metric)
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


def _baked_percent(policy: Policy) -> float:
    return 100 - policy.holdback


def _started(stage: Stage, policy: Policy, at: datetime) -> RolloutState:
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


def _with(state: RolloutState, event: Event) -> RolloutState:
    return folded(state, event)
