"""A serving side and a registry in memory, for tests of the controller alone.

The serving side keeps the contract: it is one of the backends of `tests/conformance`. Nothing answers requests in
it, so it counts nothing and predicts nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, NamedTuple

from pipelines.core.errors import NotInRegistry, RampgateError, ServingError
from resources.serving.contract import (
    LEASE,
    Capabilities,
    Counters,
    Lapse,
    ModelArtefact,
    RevisionStatus,
    ServiceStatus,
    lapsed_meanwhile,
    not_replaced,
    one_by_one,
    overtaken,
    version_of,
)
from resources.serving.lease import Keeper, lapse_of

Hook = Callable[[str], None]


def _no_hook(call: str) -> None: ...


def _at_once(uri: str) -> None: ...


class Effect(NamedTuple):
    """A change of what is in force."""

    call: str
    version: str
    percent: float
    over: str | None = None
    """The version that was stable before."""
    of: str = ""
    """The version that a mark is about, beside which nothing came into force."""


@dataclass
class World:
    """What survives a crash of whoever calls: the serving side, the registry, and the order of changes."""

    status: dict[str, ServiceStatus] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    tags: dict[tuple[str, str, str], str] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    deleted: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Versions that somebody deleted in the registry."""
    broken: set[str] = field(default_factory=set[str])
    """Versions that do not answer a probe."""
    unleased: set[str] = field(default_factory=set[str])
    """Services whose canary has a share that does not lapse."""
    marks: dict[str, int] = field(default_factory=dict[str, int])
    """How often each service's share was set or renewed."""
    now: float = 0.0
    """Seconds on the serving side's own clock, which nobody sets."""
    last_word: dict[str, float] = field(default_factory=dict[str, float])
    """When each service's share was set or renewed last, on that clock."""

    def of(self, service: str) -> ServiceStatus:
        return self.status.get(service, ServiceStatus(service=service, stable=None, canary=None))

    def change(self, call: str, version: str, status: ServiceStatus) -> None:
        before = self.of(status.service)
        if status != before:
            self.status[status.service] = status
            over = None if before.stable is None else before.stable.version
            self.effects.append(Effect(call, version, _share(status, version), over))

    def leased(self, service: str) -> RevisionStatus | None:
        """The canary, where it has what may lapse."""
        status = self.of(service)
        if status.canary is None or status.stable is None or service in self.unleased:
            return None
        return status.canary if status.canary.percent > 0 or status.mirror else None

    def lapse(self, service: str, lease: timedelta = LEASE) -> Lapse | None:
        """The serving side takes away what nobody has watched; None where there is nothing to be taken away."""
        canary, status = self.leased(service), self.of(service)
        if canary is None:
            return None
        lapse = lapse_of(canary.version, percent=canary.percent, mirror=status.mirror, lease=lease)
        self.change("lapse", canary.version, replace(_weighted(status, 0.0), mirror=False, lapse=lapse))
        return lapse

    def share(self, service: str, version: str) -> float:
        return _share(self.of(service), version)

    def serving(self, service: str, version: str) -> None:
        """Make this version the stable one, and the champion."""
        stable = RevisionStatus(name=f"{service}-{version}", version=version, percent=100, ready=True)
        self.status[service] = ServiceStatus(service=service, stable=stable, canary=None)
        self.aliases[service, "champion"] = version

    def replace_stable(self, service: str, version: str) -> None:
        """Somebody makes another version the stable one by hand; a canary keeps its share."""
        status = self.of(service)
        percent = 100.0 if status.canary is None else 100.0 - status.canary.percent
        stable = RevisionStatus(name=f"{service}-{version}", version=version, percent=percent, ready=True)
        self.change("by hand", version, replace(status, stable=stable))

    def delete(self, model: str, version: str) -> None:
        """Somebody deletes the version in the registry, which drops its aliases."""
        self.deleted.add((model, version))
        for key in [key for key, held in self.aliases.items() if (key[0], held) == (model, version)]:
            del self.aliases[key]


def _share(status: ServiceStatus, version: str) -> float:
    sides = (status.stable, status.canary)
    return sum(side.percent for side in sides if side is not None and side.version == version)


class MemoryBackend:
    """`hook` is called with the name of each call before and after it takes effect, `start` while a model starts.

    Shares are leased, and what lapses says `World.lapse`; a `keeper` is asked for it at each call.
    """

    def __init__(
        self, world: World, hook: Hook = _no_hook, *, mirror: bool = True, start: Hook = _at_once
    ) -> None:
        self.world, self._hook, self._mirror, self._start = world, hook, mirror, start
        self.keeper: Keeper[int] | None = None

    def capabilities(self, service: str) -> Capabilities:
        return Capabilities(sticky=True, mirror=self._mirror, percent_step=0.01, lease=True)

    def renew(self, service: str, version: str) -> Lapse | None:
        self._keep_leases()
        self._hook("before renew")
        status = self.world.of(service)
        if status.canary is None or status.canary.version != version:
            return None
        self._mark(service)
        self._hook("after renew")
        return status.lapse

    def status(self, service: str) -> ServiceStatus:
        self._keep_leases()
        self._hook("before status")
        return self.world.of(service)

    def deploy_canary(
        self, service: str, artefact: ModelArtefact, *, percent: float, salt: str, mirror: bool = False
    ) -> ServiceStatus:
        def effect() -> ServiceStatus:
            status = self.world.of(service)
            if status.stable is not None and status.stable.version == artefact.version:
                return status
            if status.canary is not None and status.canary.version != artefact.version:
                raise ServingError(f"{service}: version {status.canary.version} is the canary")
            if status.canary is None:
                self._start_beside(status, artefact, salt)
            status = self.world.of(service)
            assert status.canary is not None
            ready = replace(status.canary, ready=True)
            over = None if percent > 0 or mirror else status.lapse
            if percent > 0 or mirror:
                self._begin_lease(service, leased=True)
            return _weighted(replace(status, canary=ready, salt=salt, mirror=mirror, lapse=over), percent)

        return self._call("deploy_canary", artefact.version, service, effect)

    def set_canary_percent(
        self,
        service: str,
        version: str,
        percent: float,
        *,
        expected: float | None = None,
        leased: bool = True,
    ) -> ServiceStatus:
        def effect() -> ServiceStatus:
            status = self.world.of(service)
            if status.stable is not None and status.stable.version == version:
                raise ServingError(f"{service}: version {version} is the stable one")
            if status.canary is None or status.canary.version != version:
                if percent == 0:
                    return status
                raise ServingError(f"{service}: version {version} is not the canary")
            there = status.canary.percent
            if problem := overtaken(service, version, share=there, expected=expected, percent=percent):
                raise ServingError(problem)
            self._begin_lease(service, leased=leased)
            return _weighted(replace(status, mirror=False, lapse=None), percent)

        return self._call("set_canary_percent", version, service, effect)

    def promote(self, service: str, version: str, *, replacing: str | None = None) -> ServiceStatus:
        def effect() -> ServiceStatus:
            status = self.world.of(service)
            if status.stable is not None and status.stable.version == version:
                return status
            if status.canary is None or status.canary.version != version:
                raise ServingError(f"{service}: version {version} is not the canary")
            if problem := not_replaced(
                service, version, stable=version_of(status.stable), replacing=replacing
            ):
                raise ServingError(problem)
            if status.lapse is not None:
                raise ServingError(lapsed_meanwhile(service, status.lapse))
            stable = replace(status.canary, percent=100.0)
            return replace(status, stable=stable, canary=None, mirror=False)

        return self._call("promote", version, service, effect)

    def roll_back(self, service: str, version: str) -> ServiceStatus:
        def effect() -> ServiceStatus:
            status = self.world.of(service)
            if status.stable is not None and status.stable.version == version:
                raise ServingError(f"{service}: version {version} is the stable one")
            if status.canary is None or status.canary.version != version:
                return status
            return replace(_weighted(status, 0.0), canary=None, mirror=False, lapse=None)

        return self._call("roll_back", version, service, effect)

    def counters(self, service: str) -> Counters:
        raise ServingError(f"{service}: nothing is counted in memory")

    def all_counters(self, services: Iterable[str]) -> Mapping[str, Counters | RampgateError]:
        return one_by_one(self.counters, services)

    def predict(self, service: str, version: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ServingError(f"{service}: version {version} does not predict in memory")

    def _start_beside(self, status: ServiceStatus, artefact: ModelArtefact, salt: str) -> None:
        """The version without traffic, until its model has started; a command that came meanwhile wins."""
        name = f"{status.service}-{artefact.version}"
        starting = RevisionStatus(name=name, version=artefact.version, percent=0, ready=False)
        self.world.status[status.service] = replace(status, canary=starting, salt=salt)
        self._start(artefact.uri)
        if self.world.of(status.service).canary is not starting:
            raise ServingError(
                f"{status.service}: version {artefact.version} was braked or rolled back while it was deployed"
            )

    def _begin_lease(self, service: str, *, leased: bool) -> None:
        (self.world.unleased.discard if leased else self.world.unleased.add)(service)
        self._mark(service)

    def _mark(self, service: str) -> None:
        self.world.marks[service] = self.world.marks.get(service, 0) + 1
        self.world.last_word[service] = self.world.now

    def _keep_leases(self) -> None:
        if self.keeper is not None:
            keep_leases(self.world, self.keeper)

    def _call(
        self, name: str, version: str, service: str, effect: Callable[[], ServiceStatus]
    ) -> ServiceStatus:
        self._keep_leases()
        self._hook(f"before {name}")
        self.world.change(name, version, effect())
        self._hook(f"after {name}")
        return self.world.of(service)


def keep_leases(world: World, keeper: Keeper[int]) -> None:
    """One look at every lease, as the serving side takes it by itself."""
    leased = [name for name in world.status if world.leased(name) is not None]
    for service in keeper.look({name: world.marks.get(name, 0) for name in leased}):
        world.lapse(service, keeper.lease)


def _weighted(status: ServiceStatus, percent: float) -> ServiceStatus:
    stable = status.stable
    return replace(
        status,
        stable=None if stable is None else replace(stable, percent=100.0 - percent),
        canary=None if status.canary is None else replace(status.canary, percent=percent),
    )


@dataclass(frozen=True)
class MemoryVersion:
    version: str
    aliases: tuple[str, ...] = ()
    stage: str = ""
    tags: Mapping[str, str] = field(default_factory=dict[str, str])


class MemoryRegistry:
    """Aliases and tags."""

    def __init__(self, world: World, hook: Hook = _no_hook) -> None:
        self.world, self._hook = world, hook

    def version_with_alias(self, model: str, alias: str) -> MemoryVersion | None:
        self._hook("before version_with_alias")
        version = self.world.aliases.get((model, alias))
        return None if version is None else MemoryVersion(version)

    def version(self, model: str, version: str) -> Any:
        self._hook("before version")
        if (model, version) in self.world.deleted:
            return None
        held = (alias for (name, alias), v in self.world.aliases.items() if (name, v) == (model, version))
        tags = {
            key: value for (name, v, key), value in self.world.tags.items() if (name, v) == (model, version)
        }
        return MemoryVersion(version, tuple(sorted(held)), tags=tags)

    def set_alias(self, model: str, alias: str, version: str) -> None:
        self._change(
            "set_alias", lambda: self._there(model, version).aliases.__setitem__((model, alias), version)
        )

    def remove_alias(self, model: str, alias: str) -> None:
        self._change("remove_alias", lambda: self.world.aliases.pop((model, alias), None))

    def tag(self, model: str, version: str, key: str, value: str) -> None:
        self._change(
            "tag", lambda: self._there(model, version).tags.__setitem__((model, version, key), value)
        )

    def _there(self, model: str, version: str) -> World:
        if (model, version) in self.world.deleted:
            raise NotInRegistry(f"Model Version (name={model}, version={version}) not found")
        return self.world

    def _change(self, name: str, effect: Callable[[], object]) -> None:
        self._hook(f"before {name}")
        effect()
        self._hook(f"after {name}")
