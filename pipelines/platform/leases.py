"""Keeps the leases of this machine's canaries beside the watch over its parts, and tells people without Dagster."""

import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.core.errors import LedgerError
from pipelines.core.manifest.load import load_models
from pipelines.core.rollout.alerts import Alert
from resources.notifier import Notifier, in_words, lapse_alert, say
from resources.serving.embedded.lease import LeaseGuard, TakenAway
from resources.serving.lease import LOOK
from resources.settings import Settings

log = logging.getLogger(__name__)

BEAT_SECONDS = 2.0

AGAIN_SECONDS = 10.0
"""Between two tries to tell what the ledger, or a channel, did not take."""


@dataclass(kw_only=True)
class LeaseWatch:
    """Two threads: one looks at the leases and takes away, the other one tells, for that may take long."""

    guard: LeaseGuard
    teller: "Teller"
    beat: Path
    """Written while the leases are looked at."""
    every: float = LOOK.total_seconds()
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])
    _complaint: str = ""
    _beaten: float = float("-inf")

    def start(self) -> None:
        """Both, until `stop` or the end of the process."""
        jobs = (self._keep, self._tell)
        self._threads = [threading.Thread(target=job, daemon=True) for job in jobs]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait until both have ended."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def alive(self) -> bool:
        """Whether both threads are there; a new process would have them again."""
        return all(thread.is_alive() for thread in self._threads)

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                for done in self.guard.look():
                    say(log, logging.ERROR, f"{done.words}{_but(done)}")
                    self.teller.tell(done)
                self._complaint = ""
                self._beat()
            except Exception as error:  # noqa: BLE001 -- whatever it is, the next look is at all the other leases, too
                self._complain(error)
            self._stop.wait(self.every)

    def _beat(self) -> None:
        """Now and then: a look every half second is worth no write to the disk."""
        if time.monotonic() >= self._beaten + BEAT_SECONDS:
            self.beat.touch()
            self._beaten = time.monotonic()

    def _complain(self, error: Exception) -> None:
        message = f"the leases of canaries cannot be looked at: {in_words(error)}"
        if message != self._complaint:
            say(log, logging.ERROR, message, error)
        self._complaint = message

    def _tell(self) -> None:
        while not self._stop.is_set():
            try:
                self.teller.work(seconds=self.every)
            except Exception as error:  # noqa: BLE001 -- one alert that cannot be told must not silence the next
                say(log, logging.ERROR, f"a lapse cannot be told: {in_words(error)}", error)


class Teller:
    """Alerts about lapses, told at once from this process, and again until the ledger and every channel have them."""

    def __init__(self, settings: Settings, notifier: Notifier) -> None:
        self._settings, self._notifier = settings, notifier
        self._news: queue.SimpleQueue[TakenAway] = queue.SimpleQueue()
        self._untold: list[TakenAway] = []
        self._undelivered = False
        self._again_at = 0.0

    def tell(self, done: TakenAway) -> None:
        """Have it told; does not wait."""
        self._news.put(done)

    def work(self, *, seconds: float) -> None:
        """Tell what there is to tell; waits up to `seconds` for something."""
        try:
            self._tell(self._news.get(timeout=seconds))
        except queue.Empty:
            self._tell_again()

    def _tell(self, done: TakenAway) -> None:
        self._undelivered = True
        self._again_at = time.monotonic() + AGAIN_SECONDS
        if not self._notifier.deliver_now(self._alert(done)):
            self._untold.append(done)

    def _tell_again(self) -> None:
        if not self._undelivered or time.monotonic() < self._again_at:
            return
        self._again_at = time.monotonic() + AGAIN_SECONDS
        self._untold = [done for done in self._untold if not self._notifier.deliver_now(self._alert(done))]
        try:
            self._undelivered = self._notifier.deliver().waiting > 0 or bool(self._untold)
        except LedgerError as error:
            say(log, logging.WARNING, f"alerts cannot be delivered: {error}")

    def _alert(self, done: TakenAway) -> Alert:
        lease = f"{done.service}:{done.revision}:{done.command}{':trouble' if done.trouble else ''}"
        body = f"{done.words}{_but(done)}. {_WHAT_TO_DO}"
        return lapse_alert(
            lease,
            model=done.service,
            version=done.version,
            body=body,
            channels=self._channels(done.service),
        )

    def _channels(self, model: str) -> tuple[str, ...]:
        """The manifest's own, for what is critical; none where it cannot be read."""
        found = load_models(self._settings.manifests, only=model).models
        return next((each.rollout.alerts.critical for each in found if each.name == model), ())


_WHAT_TO_DO = "`make status` says what does not run, `make up` starts it"


def _but(done: TakenAway) -> str:
    return f"; NOT known to be done, tried again: {done.trouble}" if done.trouble else ""
