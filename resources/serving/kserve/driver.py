"""Carries plans out: observe, decide, patch, observe again, until it is done or time is up."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar, assert_never

from pipelines.errors import ServingError, VersionFailed
from resources.serving.kserve.client import Cluster, Conflict, Unreachable
from resources.serving.kserve.steps import Create, Delete, Done, Patch, Patience, Refuse, Step, Wait

_LOG = logging.getLogger(__name__)
V = TypeVar("V")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long to wait, in seconds."""

    model: float = 600.0
    """For a model to be fetched, loaded and ready."""
    traffic: float = 60.0
    """For a weight to be in force."""
    api: float = 30.0
    """For an API server that refuses or drops requests, or answers with conflicts."""
    failing: float = 20.0
    """How long a model may be failing before it is given up; containers may recover from one crash."""
    poll: float = 1.0

    def of(self, patience: Patience) -> float:
        """The limit for a kind of waiting."""
        match patience:
            case Patience.MODEL:
                return self.model
            case Patience.TRAFFIC:
                return self.traffic
            case _:
                assert_never(patience)


@dataclass
class Driver:
    """One operation on one service."""

    cluster: Cluster
    service: str
    create: Callable[[], None]
    timing: Timing
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    since: dict[str, float] = field(default_factory=dict[str, float])
    """When each kind of trouble or waiting began."""

    def run(self, observe: Callable[[], tuple[V, str]], plan: Callable[[V], Step]) -> V:
        """Carry the plan out; returns the observation in which it was done.

        `observe` gives an observation and the object's resourceVersion. Raises VersionFailed when a model
        fails, and ServingError when the plan refuses or a limit of `timing` passes.
        """
        while True:
            try:
                view, version = observe()
                step = plan(view)
                if isinstance(step, Done):
                    return view
                self._take(step, version)
                self.since.pop("api", None)
            except (Conflict, Unreachable) as error:
                self._give_up("api", self.timing.api, str(error))
                self.sleep(self.timing.poll)

    def _take(self, step: Patch | Create | Delete | Wait | Refuse, version: str) -> None:
        match step:
            case Refuse():
                raise ServingError(step.message)
            case Wait():
                self._wait(step)
            case Patch():
                _LOG.info("%s: %s", self.service, step.why)
                self.cluster.patch(self.service, step.spec, resource_version=version)
                self.since.clear()
            case Create():
                self.create()
            case Delete():
                self.cluster.delete(self.service)
            case _:
                assert_never(step)

    def _wait(self, step: Wait) -> None:
        if step.failure:
            problem = f"{step.reason}: {step.failure}"
            self._give_up("failing", self.timing.failing, problem, error=VersionFailed)
        else:
            self.since.pop("failing", None)
        self._give_up(step.patience, self.timing.of(step.patience), step.reason)
        self.sleep(self.timing.poll)

    def _give_up(
        self, kind: str, limit: float, reason: str, *, error: type[ServingError] = ServingError
    ) -> None:
        now = self.clock()
        waited = now - self.since.setdefault(kind, now)
        if waited >= limit:
            raise error(f"{self.service}: {reason} (after {waited:.0f} s)")
