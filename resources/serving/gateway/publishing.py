"""From splits to Envoy: clusters first, then routes to what is there, each confirmed to be in force."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServingError
from resources.files import replace_with_spare
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.clusters import clusters
from resources.serving.envoy.description import (
    CDS,
    RDS,
    Endpoint,
    Gateway,
    GatewayRevision,
    Service,
    publish_if_new,
    published,
    published_version,
)
from resources.serving.envoy.routes import give_nothing_to_the_canary, route_configuration, routes_of
from resources.serving.kserve.split import Split, SplitPart, without_share

_LOG = logging.getLogger(__name__)

Addresses = Callable[[Split, SplitPart], Endpoint]
"""Where a revision answers."""

_FILES = {"clusters": CDS, "routes": RDS}

_START_SECONDS = 10.0

_GRACE_SECONDS = 60.0
"""Clusters that no route names any more are kept for this long, for the requests that they still answer."""


@dataclass
class Publisher:
    """One Envoy. Not thread-safe: one thread calls `step`, others may read `routed` and `waiting`."""

    gateway: Gateway
    admin: Admin
    addresses: Addresses
    token: str
    clock: Callable[[], float] = time.monotonic
    apply_seconds: float = 5.0
    routed: dict[str, Split] = field(default_factory=dict[str, Split])
    """What the routes say, by service."""
    waiting: dict[str, str] = field(default_factory=dict[str, str])
    """Services whose routes still say something else than they should, and why."""

    def __post_init__(self) -> None:
        self._first_seen: dict[str, float] = {}
        self._former: list[tuple[float, Split]] = []
        if self._memory.exists():  # a sidecar that starts again beside an Envoy that kept running
            self.routed = {
                name: Split.decode(each) for name, each in json.loads(self._memory.read_text()).items()
            }

    @property
    def _memory(self) -> Path:
        return self.gateway.discovery / "splits.json"

    def step(self, desired: Mapping[str, Split]) -> None:
        """Bring Envoy as far towards `desired` as it can go now. Raises ServingError where it does not answer.

        A service whose canary is not healthy yet waits; no other service waits for it.
        """
        self._former = [(until, each) for until, each in self._former if until > self.clock()]
        self._first_seen = {name: at for name, at in self._first_seen.items() if name in desired}
        self._publish("clusters", self._clusters([*desired.values(), *self.routed.values()]))
        health = self.admin.health()
        self.waiting = {name: why for name, each in desired.items() if (why := self._not_yet(each, health))}
        ready = {name: each for name, each in desired.items() if name not in self.waiting}
        kept = {name: each for name, each in self.routed.items() if name in self.waiting}
        self._route({**kept, **ready})

    def take_away(self, services: set[str]) -> None:
        """All that these services' canaries get, by the published routes alone: it asks neither the cluster nor who is healthy.

        Raises ServingError where it is not known to be in force.
        """
        file = self.gateway.discovery / RDS
        resources = published(file)
        for route in routes_of(resources, services):
            give_nothing_to_the_canary(route)
        publish_if_new(file, resources, published_version(file), from_reserve=True)
        self._confirm("routes")
        taken = {name: without_share(each) for name, each in self.routed.items() if name in services}
        self.routed = {**self.routed, **taken}
        self._remember(self.routed)

    def in_force(self) -> dict[str, Split]:
        """What Envoy does now. Raises ServingError where it has not taken what was published."""
        for kind in _FILES:
            self._confirm(kind)
        return dict(self.routed)

    def _route(self, splits: dict[str, Split]) -> None:
        services = [self._service(splits[name]) for name in sorted(splits)]
        self._publish("routes", [route_configuration(services, probe_token=self.token)])
        until = self.clock() + _GRACE_SECONDS
        self._former += [
            (until, before) for name, before in self.routed.items() if splits.get(name) != before
        ]
        if self.routed != splits:
            self._remember(splits)
        self.routed = splits

    def _remember(self, splits: Mapping[str, Split]) -> None:
        content = json.dumps({name: each.encode() for name, each in splits.items()})
        try:
            replace_with_spare(self._memory, content.encode(), from_reserve=True)
        except OSError as error:  # the routes are in force; only a sidecar that starts again would miss it
            _LOG.error("%s cannot be written: %s", self._memory, error.strerror)

    def _clusters(self, splits: list[Split]) -> list[dict[str, Any]]:
        every = [self._service(each) for each in (*splits, *(former for _, former in self._former))]
        named = {cluster["name"]: cluster for cluster in clusters(every)}
        return [named[name] for name in sorted(named)]

    def _not_yet(self, wanted: Split, health: Mapping[str, Mapping[int, bool]]) -> str:
        """Why the routes cannot follow yet, or nothing. Who answers already needs no proof of health, so that
        taking traffic away never waits.
        """
        for part in wanted.parts:
            if part.name not in health:
                return f"{part.name} is not known to Envoy yet"
        before = self.routed.get(wanted.service)
        known = set(before.answering) if before else self._given_up_on(wanted)
        for part in wanted.answering:
            if part not in known and not any(health[part.name].values()):
                return f"{part.name} has no healthy replica at the gateway"
        return ""

    def _given_up_on(self, wanted: Split) -> set[SplitPart]:
        """A gateway that starts waits for the first health checks, or it would send the canary's units elsewhere;
        but not for ever, or one dead service would keep the pod from all others.
        """
        since = self._first_seen.setdefault(wanted.service, self.clock())
        return set(wanted.parts) if self.clock() - since > _START_SECONDS else set()

    def _publish(self, kind: str, resources: list[dict[str, Any]]) -> None:
        file = self.gateway.discovery / _FILES[kind]
        before = published_version(file)
        # A pod whose disk is full still does what the cluster wants, which may be to take traffic away.
        if publish_if_new(file, resources, before, from_reserve=True) != before:
            self._confirm(kind)

    def _confirm(self, kind: str) -> None:
        file = self.gateway.discovery / _FILES[kind]
        deadline = time.monotonic() + self.apply_seconds
        while self.admin.applied_version(kind) != published_version(file):
            if time.monotonic() > deadline:
                raise ServingError(
                    f"Envoy did not apply {file} within {self.apply_seconds:g} s; its log says why"
                )
            time.sleep(0.005)

    def _service(self, split: Split) -> Service:
        return Service(
            name=split.service,
            stable=self._revision(split, split.stable),
            canary=self._revision(split, split.canary),
            canary_weight=split.weight,
            salt=split.salt,
            mirror=split.mirror,
            timeout_ms=split.timeout_ms,
        )

    def _revision(self, split: Split, part: SplitPart | None) -> GatewayRevision | None:
        return GatewayRevision(name=part.name, endpoints=(self.addresses(split, part),)) if part else None
