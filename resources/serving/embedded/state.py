"""The desired state of one service, the changes that a rollout makes to it, and the file it is kept in."""

import logging
import math
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipelines.core.errors import ServingError
from resources.files import lock, replace_with_spare
from resources.serving.contract import Lapse, ModelArtefact
from resources.serving.lease import lapse_of

_DEFAULT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition:
    """The part of `spec.predictor` that means something without a cluster."""

    replicas: int
    """Processes of each revision: `minReplicas`, at least 1. There is no autoscaler here."""
    timeout_ms: int
    environment: Mapping[str, str]
    """`model.env` entries that carry a value, and the threads that `limits.cpu` allows."""

    @classmethod
    def of(cls, inference_service: Mapping[str, Any]) -> "ServiceDefinition":
        """Read an InferenceService as it stands in its YAML."""
        predictor: Mapping[str, Any] = inference_service.get("spec", {}).get("predictor", {})
        return cls(
            replicas=max(1, int(predictor.get("minReplicas", 1))),
            timeout_ms=round(float(predictor.get("timeout", _DEFAULT_TIMEOUT_SECONDS)) * 1000),
            environment=_environment(predictor.get("model", {})),
        )


def _environment(model: Mapping[str, Any]) -> dict[str, str]:
    limit = model.get("resources", {}).get("limits", {}).get("cpu")
    threads = {} if limit is None else {"OMP_NUM_THREADS": str(max(1, math.floor(_cpus(str(limit)))))}
    return threads | {
        entry["name"]: str(entry["value"]) for entry in model.get("env", []) if "value" in entry
    }


def _cpus(quantity: str) -> float:
    """Kubernetes' `500m` or `2` in cores."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


# The desired state of one service, and the changes that a rollout makes to it. Pure.


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A revision with its processes, one per port."""

    name: str
    model: str
    version: str
    digest: str
    ports: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DesiredCanary:
    """The revision on trial."""

    revision: Deployed
    salt: str
    percent: float = 0.0
    mirror: bool = False
    command: int = 0
    """Counts the commands that set its share; a slow command gives way to a newer one."""
    leased: bool = True
    """Whether its share is taken away where nobody watches it."""
    lapse: Lapse | None = None
    """What was taken away so since the last command."""


@dataclass(frozen=True, kw_only=True)
class ServiceState:
    """What should be in force. Everything that the gateway needs to know is here."""

    service: str
    timeout_ms: int = 60_000
    serial: int = 0
    """Number of the last revision; never used twice."""
    stable: Deployed | None = None
    canary: DesiredCanary | None = None
    retiring: tuple[Deployed, ...] = ()
    """Out of the routes, but not stopped yet."""

    def deployed(self) -> tuple[Deployed, ...]:
        """Every revision that has processes."""
        live = (self.stable, self.canary.revision if self.canary else None)
        return tuple(revision for revision in live if revision is not None) + self.retiring

    @property
    def leased(self) -> DesiredCanary | None:
        """The canary, if it has what may lapse, and there is who takes the traffic."""
        canary = self.canary
        if canary is None or self.stable is None or not canary.leased:
            return None
        return canary if canary.percent > 0 or canary.mirror else None

    def canary_of(self, version: str) -> DesiredCanary:
        """The canary, if it is this version. Raises `ServingError` saying what is there instead."""
        if self.canary is None or self.canary.revision.version != version:
            there = f"version {self.canary.revision.version}" if self.canary else "none"
            raise ServingError(f"{self.service}: version {version} is not the canary (the canary is {there})")
        return self.canary


def begin_canary(state: ServiceState, artefact: ModelArtefact, *, salt: str) -> ServiceState:
    """The state with `artefact` as its canary at 0 %, without processes yet; unchanged if it is there."""
    if state.stable is not None and state.stable.version == artefact.version:
        raise ServingError(f"{state.service}: version {artefact.version} is already the stable revision")
    if state.canary is not None:
        _require_same(state, artefact)
        return state
    serial = state.serial + 1
    revision = Deployed(
        name=f"{state.service}-{serial:05d}",
        model=artefact.model,
        version=artefact.version,
        digest=artefact.digest,
        ports=(),
    )
    return replace(state, serial=serial, canary=DesiredCanary(revision=revision, salt=salt))


def _require_same(state: ServiceState, artefact: ModelArtefact) -> None:
    present = state.canary_of(artefact.version).revision
    if present.digest != artefact.digest:
        raise ServingError(
            f"{state.service}: version {artefact.version} is the canary with digest {present.digest[:12]},"
            f" asked for was {artefact.digest[:12]}: roll it back first"
        )


def with_ports(state: ServiceState, version: str, ports: tuple[int, ...]) -> ServiceState:
    """The state with these processes for the canary."""
    canary = state.canary_of(version)
    return replace(state, canary=replace(canary, revision=replace(canary.revision, ports=ports)))


def with_share(
    state: ServiceState,
    version: str,
    *,
    percent: float,
    mirror: bool = False,
    salt: str | None = None,
    leased: bool = True,
) -> ServiceState:
    """The state with this share for the canary; any command that is still under way is superseded, and a lapse is over."""
    canary = state.canary_of(version)
    changed = replace(
        canary,
        percent=percent,
        mirror=mirror,
        salt=canary.salt if salt is None else salt,
        command=canary.command + 1,
        leased=leased,
        lapse=None,
    )
    return replace(state, canary=changed)


def without_share(state: ServiceState, *, lease: timedelta) -> ServiceState:
    """The state after its canary's lease has run out; what it had is in its `lapse`. As it is where nothing may lapse."""
    canary = state.leased
    if canary is None:
        return state
    lapse = lapse_of(canary.revision.version, percent=canary.percent, mirror=canary.mirror, lease=lease)
    taken = replace(canary, percent=0.0, mirror=False, command=canary.command + 1, lapse=lapse)
    return replace(state, canary=taken)


def promoted(state: ServiceState, version: str) -> ServiceState:
    """The state with the canary as the stable revision and the previous one retiring."""
    canary = state.canary_of(version)
    retiring = state.retiring + ((state.stable,) if state.stable else ())
    return replace(state, stable=canary.revision, canary=None, retiring=retiring)


def rolled_back(state: ServiceState, version: str) -> ServiceState:
    """The state without the canary, unchanged if this version is not there."""
    if state.canary is not None and state.canary.revision.version == version:
        return replace(state, canary=None, retiring=(*state.retiring, state.canary.revision))
    if state.stable is not None and state.stable.version == version:
        raise ServingError(
            f"{state.service}: version {version} is the stable revision; only a canary rolls back"
        )
    return state


def without(state: ServiceState, revision: str) -> ServiceState:
    """The state after a retiring revision was stopped."""
    return replace(state, retiring=tuple(each for each in state.retiring if each.name != revision))


# Desired states in files: replaced atomically, changed under a lock that other processes respect.


log = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that what takes traffic away waits for a lock, which is held for milliseconds."""

KEPT = 30.0
"""Seconds in which nothing that takes traffic away waits for a lock again that was kept for all of that: whoever has it is
frozen, and the shares of many services may be waiting."""

_STATE = TypeAdapter(ServiceState)


class DamagedState(ServingError):
    """A service's file that holds no state, or that cannot be read."""


class StateStore:
    """One JSON file per service. Locks are held for milliseconds: nobody waits for a model under one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, float] = {}
        """Locks that were waited for in vain, and when."""

    def read(self, service: str) -> ServiceState:
        """The state of a service; an empty one if it was never deployed."""
        return _parse(self._path(service)) or ServiceState(service=service)

    def read_all(self) -> list[ServiceState]:
        """Every service's state, in the order of their names."""
        found = (_parse(path) for path in sorted(self._folder.glob("[!.]*.json")))
        return [state for state in found if state is not None]

    def readable(self) -> tuple[list[ServiceState], set[str]]:
        """The states that can be read, and the names of the services whose state is damaged."""
        states: list[ServiceState] = []
        damaged: set[str] = set()
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                state = _parse(path)
            except DamagedState:
                damaged.add(path.stem)
            else:
                states += [] if state is None else [state]
        return states, damaged

    def write(self, state: ServiceState, *, from_reserve: bool = False) -> None:
        """Replace the file; a reader sees the old state or the new one. Call it under `changing`.

        `from_reserve`: see `resources.files`. Raises ServingError where it cannot be written.
        """
        path = self._path(state.service)
        try:
            replace_with_spare(path, _STATE.dump_json(state, indent=1), from_reserve=from_reserve)
        except OSError as error:
            raise ServingError(f"{path} cannot be written: {error.strerror}") from error

    @contextmanager
    def changing(self, service: str, *, patience: float | None = None) -> Generator[ServiceState, None, None]:
        """Hold the service's lock and get its state. Take it before `everything`.

        After `patience` seconds, which is for what takes traffic away, go on without it: whoever has it is frozen.
        """
        with self._lock(f".{service}.lock", patience):
            yield self.read(service)

    @contextmanager
    def everything(self, *, patience: float | None = None) -> Generator[bool, None, None]:
        """Hold the lock on what services share: ports and the gateway's files. False: without it, see `changing`."""
        with self._lock(".lock", patience) as held:
            yield held

    def _path(self, service: str) -> Path:
        return self._folder / f"{service}.json"

    @contextmanager
    def _lock(self, name: str, patience: float | None) -> Generator[bool, None, None]:
        path = self._folder / name
        with ExitStack() as stack:
            try:
                wait = None if patience is None else timedelta(seconds=self._patience(name, patience))
                held = stack.enter_context(lock(path, wait=wait))
            except OSError as error:
                raise ServingError(f"the lock {path} cannot be taken: {error.strerror}") from error
            if held:
                self._kept.pop(name, None)
            elif wait:
                self._kept[name] = time.monotonic()
                log.warning("%s: somebody has held this lock for %g s; going on without it", path, patience)
            yield held

    def _patience(self, name: str, most: float) -> float:
        """Nothing for a lock that somebody has just been waited for in vain."""
        return 0.0 if time.monotonic() - self._kept.get(name, float("-inf")) < KEPT else most


def _parse(path: Path) -> ServiceState | None:
    """None where there is no such file: what cannot be read is not "nothing is served"."""
    try:
        return _STATE.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedState(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise DamagedState(f"{path} is damaged: {error}") from error
