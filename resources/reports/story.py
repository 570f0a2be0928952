"""All that a report tells, read from the ledger: events, counters, looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pipelines.errors import CommandRefused
from pipelines.peers.compare import Judged, Truth, compare, judge
from pipelines.peers.counters import Bucket, Series
from pipelines.rollout.decision import DecisionKind, End
from pipelines.rollout.events import Action, Command, Decided, Done, Event, Intent
from pipelines.rollout.fold import fold
from pipelines.rollout.state import RolloutState
from pipelines.statistics.binomial import Counts
from resources.guardrails.counting import REPEATED, REQUEST_FAULTS
from resources.ledger import Ledger
from resources.reports.counted import Counted, counted, total
from resources.reports.looked import Looked, looked

Kind = Literal["errors", "slow", "other"]
Kinds = Mapping[str, Kind]
"""What each served metric counts, by its name; the ledger does not say."""


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
    kinds: Kinds

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

    @property
    def truth(self) -> Truth:
        """What the evidence says about the version: harmful, harmless, or still open."""
        back = self.rolled_back
        if back is not None and back.decision.rule == "harm":
            return Truth.HARMFUL
        proven = self.state.last is not None and self.state.last.decision.rule == "passed"
        return Truth.HARMLESS if self.state.end is End.PROMOTED and proven else Truth.OPEN


def read_story(ledger: Ledger, rollout_id: str, *, boundary: float | None, kinds: Kinds) -> Story:
    """Raises CommandRefused (no such rollout), CorruptLedger, LedgerError."""
    events = ledger.events(rollout_id)
    if not events:
        raise CommandRefused(f"there is no rollout {rollout_id!r} to report on")
    found = counted(ledger, rollout_id)
    return Story(
        events=events,
        state=fold(events),
        request_faults=total(found.pop(REQUEST_FAULTS, ())),
        counted={name: buckets for name, buckets in found.items() if not name.endswith(REPEATED)},
        looked=looked(ledger, rollout_id),
        boundary=boundary,
        kinds=kinds,
    )


def judged_peers(story: Story) -> tuple[Judged, ...]:
    """What others' default rules would have done on these counters; empty without any."""
    buckets = [bucket for series in story.counted.values() for bucket in series]
    if not buckets:
        return ()
    series = [
        Series(
            name=name,
            kind=story.kinds.get(name, "other"),
            buckets=tuple(Bucket(b.at, *b.counts) for b in found),
        )
        for name, found in story.counted.items()
    ]
    begun = min((w.at for w in story.state.weights if w.percent > 0), default=min(b.at for b in buckets))
    acted = None if story.rolled_back is None else story.rolled_back.at
    ended = max(bucket.at for bucket in buckets)
    actions = compare(series, begun=begun, ended=ended)
    return tuple(judge(action, story.truth, acted=acted) for action in actions)
