"""Telling people: alerts go into the ledger's outbox, and from there to the channels."""

import errno
import hashlib
import json
import logging
import os
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from pipelines.core.errors import LedgerError, RampgateError
from pipelines.core.rollout.alerts import Alert
from resources.ledger.ledger import Delivery, Ledger
from resources.links import Links
from resources.settings import ROOT, Settings, shown


def platform_alert(
    ledger: Ledger, *, topic: str, title: str, body: str, model: str = "", once: str | None = None
) -> None:
    """Put an alert into the outbox; the same topic and body are one alert, or the same topic and `once`.

    Raises LedgerError.
    """
    digest = hashlib.sha256((body if once is None else once).encode()).hexdigest()[:12]
    ledger.outbox.add(
        Alert(
            key=f"platform:{topic}:{digest}",
            severity="warning",
            model=model,
            version="",
            rollout_id="",
            title=title,
            body=body,
            at=datetime.now(UTC),
        )
    )


def lapse_alert(lease: str, *, model: str, version: str, body: str, channels: tuple[str, ...] = ()) -> Alert:
    """A canary's share was taken away because nobody watched it; `lease` names the one that has run out."""
    whose = f"{model} version {version}" if version else model
    return Alert(
        key=f"lapsed:{lease}",
        severity="critical",
        model=model,
        version=version,
        rollout_id="",
        title=f"{whose}: nobody watched its share, so it was taken away",
        body=body,
        at=datetime.now(UTC),
        channels=channels,
    )


def alert_switched_off(ledger: Ledger, name: str, does: str, url: str) -> None:
    """One alert a day about a sensor or schedule that somebody has turned off. Raises LedgerError."""
    platform_alert(
        ledger,
        topic=f"off:{name}",
        title=f"{name} is off",
        body=f"{switched_off(does)}: {url}",
        once=f"{datetime.now(UTC):%Y-%m-%d}",
    )


def switched_off(does: str) -> str:
    """What it means that a sensor or schedule is off, by the first sentence of its description."""
    return f"somebody turned it off; until it is on, nobody does this: {first_sentence(does)}; turn it on in Dagster"


def first_sentence(text: str) -> str:
    """Up to the first full stop, without it."""
    return text.partition(". ")[0].strip().rstrip(".") or "what its name says"


# Boundaries: what one model, alert or report raises ends there, is said, and stops nobody else.


MOST_WORDS = 1000
"""Characters of an error in an alert."""


@dataclass
class Contained:
    """What a boundary kept in; empty where nothing was raised."""

    words: str = ""


@contextmanager
def contained(
    ledger: Ledger, log: logging.Logger, *, where: str, model: str = ""
) -> Generator[Contained, None, None]:
    """Whatever the block raises ends here: in the log with its traceback, and in one alert."""
    trouble = Contained()
    try:
        yield trouble
    except Exception as error:  # noqa: BLE001 -- nobody foresaw it, so that no list of types would hold it
        trouble.words = f"{where}: {in_words(error)}"
        tell(ledger, log, error, where=where, model=model)


def tell(ledger: Ledger, log: logging.Logger, error: Exception, *, where: str, model: str = "") -> None:
    """Log an error nobody foresaw, and alert once about it. Raises nothing: both may be on the disk that is full."""
    say(log, logging.ERROR, f"{where}: {in_words(error)}", error)
    try:
        platform_alert(
            ledger, topic=f"error:{where}", title=f"{where} failed", body=in_words(error), model=model
        )
    except Exception as second:  # noqa: BLE001 -- see `contained`
        say(log, logging.ERROR, f"{where}: no alert could be written: {in_words(second)}")


def say(log: logging.Logger, level: int, message: str, error: Exception | None = None) -> None:
    """A line in the log, with the error's traceback; a log whose disk is full ends nothing."""
    with suppress(OSError, ValueError):
        log.log(level, "%s", message, exc_info=error)


def in_words(error: Exception) -> str:
    """The error's type, and its text where we or the system wrote it; of others where it was raised.

    What a library says may quote rows, and these words go into alerts and the ledger. The log has all of it. Secrets of
    addresses are in none of it.
    """
    kind = type(error).__name__
    if isinstance(error, RampgateError | OSError):
        return shown(f"{kind}: {error}")[:MOST_WORDS]
    return f"{kind}{_place(error)}; its text is in the log"


def _place(error: Exception) -> str:
    """The last line of ours on the error's way."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if frame.filename.startswith(f"{ROOT}{os.sep}") and ".venv" not in frame.filename
    ]
    return f" at {os.path.relpath(ours[-1].filename, ROOT)}:{ours[-1].lineno}" if ours else ""


# Delivers the ledger's alerts: to a file always, and through apprise to whatever channels are configured.
#
# At least once: an alert is marked after a channel took it. A channel that fails is tried again later, with growing
# pauses; it holds up neither the other channels nor whoever calls.


log = logging.getLogger(__name__)

FILE = "file"

TURN = timedelta(seconds=2)
"""How long an alert that cannot wait waits for the turn of whoever delivers now, who may be frozen."""

FIRST_PAUSE = timedelta(seconds=10)

LONGEST_PAUSE = timedelta(minutes=15)

GIVE_UP = timedelta(days=1)
"""A channel that failed for this long does not get the alert any more."""

_TYPES = {"info": "info", "warning": "warning", "critical": "failure"}


class Channel(Protocol):
    """Takes one alert; raises ChannelError when it does not."""

    def __call__(self, alert: Alert, text: str) -> None: ...


class ChannelError(Exception):
    """A channel did not take an alert."""


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """What one round of deliveries came to."""

    sent: int = 0
    failed: int = 0
    waiting: int = 0
    """Alerts that some channel still has not got."""


class Notifier:
    """Empties one ledger's outbox. `environment` holds the channels' URLs under the names manifests use."""

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        *,
        clock: Callable[[], datetime],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._ledger, self._settings, self._clock = ledger, settings, clock
        self._environment = os.environ if environment is None else environment
        self._unmarked: set[tuple[str, str]] = set()
        """Alerts that channels have, and that the ledger does not know of."""

    def deliver(self) -> Delivered:
        """Try every alert that is due on every channel that has not got it. Raises LedgerError alone."""
        with self._ledger.exclusive("notifier", wait=timedelta(0)) as held:
            if not held:
                return Delivered(waiting=len(self._ledger.outbox.waiting()))
            return self._deliver()

    def deliver_now(self, alert: Alert) -> bool:
        """Tell this alert at once, whoever has the turn to deliver, and whether or not there is a ledger.

        Returns whether it is in the outbox; until then call it again, which tells no channel twice. Raises nothing.
        """
        missed = self._tell_past_the_ledger(alert)
        try:
            with self._ledger.exclusive("notifier", wait=TURN):
                self._ledger.outbox.add(alert)
                self._deliver_one(alert, missed)
        except LedgerError as error:
            say(log, logging.WARNING, f"alert {alert.key}: the ledger does not have it yet: {error}")
            return False
        return True

    def _tell_past_the_ledger(self, alert: Alert) -> set[str]:
        """The names of the channels that did not take it."""
        missed: set[str] = set()
        for name, channel in self._channels(alert).items():
            if (alert.key, name) in self._unmarked:
                continue
            problem = _problem(channel, alert, self._text(alert))
            if problem is None:
                self._unmarked.add((alert.key, name))
            else:
                say(log, logging.WARNING, f"alert {alert.key}: channel {name}: {problem}")
                missed.add(name)
        return missed

    def link(self, alert: Alert) -> str:
        """The rollout's report; Dagster's UI for an alert that belongs to no rollout."""
        links = Links(self._settings)
        return links.rollout_report(alert.rollout_id) if alert.rollout_id else links.dagster

    def _deliver(self) -> Delivered:
        sent = failed = waiting = 0
        broken: set[str] = set()
        for alert in self._ledger.outbox.waiting():
            try:
                one = self._deliver_one(alert, broken)
            except LedgerError as error:
                say(log, logging.WARNING, f"alert {alert.key}: {error}")
                one = Delivered(failed=1, waiting=1)
            except Exception as error:  # noqa: BLE001 -- one alert that cannot be told must not silence the others
                say(log, logging.ERROR, f"alert {alert.key}: {in_words(error)}", error)
                one = Delivered(failed=1, waiting=1)
            sent, failed, waiting = sent + one.sent, failed + one.failed, waiting + one.waiting
        return Delivered(sent=sent, failed=failed, waiting=waiting)

    def _deliver_one(self, alert: Alert, broken: set[str]) -> Delivered:
        before = self._ledger.outbox.deliveries(alert.key)
        outcomes = [
            self._try(alert, name, channel, before.get(name), broken)
            for name, channel in self._channels(alert).items()
        ]
        left = sum(outcome in ("failed", "later") for outcome in outcomes)
        done = Delivered(sent=outcomes.count("sent"), failed=outcomes.count("failed"), waiting=int(left > 0))
        if left and self._clock() - alert.at < GIVE_UP:
            return done
        if left:
            say(log, logging.ERROR, f"alert {alert.key}: given up after {GIVE_UP} on {left} channels")
        self._ledger.outbox.finished(alert.key, self._clock())
        return replace(done, waiting=0)

    def _try(
        self, alert: Alert, name: str, channel: Channel, before: Delivery | None, broken: set[str]
    ) -> str:
        if before is not None and before.sent_at is not None:
            return "had"
        if (alert.key, name) in self._unmarked:
            self._mark(alert, name)
            return "had"
        if name in broken or (before is not None and _is_not_due(before, self._clock())):
            return "later"
        problem = _problem(channel, alert, self._text(alert))
        if problem is not None:
            broken.add(name)
            pause = _pause(before.attempts if before else 0)
            say(log, logging.WARNING, f"alert {alert.key}: channel {name}: {problem}; again in {pause}")
            self._ledger.outbox.failed(alert.key, name, self._clock(), error=problem, wait=pause)
            return "failed"
        self._mark(alert, name)
        return "sent"

    def _mark(self, alert: Alert, name: str) -> None:
        """A ledger that cannot be told must not have the channel told again every second: this process remembers."""
        self._unmarked.add((alert.key, name))
        try:
            self._ledger.outbox.sent(alert.key, name, self._clock())
        except LedgerError as error:
            say(log, logging.WARNING, f"alert {alert.key}: channel {name} has it: {error}")
        else:
            self._unmarked.discard((alert.key, name))

    def _text(self, alert: Alert) -> str:
        return f"{alert.body}\n{self.link(alert)}"

    def _channels(self, alert: Alert) -> dict[str, Channel]:
        """By name; URLs are secrets and appear in no name, message or record."""
        channels: dict[str, Channel] = {FILE: self._write}
        for index, url in enumerate(self._settings.alert_urls, start=1):
            channels[f"RAMPGATE_ALERT_URLS#{index}"] = _Apprise((url,))
        for name in alert.channels:
            channels[name] = _Apprise(tuple(self._environment.get(name, "").split()))
        return channels

    def _write(self, alert: Alert, text: str) -> None:
        record = {
            "key": alert.key,
            "at": alert.at.isoformat(),
            "severity": alert.severity,
            "model": alert.model,
            "version": alert.version,
            "rollout_id": alert.rollout_id,
            "title": alert.title,
            "body": alert.body,
            "link": self.link(alert),
        }
        path = self._settings.home / "alerts.jsonl"
        try:
            _append_line(path, json.dumps(record).encode() + b"\n")
        except OSError as error:
            raise ChannelError(f"{path}: {error.strerror}") from error


def send(alert: Alert, urls: Sequence[str]) -> tuple[str, ...]:
    """Tell the alert to these apprise URLs where there is no outbox, once. Returns those that did not take it."""
    missed: list[str] = []
    for number, url in enumerate(urls, start=1):
        if problem := _problem(_Apprise((url,)), alert, alert.body):
            say(log, logging.WARNING, f"alert {alert.key}: channel {number}: {problem}")
            missed.append(url)
    return tuple(missed)


class _Apprise:
    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls

    def __call__(self, alert: Alert, text: str) -> None:
        if not self._urls:
            raise ChannelError("the environment variable is empty, expected apprise URLs")
        import apprise

        sender = apprise.Apprise()
        taken = sum(sender.add(url) for url in self._urls)
        if taken < len(self._urls):
            raise ChannelError("holds something that is not an apprise URL")
        kind = apprise.NotifyType(_TYPES[alert.severity])
        if not sender.notify(title=alert.title, body=text, notify_type=kind):
            raise ChannelError("did not take the alert")


def _problem(channel: Channel, alert: Alert, text: str) -> str | None:
    """Why the channel did not take it. Of an error nobody foresaw its type alone: its text may hold a URL's secrets."""
    try:
        channel(alert, text)
    except ChannelError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 -- a channel is other people's code; the other channels still deliver
        return type(error).__name__
    return None


def _append_line(path: Path, line: bytes) -> None:
    """One write, so that lines of two processes never mix; half a line, on a full disk, is taken back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def _is_not_due(before: Delivery, now: datetime) -> bool:
    """No pause is longer than the longest: a clock that was set back must not make one of it."""
    return timedelta(0) < before.next_at - now <= LONGEST_PAUSE


def _pause(attempts: int) -> timedelta:
    return min(FIRST_PAUSE * 2 ** min(attempts, 10), LONGEST_PAUSE)
