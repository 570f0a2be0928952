"""The leases of canaries on one machine: what watchers leave behind, and what is done where they do not.

A watcher marks the time of a file, which needs no lock and no free byte. Another process looks at the files: whatever
has stopped the watcher has not stopped it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pipelines.core.errors import ServingError
from resources.serving.contract import LEASE, lapsed_meanwhile
from resources.serving.embedded.brake import Brake
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.state import DamagedState, ServiceState, StateStore, without_share
from resources.serving.lease import LOOK, Keeper, unwatched_for
from resources.settings import Settings


class Leases:
    """One file for each service whose canary has a leased share; its time is the last word of whoever watches it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def renew(self, service: str) -> None:
        """Somebody watches. Raises ServingError where it cannot be marked."""
        path = self._folder / service
        try:
            self._folder.mkdir(exist_ok=True)
            path.touch()
        except OSError as error:
            raise ServingError(f"{path} cannot be written: {error.strerror}") from error

    def end(self, service: str) -> None:
        """There is no leased share any more. Raises ServingError."""
        path = self._folder / service
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise ServingError(f"{path} cannot be removed: {error.strerror}") from error

    def last_word(self, service: str) -> int | None:
        """When somebody watched, in nanoseconds of a clock that may be set; None: never, or it cannot be told."""
        try:
            return (self._folder / service).stat().st_mtime_ns
        except OSError:
            return None


class _Mark(NamedTuple):
    """What a lease is judged by: another revision, another command or another word of the watcher begins it anew."""

    revision: str
    """Empty where the state is damaged."""
    command: int
    last_word: int | None


@dataclass(frozen=True, kw_only=True)
class TakenAway:
    """What was done about a share that nobody watched."""

    service: str
    version: str
    """Empty where the service's state is damaged: it is not known whose share it was."""
    revision: str
    command: int
    """With the revision it names the lease that has run out."""
    words: str
    trouble: str = ""
    """Why it is not known to be away, or not written down; it is tried again."""

    @property
    def is_owed(self) -> bool:
        """Whether it was decided, and is to be carried through whoever watches now. Not where it was not even begun."""
        return bool(self.trouble) and (bool(self.version) or not self.revision)


_UNKNOWN = _Mark("", 0, None)
"""Of a state that is, or was, damaged."""

_Judge = Callable[[ServiceState, _Mark], ServiceState | None]
"""The state without its share; None where it keeps it."""


class LeaseGuard:
    """Takes away every share that nobody watches: traffic first, then the record.

    Nothing of it needs the ledger, the watchers, Dagster or a free byte. A full disk, a lock that somebody keeps and
    another service's damaged state are no obstacle.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        lease: timedelta = LEASE,
        every: timedelta = LOOK,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        layout = Layout(settings.home)
        layout.create()
        self._store = StateStore(layout.states)
        self._gateway = EmbeddedGateway(settings, self._store)
        self._leases = Leases(layout.leases)
        self._brake = Brake(self._store, self._gateway)
        self._states = _States(layout.states, self._store)
        self._lease = lease
        self._keeper = Keeper[_Mark](lease=lease, every=every, clock=clock)
        self._owed: dict[str, _Mark] = {}
        """Leases that are over, and whose end is not known to be in force and written down."""
        self._released: set[str] = set()
        """Services whose share was taken away while their state was damaged."""
        self._said: dict[str, TakenAway] = {}

    def look(self) -> list[TakenAway]:
        """Look at every lease once. Returns what was done, once for each share and once more where it went wrong before.

        Raises OSError where there is no folder of states to be looked at; what goes wrong with one share is in the answer.
        """
        states, damaged = self._states.read()
        mended = dict.fromkeys(self._released - damaged, _UNKNOWN)
        self._released &= damaged
        owed = mended | self._owed
        marks = self._keeper.look(self._marks(states, damaged))
        over = {name: mark for name, mark in marks.items() if name not in owed}
        tried = [self._take_away(name, mark, self._decided) for name, mark in owed.items()]
        tried += [self._take_away(name, mark, self._unwatched) for name, mark in over.items()]
        done = self._confirmed([each for each in tried if each is not None])
        self._owed = {each.service: (owed | over)[each.service] for each in done if each.is_owed}
        news = [each for each in done if self._is_news(each)]
        self._said = {each.service: each for each in done}
        return news

    def _marks(self, states: Sequence[ServiceState], damaged: set[str]) -> dict[str, _Mark]:
        marks = {state.service: mark for state in states if (mark := self._mark(state)) is not None}
        words = {service: self._leases.last_word(service) for service in damaged}
        # Of a damaged state nobody can tell whether it has a leased share: its lease can.
        return marks | {
            service: _UNKNOWN._replace(last_word=word) for service, word in words.items() if word is not None
        }

    def _mark(self, state: ServiceState) -> _Mark | None:
        """None where nothing may lapse."""
        canary = state.leased
        if canary is None:
            return None
        return _Mark(canary.revision.name, canary.command, self._leases.last_word(state.service))

    def _take_away(self, service: str, mark: _Mark, judge: _Judge) -> TakenAway | None:
        """None where there is nothing to be taken away any more: somebody watches, or has set another share."""
        after: list[ServiceState] = []

        def change(state: ServiceState) -> ServiceState | None:
            changed = judge(state, mark)
            after.extend([changed] if changed is not None else [])
            return changed

        try:
            problem = self._brake.pull(service, change)
        except DamagedState:
            return self._release(service, mark)
        except ServingError as error:
            return self._taken(service, mark, None, error)
        return self._taken(service, mark, after[0], problem) if after else None

    def _unwatched(self, state: ServiceState, mark: _Mark) -> ServiceState | None:
        """Judged again under the service's lock, where it is known what came meanwhile."""
        return without_share(state, lease=self._lease) if self._mark(state) == mark else None

    def _decided(self, state: ServiceState, mark: _Mark) -> ServiceState | None:
        """An earlier look took it away, and it could not be written down, or it is not known to be in force."""
        there = self._mark(state)
        if there is not None:
            same = not mark.revision or there[:2] == mark[:2]
            return without_share(state, lease=self._lease) if same else None
        return state if state.canary is not None and state.canary.lapse is not None else None

    def _release(self, service: str, mark: _Mark) -> TakenAway:
        """Where the state is damaged there is none to be written until it is mended, and then the share is away already."""
        problem = None
        try:
            self._brake.release(service)
            self._leases.end(service)
            self._released.add(service)
        except ServingError as error:
            problem = error
        return self._taken(service, mark, None, problem)

    def _taken(
        self, service: str, mark: _Mark, after: ServiceState | None, problem: ServingError | None
    ) -> TakenAway:
        canary = None if after is None else after.canary
        lapse = None if canary is None else canary.lapse
        return TakenAway(
            service=service,
            version="" if lapse is None else lapse.version,
            revision=mark.revision,
            command=mark.command,
            words=unwatched_for(self._lease) if lapse is None else lapsed_meanwhile(service, lapse),
            trouble="" if problem is None else str(problem),
        )

    def _confirmed(self, done: list[TakenAway]) -> list[TakenAway]:
        """One confirmation for all: the routes are one file."""
        if not done:
            return done
        try:
            self._gateway.confirm("routes")
        except ServingError as error:
            return [replace(each, trouble=each.trouble or str(error)) for each in done]
        return done

    def _is_news(self, done: TakenAway) -> bool:
        """Whether the look before did not say it, or said that it could not be done."""
        before = self._said.get(done.service)
        if before is None or (before.revision, before.command) != (done.revision, done.command):
            return True
        return bool(before.trouble) and not done.trouble


class _States:
    """The states of all services, read again only where something in their folder was replaced."""

    def __init__(self, folder: Path, store: StateStore) -> None:
        self._folder, self._store = folder, store
        self._found: tuple[list[ServiceState], set[str]] = ([], set())
        self._stamp: int | None = None
        self._settled = False

    def read(self) -> tuple[list[ServiceState], set[str]]:
        """Those that can be read, and the names of the damaged ones. Raises OSError where there is no folder."""
        stamp = self._folder.stat().st_mtime_ns
        if stamp != self._stamp or not self._settled or self._found[1]:
            # What is replaced right after the stamp was taken may bear the same one: read once more at the next look.
            self._settled, self._stamp = stamp == self._stamp, stamp
            self._found = self._store.readable()
        return self._found
