"""All that a report tells, read from the ledger: events, counters, looks."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from pipelines.core.errors import CommandRefused
from pipelines.core.rollout.events import Action, Command, Decided, DecisionKind, Done, Event, Intent
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.core.statistics.slices import Slice
from pipelines.experiments.looks import NAME
from pipelines.reports.charts import Point
from pipelines.rollouts.serving_metrics import REQUEST_FAULTS, is_shown
from resources.lake.examples import Example
from resources.ledger.ledger import Ledger

MOST_ROWS = 20_000
"""A rollout with more buckets is read by the minute."""


class Counted(NamedTuple):
    """Counts of both sides in the interval that ends at `at`, at one step."""

    at: datetime
    step: int
    counts: Counts


def counted(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    """The buckets of every metric in the order of time; merged by the minute where there are very many."""
    many = ledger.counters.count_buckets(rollout_id) > MOST_ROWS
    return _by_minute(ledger, rollout_id) if many else _all(ledger, rollout_id)


def evidence_path(
    buckets: Iterable[Counted],
    *,
    begun: datetime,
    bake: int | None = None,
    test: ConditionalBinomial | None = None,
) -> list[Point]:
    """ln e-value of "the canary is no worse" after each bucket, small ones merged as the live watch does it.

    `begun`: the rollout. `bake`: the number of its share, at which the test begins anew. `test`: as it is at its beginning.
    """
    test = test or ConditionalBinomial()
    process, path, step = test, list[Point](), None
    for bucket in buckets:
        if step is not None and bucket.step != step:
            process = test if bucket.step == bake else process.sealed()
        process = process.observe(bucket.counts, seconds=max(0.0, (bucket.at - begun).total_seconds()))
        step, begun = bucket.step, bucket.at
        path.append(Point(bucket.at, process.log_e))
    return path


def total(buckets: Iterable[Counted]) -> Counts:
    """The counts of all buckets."""
    whole = Counts()
    for bucket in buckets:
        whole = whole.plus(bucket.counts)
    return whole


def _all(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    found: dict[str, list[Counted]] = {}
    for b in ledger.counters.buckets(rollout_id):
        counts = Counts(b.canary_trials, b.canary_events, b.champion_trials, b.champion_events)
        found.setdefault(b.metric, []).append(Counted(b.at, b.step, counts))
    return _frozen(found)


def _by_minute(ledger: Ledger, rollout_id: str) -> dict[str, tuple[Counted, ...]]:
    found: dict[str, list[Counted]] = {}
    for m in ledger.counters.minutes(rollout_id):
        counts = Counts(m.canary_trials, m.canary_events, m.champion_trials, m.champion_events)
        found.setdefault(m.metric, []).append(Counted(m.minute, m.step, counts))
    return _frozen(found)


def _frozen(found: Mapping[str, list[Counted]]) -> dict[str, tuple[Counted, ...]]:
    return {metric: tuple(buckets) for metric, buckets in sorted(found.items())}


# The stored looks, as the report needs them: every look's primary metric, the last look whole.


MOST_LOOKS = 300
"""Of more looks, so many are read, evenly spread, with the last."""


class ToldSlice(NamedTuple):
    """A slice in which one metric's evidence of harm is strong, with the price of all slices paid."""

    metric: str
    where: Slice
    log_e: float
    words: str


class Examples(NamedTuple):
    """Requests of the first slice that is told."""

    found: tuple[Example, ...]
    problem: str = ""
    """Why there are none; empty where nothing is wrong."""


class Looked(NamedTuple):
    """What the looks say about the metrics."""

    taken: int
    """How many looks there are."""
    at: datetime | None
    """The time of the last one."""
    primary: str | None
    unit_margin: float | None
    """The margin of the primary metric, in its own unit, in the direction of harm."""
    points: tuple[Point, ...]
    """The primary metric's difference with its interval."""
    metrics: tuple[Mapping[str, Any], ...]
    """The last look's metrics, as stored."""
    sentences: tuple[str, ...]


def looked(ledger: Ledger, rollout_id: str) -> Looked:
    """Read them without recomputing anything."""
    numbers = ledger.counters.look_numbers(rollout_id, NAME)
    looks = ledger.counters.looks(rollout_id, NAME, _spread(numbers))
    bodies = [(look.at, json.loads(look.body)) for look in looks]
    if not bodies:
        return Looked(len(numbers), None, None, None, (), (), ())
    last = bodies[-1][1]["look"]
    primary = _primary(last)
    points = tuple(p for at, body in bodies if (p := _point(at, _primary(body["look"]))) is not None)
    return Looked(
        taken=len(numbers),
        at=bodies[-1][0],
        primary=None if primary is None else primary["name"],
        unit_margin=_margin(bodies[-1][1], primary),
        points=points,
        metrics=tuple(last["metrics"]),
        sentences=tuple(last["sentences"]),
    )


def _spread(numbers: list[int]) -> list[int]:
    if len(numbers) <= MOST_LOOKS:
        return numbers
    return sorted({numbers[round(k * (len(numbers) - 1) / (MOST_LOOKS - 1))] for k in range(MOST_LOOKS)})


def _primary(look: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((metric for metric in look["metrics"] if metric["is_primary"]), None)


def _point(at: datetime, primary: Mapping[str, Any] | None) -> Point | None:
    if primary is None or primary["effect"] is None or primary["interval"] is None:
        return None
    low, high = primary["interval"]
    return Point(at, primary["effect"], low, high)


def _margin(body: Mapping[str, Any], primary: Mapping[str, Any] | None) -> float | None:
    if primary is None or primary["margin"] is None:
        return None
    spec = next((m for m in body["spec"]["metrics"] if m["name"] == primary["name"]), None)
    higher = spec is not None and spec["better"] == "higher"
    return -primary["margin"] if higher else primary["margin"]


# All that a report tells, read from the ledger: events, counters, looks.


@dataclass(frozen=True, kw_only=True)
class Story:
    """One rollout, as far as the ledger tells."""

    events: tuple[Event, ...]
    state: RolloutState
    counted: Mapping[str, tuple[Counted, ...]]
    request_faults: Counts
    """Requests of both sides, and those of them that neither side answered: part of no other count."""
    looked: Looked
    boundary: float | None
    """ln e-value from which a guardrail rolls back; None where nothing says."""
    tests: Mapping[str, ConditionalBinomial] = field(default_factory=dict[str, ConditionalBinomial])
    """The guardrails' tests as they are at their beginning; one that is not named is as usual."""
    slices: tuple[ToldSlice, ...] | None = None
    """By the last look, the strongest evidence first; None where nobody asked for slices."""
    examples: Examples = Examples(())

    @property
    def begun(self) -> datetime:
        return self.state.started_at

    @property
    def ended(self) -> datetime:
        """The last thing that happened."""
        counts = [buckets[-1].at for buckets in self.counted.values() if buckets]
        looks = [] if self.looked.at is None else [self.looked.at]
        return max(self.events[-1].at, *counts, *looks, self.begun)

    @property
    def decided(self) -> tuple[Decided, ...]:
        return tuple(event for event in self.events if isinstance(event, Decided))

    @property
    def commands(self) -> tuple[Command, ...]:
        return tuple(event for event in self.events if isinstance(event, Command))

    @property
    def rolled_back(self) -> Decided | None:
        """The decision to roll back, if there was one."""
        return next((d for d in self.decided if d.decision.kind is DecisionKind.ROLL_BACK), None)

    @property
    def traffic_gone_at(self) -> datetime | None:
        """When the serving side confirmed that the canary gets nothing more."""
        intents = {e.action_id: e for e in self.events if isinstance(e, Intent)}
        for event in self.events:
            intent = intents.get(event.action_id) if isinstance(event, Done) else None
            if intent is not None and intent.action is Action.TRAFFIC_OFF:
                return event.at
        return None


def read_story(ledger: Ledger, rollout_id: str, *, boundary: float | None) -> Story:
    """Raises CommandRefused (no such rollout), CorruptLedger, LedgerError."""
    events = ledger.events(rollout_id)
    if not events:
        raise CommandRefused(f"there is no rollout {rollout_id!r} to report on")
    found = counted(ledger, rollout_id)
    return Story(
        events=events,
        state=fold(events),
        request_faults=total(found.pop(REQUEST_FAULTS, ())),
        counted={name: buckets for name, buckets in found.items() if is_shown(name)},
        looked=looked(ledger, rollout_id),
        boundary=boundary,
    )
