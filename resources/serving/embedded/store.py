"""Desired states in files: replaced atomically, changed under a lock that other processes respect."""

import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import ServingError
from resources.serving.embedded.state import ServiceState

_STATE = TypeAdapter(ServiceState)


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

    def write(self, state: ServiceState) -> None:
        """Replace the file; a reader sees the old state or the new one. Call it under `changing`."""
        path = self._path(state.service)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with draft.open("wb") as file:
            file.write(_STATE.dump_json(state, indent=1))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)

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
        with (self._folder / name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _parse(path: Path) -> ServiceState:
    try:
        return _STATE.validate_json(path.read_bytes())
    except ValidationError as error:
        raise ServingError(f"{path} is damaged: {error}") from error
