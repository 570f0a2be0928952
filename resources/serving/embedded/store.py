"""Desired states in files: replaced atomically, changed under a lock that other processes respect."""

import logging
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipelines.errors import ServingError
from resources.files import lock
from resources.reserve import replace
from resources.serving.embedded.state import ServiceState

log = logging.getLogger(__name__)
PATIENCE = 1.0
"""Seconds that what takes traffic away waits for a lock, which is held for milliseconds."""
_STATE = TypeAdapter(ServiceState)


class DamagedState(ServingError):
    """A service's file that holds no state, or that cannot be read."""


class StateStore:
    """One JSON file per service. Locks are held for milliseconds: nobody waits for a model under one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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

        `from_reserve`: see `resources.reserve`. Raises ServingError where it cannot be written.
        """
        path = self._path(state.service)
        try:
            replace(path, _STATE.dump_json(state, indent=1), from_reserve=from_reserve)
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
                wait = None if patience is None else timedelta(seconds=patience)
                held = stack.enter_context(lock(path, wait=wait))
            except OSError as error:
                raise ServingError(f"the lock {path} cannot be taken: {error.strerror}") from error
            if not held:
                log.warning("%s: somebody has held this lock for %g s; going on without it", path, patience)
            yield held


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
