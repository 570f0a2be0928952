"""What the cluster around an InferenceService is like, as a test wants it, and where traffic went."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)

VERSION = "rampgate.io/version"


@dataclass(frozen=True)
class Failure:
    """Why a model never becomes ready."""

    kind: str
    """`image`, `load` or `quota`."""
    message: str


@dataclass(frozen=True)
class Behaviour:
    """How long a model takes to become ready, in ticks, or why it never does."""

    ready_after: int = 1
    failure: Failure | None = None


@dataclass(frozen=True)
class Share:
    """One revision's share of weighted traffic at one moment."""

    revision: str
    model: str
    """The storageUri that the revision serves."""
    percent: int
    ready: bool


@dataclass(frozen=True)
class Moment:
    """Where a request would have gone at one tick."""

    at: int
    service: str
    shares: tuple[Share, ...]


@dataclass
class World:
    """Knobs and history. Time is a count of ticks; nothing happens between ticks."""

    now: int = 0
    models: dict[str, Behaviour] = field(default_factory=dict)
    """By storageUri; what is not named becomes ready after one tick."""
    default_mode: str = "Serverless"
    gateway_api: bool = True
    created_lag: int = 0
    """Ticks by which `latestCreatedRevision` is reported late (the race behind kserve#1968)."""
    status_lag: int = 0
    """Ticks by which the controller reacts late to a new spec."""
    readiness_gate: bool = True
    """Standard mode: whether the route leaves out canaries that are not ready (not in v0.20.0)."""
    history: list[Moment] = field(default_factory=list)

    def behaviour(self, uri: str) -> Behaviour:
        """How this model behaves."""
        return self.models.get(uri, Behaviour())

    def time(self, tick: int | None = None) -> str:
        """A tick as Kubernetes writes time."""
        moment = EPOCH + timedelta(seconds=self.now if tick is None else tick)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

    def record(self, service: str, shares: list[Share]) -> None:
        """Remember where traffic goes at this tick."""
        self.history.append(Moment(self.now, service, tuple(share for share in shares if share.percent > 0)))

    def leaked(self, uri: str, *, since: int, service: str | None = None) -> list[Moment]:
        """The moments after tick `since` at which weighted traffic would have reached this model."""
        return [
            moment
            for moment in self.history
            if moment.at > since
            and (service is None or moment.service == service)
            and any(share.model == uri for share in moment.shares)
        ]

    def outages(self, *, since: int = 0) -> list[Moment]:
        """The moments at which some share of traffic had no ready backend."""
        return [
            moment
            for moment in self.history
            if moment.at > since and any(not share.ready for share in moment.shares)
        ]


def storage_uri(predictor: dict[str, Any]) -> str:
    """The model that a predictor serves."""
    return str(predictor.get("model", {}).get("storageUri", ""))


def condition(kind: str, status: str, *, reason: str = "", message: str = "") -> dict[str, str]:
    """One entry of `status.conditions`."""
    entry = {"type": kind, "status": status, "reason": reason, "message": message}
    return {key: value for key, value in entry.items() if value}
