"""How each piece of evidence stands at one moment: staleness, missing names and the current step applied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from pipelines.core.rollout.policy import (
    CHAMPION_HEALTH,
    DOUBTS,
    REGISTERED,
    SERVED,
    VALIDATION,
    WATCHED,
    Policy,
)
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict

CLOCK_TOLERANCE = timedelta(minutes=5)
"""Evidence further ahead of our clock than this says nothing about now."""

_BEFORE_TRAFFIC = (Phase.STARTING, Phase.VALIDATING)


class Status(StrEnum):
    """A verdict, with the unknown that only needs more data told apart."""

    PASS = "pass"
    FAIL = "fail"
    PENDING = "pending"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One name's evidence as it counts now."""

    name: str
    status: Status
    reason: str
    on_fail: OnFail
    needed_for: NeededFor
    at: datetime | None = None
    """When it was measured; None where it never was."""

    @property
    def words(self) -> str:
        """`name: reason`."""
        return f"{self.name}: {self.reason}"


def standings(state: RolloutState, evidence: Mapping[str, Evidence], now: datetime) -> tuple[Standing, ...]:
    """Every name that counts in the current phase, in the order of the policy, then by name."""
    required = _required(state)
    given = sorted(name for name in evidence if name not in required and _counts(state, evidence[name], now))
    return tuple(
        _standing(state, evidence[name], needed, now) if name in evidence else _missing(name, needed)
        for name, needed in (*required.items(), *((name, evidence[name].needed_for) for name in given))
    )


def champion_trouble(evidence: Mapping[str, Evidence], now: datetime) -> str | None:
    """Why the stable side must not be rolled back into; None when nothing recent says so."""
    health = evidence.get(CHAMPION_HEALTH)
    if health is None or health.verdict is not Verdict.FAIL or stale(health, now):
        return None
    return health.reason


def _required(state: RolloutState) -> dict[str, NeededFor]:
    policy = state.policy
    if state.phase in _BEFORE_TRAFFIC:
        return {VALIDATION: NeededFor.ADVANCE} if policy.validate else {}
    if state.phase is Phase.SHADOW:
        return dict.fromkeys(policy.required_in_shadow, NeededFor.ADVANCE)
    promotion = dict.fromkeys(policy.required_to_promote, NeededFor.PROMOTE)
    return promotion | dict.fromkeys(policy.required, NeededFor.ADVANCE)


def _counts(state: RolloutState, item: Evidence, now: datetime) -> bool:
    if item.name in (CHAMPION_HEALTH, SERVED, REGISTERED, WATCHED, *DOUBTS):
        return False
    if item.source == "serving" and item.on_fail is OnFail.HOLD and stale(item, now):
        return False  # the watch says again what it still holds for
    is_validation = item.source == VALIDATION or item.name == VALIDATION
    if state.phase in _BEFORE_TRAFFIC or is_validation:
        return is_validation and state.phase in _BEFORE_TRAFFIC
    return state.phase is Phase.SHADOW or item.name not in _only_in_shadow(state.policy)


def _only_in_shadow(policy: Policy) -> Iterable[str]:
    return set(policy.required_in_shadow) - {*policy.required, *policy.required_to_promote}


def _missing(name: str, needed_for: NeededFor) -> Standing:
    return Standing(
        name=name,
        status=Status.PENDING,
        reason="no evidence yet",
        on_fail=OnFail.HOLD,
        needed_for=needed_for,
    )


def _standing(state: RolloutState, item: Evidence, needed_for: NeededFor, now: datetime) -> Standing:
    """What the policy requires for an advance stays required, whatever the evidence says of itself."""
    status, reason = _status(state, item, now)
    return Standing(
        name=item.name,
        status=status,
        reason=reason,
        on_fail=item.on_fail,
        needed_for=NeededFor.ADVANCE if needed_for is NeededFor.ADVANCE else item.needed_for,
        at=item.at,
    )


def _status(state: RolloutState, item: Evidence, now: datetime) -> tuple[Status, str]:
    if stale(item, now):
        age = words(now - item.at)
        return Status.UNKNOWN, f"last measured {age} ago, good for {words(item.valid_for)}"
    if item.verdict is Verdict.FAIL:
        return Status.FAIL, item.reason
    if item.at - now > CLOCK_TOLERANCE:
        return Status.UNKNOWN, f"measured {words(item.at - now)} ahead of the clock"
    if item.verdict is Verdict.UNKNOWN:
        return (Status.PENDING if item.pending else Status.UNKNOWN), item.reason
    if item.at <= state.since and state.phase not in _BEFORE_TRAFFIC:
        return Status.PENDING, "not measured since this step came into force"
    return Status.PASS, item.reason


def stale(item: Evidence, now: datetime) -> bool:
    """Older than it counts."""
    return now - item.at > item.valid_for


def words(duration: timedelta) -> str:
    """`90061 s` as `1d 1h`: the two largest units."""
    seconds = max(0, round(duration.total_seconds()))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        amount, seconds = divmod(seconds, length)
        if amount:
            parts.append(f"{amount}{unit}")
    return " ".join(parts[:2]) or "0s"
