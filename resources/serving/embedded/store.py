"""Desired states in files: replaced atomically, changed under a lock that other processes respect."""

import fcntl
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import ServingError
from resources.reserve import replace
from resources.serving.embedded.state import ServiceState

_STATE = TypeAdapter(ServiceState)


class DamagedState(ServingError):
    """A service's file that holds no state."""


class StateStore:
    """One JSON file per service. Locks are held for milliseconds: nobody waits for a model under one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, service: str) -> ServiceState:
        """The state of a service; an empty one if it was never deployed."""
        path = self._path(service)
        return _parse(path) if path.exists() else ServiceState(service=service)

    def read_all(self) -> list[ServiceState]:
        """Every service's state, in the order of their names."""
        return [_parse(path) for path in sorted(self._folder.glob("[!.]*.json"))]

    def readable(self) -> tuple[list[ServiceState], set[str]]:
        """The states that can be read, and the names of the services whose state is damaged."""
        states: list[ServiceState] = []
        damaged: set[str] = set()
        for path in sorted(self._folder.glob("[!.]*.json")):
            try:
                states.append(_parse(path))
            except DamagedState:
                damaged.add(path.stem)
        return states, damaged

    def write(self, state: ServiceState, *, from_reserve: bool = False) -> None:
        """Replace the file; a reader sees the old state or the new one. Call it under `changing`.

        `from_reserve`: see `resources.reserve`. Raises ServingError where it cannot be written.
        """
        path = self._path(state.service)
        try:
            replace(path, _STATE.dump_json(state, indent=1), from_reserve=from_reserve)
        except OSError as error:
            raise ServingError(f"{path} cannot be written: {error.strerror}") from error

    @contextmanager
    def changing(self, service: str) -> Generator[ServiceState, None, None]:
        """Hold the service's lock and get its state. Take it before `everything`."""
        with self._lock(f".{service}.lock"):
            yield self.read(service)

    @contextmanager
    def everything(self) -> Generator[None, None, None]:
        """Hold the lock on what services share: ports and the gateway's files."""
        with self._lock(".lock"):
            yield

    def _path(self, service: str) -> Path:
        return self._folder / f"{service}.json"

    @contextmanager
    def _lock(self, name: str) -> Generator[None, None, None]:
        with _opened(self._folder / name) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _opened(path: Path) -> IO[str]:
    try:
        return path.open("a")
    except OSError as error:
        raise ServingError(f"the lock {path} cannot be opened: {error.strerror}") from error


def _parse(path: Path) -> ServiceState:
    try:
        return _STATE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise DamagedState(f"{path} is damaged: {error}") from error
