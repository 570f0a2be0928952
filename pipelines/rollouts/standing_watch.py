"""The watch that does not end where a tick ends: one thread polls every model's canary until nobody keeps it on."""

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipelines.core.errors import RampgateError
from pipelines.core.manifest.load import Model
from pipelines.rollouts.canary_watch import POLL, OpenRows, RolledBack, Strays, Watcher
from pipelines.rollouts.controller import Controller
from resources.ledger.ledger import Ledger
from resources.notifier import contained, in_words, say
from resources.serving.contract import Counters, ServingBackend

GRACE = timedelta(seconds=60)
"""How long it goes on without a tick: over the pause between two, a daemon that starts again, a loaded machine. A sensor
that somebody switched off ends the watch as late as this, and what it watched loses its share by its lease soon after."""

AGAIN = timedelta(seconds=1)
"""After the serving side could not be had."""

LEDGER_PATIENCE, LEDGER_PAUSE = timedelta(seconds=2), timedelta(seconds=5)
"""How long the watch waits for who has the ledger's lock, and when it asks again; together less than a lease, over all
models. What is to be written is kept until then."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """The systems that a round asks."""

    ledger: Ledger
    backend: ServingBackend
    controller: Controller


class Rounds:
    """One look after the other at all models' canaries."""

    def __init__(self, of: Watched, models: Sequence[Model]) -> None:
        self.of = of
        self._watchers = [Watcher(of.ledger, of.backend, of.controller, model) for model in models]
        self._rows = OpenRows(of.ledger)
        self._strays = Strays(of.ledger, of.controller, {model.name for model in models})

    def begin(self, log: logging.Logger) -> None:
        """Say in this log from now on what there is to say, and look at the ledger first."""
        self._rows.begin(log)
        for watcher in self._watchers:
            watcher.begin(log)

    def look(self, log: logging.Logger) -> list[RolledBack]:
        """Every model once; whatever goes wrong with one delays no other."""
        self._strays.poll(log)
        row_of = self._rows.by_model()
        counters = _read_at_once(self.of.backend, row_of)
        polled = (watcher.poll(row_of.get(watcher.model), counters) for watcher in self._watchers)
        return [rolled_back for rolled_back in polled if rolled_back is not None]

    def leave(self) -> None:
        """Write down what was counted."""
        for watcher in self._watchers:
            watcher.leave()

    @property
    def said(self) -> str:
        """What is watched, in words."""
        return "; ".join(watcher.said for watcher in self._watchers if watcher.said)


def _read_at_once(backend: ServingBackend, models: Collection[str]) -> Callable[[str], Counters]:
    """Each model's counters, of all read together when the first one is asked for."""
    found: dict[str, Counters | RampgateError] = {}

    def of(model: str) -> Counters:
        if not found:
            found.update(backend.all_counters(models))
        answer = found[model]
        if isinstance(answer, RampgateError):
            raise answer
        return answer

    return of


class StandingWatch:
    """One of a process. A tick keeps it on, lends it its log, and tells what it did.

    Two processes may watch at the same time: each sees what the other one counted, and one of them tells of a rollback.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = models
        self._connect: Callable[[], Watched] | None = None
        self._lock = threading.Lock()
        self._looked = threading.Event()
        self._complaint = ""
        self._until = 0.0
        self._thread: threading.Thread | None = None
        self._rounds: Rounds | None = None
        self._log, self._is_new_log = logging.getLogger(__name__), True
        self._news: list[RolledBack] = []

    def keep(
        self, connect: Callable[[], Watched], duration: timedelta, log: logging.Logger | None = None
    ) -> None:
        """Watch these systems for at least this long from now; until `rest`, in this log."""
        with self._lock:
            self._connect = connect
            self._until = max(self._until, time.monotonic() + duration.total_seconds())
            if log is not None:
                self._log, self._is_new_log, self._complaint = log, True, ""
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="guardrails", daemon=True)
                self._thread.start()

    def await_look(self, most: timedelta) -> None:
        """Wait until it has looked once, or has tried to, where it is on."""
        if self._thread is not None:
            self._looked.wait(most.total_seconds())

    def rest(self) -> None:
        """The tick is over: its log takes no more."""
        with self._lock:
            self._log, self._is_new_log = logging.getLogger(__name__), True

    def news(self) -> list[RolledBack]:
        """What was rolled back since this was asked last."""
        with self._lock:
            news, self._news = self._news, []
        return news

    @property
    def said(self) -> str:
        """What is watched, in words."""
        rounds = self._rounds
        return "" if rounds is None else rounds.said

    def _run(self) -> None:
        with Ledger.in_a_hurry(patience=LEDGER_PATIENCE, pause=LEDGER_PAUSE):
            self._watch()

    def _watch(self) -> None:
        while self._goes_on():
            pause = POLL
            try:
                self._round()
                self._complaint = ""
            except Exception as error:  # noqa: BLE001 -- the watch over all models ends for no error
                self._complain(error)
                pause = AGAIN
            self._looked.set()
            time.sleep(pause.total_seconds())

    def _complain(self, error: Exception) -> None:
        message = f"the guardrails cannot be watched: {in_words(error)}"
        if message != self._complaint:
            say(self._log, logging.ERROR, message, error)
        self._complaint = message

    def _goes_on(self) -> bool:
        """Decided under the lock, so that whoever keeps it on finds a thread that goes on, or none."""
        with self._lock:
            if time.monotonic() < self._until:
                return True
            self._thread = None
        if self._rounds is not None:
            self._rounds.leave()
        return False

    def _round(self) -> None:
        rounds = self._connected()
        with self._lock:
            log, is_new, self._is_new_log = self._log, self._is_new_log, False
        if is_new:
            rounds.begin(log)
        with contained(rounds.of.ledger, log, where="the guardrail watch"):
            done = rounds.look(log)
            with self._lock:
                self._news += done

    def _connected(self) -> Rounds:
        """Raises what the serving side raises where it cannot be had; kept until the systems are others."""
        connect = self._connect
        assert connect is not None, "nobody keeps it on"
        of = connect()
        if self._rounds is None or self._rounds.of != of:
            self._rounds, self._is_new_log = Rounds(of, self._models), True
        return self._rounds
