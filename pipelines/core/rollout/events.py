"""The events a rollout is made of, the decisions among them, and their form in the ledger (JSON, one object
an event).
"""

import hashlib
import operator
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, SupportsIndex

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.core.errors import CorruptLedger
from pipelines.core.rollout.policy import CHAMPION_HEALTH, Policy, Severity
from pipelines.core.vocabulary import Evidence, OnFail, Verdict

_ID = re.compile(r"^(?P<model>.+)-v(?P<version>[^-]+)-[0-9a-f]{8}$")


class Named(NamedTuple):
    """What an id names."""

    model: str
    version: str


def rollout_id(model: str, version: str, attempt: int) -> str:
    """The id of the `attempt`-th rollout (from 1) of this version."""
    digest = hashlib.sha256(f"{model}\n{version}\n{attempt}".encode()).hexdigest()
    return f"{model}-v{version}-{digest[:8]}"


def named(identity: str) -> Named:
    """Model and version, for when the ledger cannot be asked. Raises ValueError."""
    match = _ID.match(identity)
    if match is None:
        raise ValueError(f"rollout id is {identity!r}, expected <model>-v<version>-<8 hex>")
    return Named(match["model"], match["version"])


# What `decide` answers.


class DecisionKind(StrEnum):
    """`continue` waits for time or data; `hold` waits because something is in the way."""

    CONTINUE = "continue"
    ADVANCE = "advance"
    HOLD = "hold"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


class End(StrEnum):
    """How a rollout ends."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"
    ABORTED = "aborted"
    COMPARED = "compared"
    """An A/B test is over and the champion stays."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision, with everything that explains it."""

    kind: DecisionKind
    rule: str
    """The rule that decided, by name."""
    reason: str
    """In words, with numbers."""
    step: int | None = None
    """For `advance`: the index of the next step in the policy's ramp."""
    percent: float | None = None
    """For `advance`: the share of traffic of that step, 0 for shadow."""
    end: End | None = None
    """For `promote` and `roll_back`: how the rollout will have ended."""
    evidence: tuple[str, ...] = ()
    """Names of the evidence that decided."""
    unknown: tuple[str, ...] = ()
    """Evidence in the way that could not be measured; each counts towards `max_unknown`."""
    severity: Severity = "info"


# The events a rollout is made of, and their form in the ledger (JSON, one object an event).
#
# An event is written once and never changed. `v` is the schema version: a reader refuses what is newer.


SCHEMA_VERSION = 1


class Action(StrEnum):
    """Something done to the outside world, between an intent and its outcome."""

    DEPLOY = "deploy"
    """Start the version beside the stable one, without traffic."""
    SHADOW = "shadow"
    """Send it a copy of live traffic."""
    SET_PERCENT = "set_percent"
    BAKE = "bake"
    """Give it all traffic but the holdback; the previous champion stays warm."""
    PROMOTE = "promote"
    """Make it the stable one and stop the previous one."""
    TRAFFIC_OFF = "traffic_off"
    RESTORE = "restore"
    """Restore the stable side's spec and stop the version."""
    REGISTER = "register"
    """Aliases and tags in the model registry."""


class Order(StrEnum):
    """What a person can ask for."""

    PAUSE = "pause"
    RESUME = "resume"
    APPROVE = "approve"
    ABORT = "abort"
    ROLL_BACK_NOW = "roll_back_now"
    FORCE_PROMOTE = "force_promote"


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)


def _plain(evidence: Evidence) -> Evidence:
    """Times in UTC, numbers as Python's own: evidence computed with numpy must not fail to be recorded."""
    values = {name: _plain_value(value) for name, value in evidence.values.items()}
    return replace(evidence, at=evidence.at.astimezone(UTC), values=values)


def _plain_value(value: Any) -> float | int | str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, SupportsIndex):
        return operator.index(value)
    return float(value) if hasattr(value, "__float__") else str(value)


Utc = Annotated[AwareDatetime, AfterValidator(_utc)]

RecordedEvidence = Annotated[Evidence, AfterValidator(_plain)]


class _Event(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_inf_nan="constants", use_attribute_docstrings=True
    )

    v: Literal[1] = SCHEMA_VERSION
    rollout_id: str
    seq: Annotated[int, Field(ge=1)]
    """1 for the first event of a rollout, then one more each."""
    at: Utc
    by: str
    """Who wrote it: a sensor, a job, or a person."""


class Artefact(BaseModel):
    """The version's content."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    uri: str
    digest: str


class Started(_Event):
    kind: Literal["started"] = "started"
    model: str
    version: str
    champion: str | None
    """The served version when the rollout started, which is its other side; None where nothing was served."""
    despite: str = ""
    """The registry's disagreement with what is served, where a person started the rollout all the same."""
    artefact: Artefact
    salt: str
    """Assignment is hash(salt, unit)."""
    policy: Policy
    manifest_digest: str


class Refused(_Event):
    """A version that failed validation before a rollout of it was started; first and last event."""

    kind: Literal["refused"] = "refused"
    model: str
    version: str
    reason: str


class EvidenceRecorded(_Event):
    kind: Literal["evidence"] = "evidence"
    evidence: tuple[RecordedEvidence, ...]


class Intent(_Event):
    """Written before an action; until its outcome is written, the action is performed again."""

    kind: Literal["intent"] = "intent"
    action_id: str
    action: Action
    percent: float | None = None
    step: int | None = None
    dry: bool = False
    """A dry run: recorded, not carried out."""
    over: str | None = None
    """Of a person's promotion: the version that was served then, whose place it takes; None where that was not known."""


class Done(_Event):
    kind: Literal["done"] = "done"
    action_id: str
    message: str = ""
    landed: bool = False
    """Of a rollback: the version had become the stable one before it; there is nothing to go back to."""
    unregistered: bool = False
    """Of the registration: the registry does not have the version any more; there is nothing to write it on."""


class Failed(_Event):
    kind: Literal["failed"] = "failed"
    action_id: str
    message: str
    final: bool = False
    """Repeating it cannot help (the version itself is unusable)."""
    unclear: bool = False
    """It says nothing about the version: something could not be asked, or what it needs is away."""


class Decided(_Event):
    """A decision with the evidence that was not in the ledger before; `at` is the `now` it was taken with."""

    kind: Literal["decided"] = "decided"
    decision: Decision
    evidence: tuple[RecordedEvidence, ...] = ()


class Command(_Event):
    kind: Literal["command"] = "command"
    order: Order
    reason: Annotated[str, Field(min_length=1)]


class Lapsed(_Event):
    """The serving side took the share away by itself, because nobody had said that he watches it."""

    kind: Literal["lapsed"] = "lapsed"
    taken_at: Utc
    percent: float
    """What it had."""
    mirror: bool = False
    reason: str


class ClockSet(_Event):
    """The clock was set back since the last event: whatever the record places after `at` is taken to be of now.

    A duration that was under way (of a step, of a bake) begins anew where it had begun later than now, and ends no sooner.
    """

    kind: Literal["clock_set"] = "clock_set"
    back: timedelta
    """By how much at least: to the time of the last event."""


class _ChampionHealth(_Event):
    """What an earlier release wrote where evidence of the stable side's health is written now; only read."""

    kind: Literal["champion_health"] = "champion_health"
    healthy: bool
    reason: str
    valid_for: timedelta = timedelta(minutes=10)

    def as_evidence(self) -> EvidenceRecorded:
        """The same as it is written now."""
        health = Evidence(
            name=CHAMPION_HEALTH,
            source="serving",
            verdict=Verdict.PASS if self.healthy else Verdict.FAIL,
            reason=self.reason,
            at=self.at,
            on_fail=OnFail.HOLD,
            valid_for=self.valid_for,
        )
        return EvidenceRecorded(
            rollout_id=self.rollout_id, seq=self.seq, at=self.at, by=self.by, evidence=(health,)
        )


class Ended(_Event):
    kind: Literal["ended"] = "ended"
    end: End
    reason: str
    dry: bool = False


Event = (
    Started
    | Refused
    | EvidenceRecorded
    | Intent
    | Done
    | Failed
    | Decided
    | Command
    | Lapsed
    | ClockSet
    | Ended
)

_ADAPTER: TypeAdapter[Event | _ChampionHealth] = TypeAdapter(
    Annotated[Event | _ChampionHealth, Field(discriminator="kind")]
)


def dump(event: Event) -> str:
    """The event as one JSON object; loading and dumping it again gives the same bytes."""
    return event.model_dump_json()


def load(text: str, *, rollout_id: str, seq: int) -> Event:
    """The event in `text`. Raises CorruptLedger with rollout, seq and what is wrong."""
    try:
        written = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise CorruptLedger(f"{rollout_id} seq {seq}: {_what(text, error)}") from error
    event = written.as_evidence() if isinstance(written, _ChampionHealth) else written
    if (event.rollout_id, event.seq) != (rollout_id, seq):
        raise CorruptLedger(f"{rollout_id} seq {seq}: holds the event of {event.rollout_id} seq {event.seq}")
    return event


def _what(text: str, error: ValidationError) -> str:
    for problem in error.errors(include_url=False):
        if problem["loc"][-1:] == ("v",):
            return f"schema version {problem['input']!r}, this program reads {SCHEMA_VERSION}"
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{first['msg']} at {place or 'the top'} in {text[:80]!r}"
