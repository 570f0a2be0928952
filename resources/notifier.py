"""Delivers the ledger's alerts: to a file always, and through apprise to whatever channels are configured.

At least once: an alert is marked after a channel took it. A channel that fails is tried again later, with growing
pauses; it holds up neither the other channels nor whoever calls.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from pipelines.rollout.alerts import Alert
from resources.ledger import Delivery, Ledger
from resources.settings import HOST, Settings

log = logging.getLogger(__name__)

FILE = "file"
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

    def deliver(self) -> Delivered:
        """Try every alert that is due on every channel that has not got it. Raises LedgerError alone."""
        with self._ledger.exclusive("notifier", wait=timedelta(0)) as held:
            if not held:
                return Delivered(waiting=len(self._ledger.outbox.waiting()))
            return self._deliver()

    def link(self, alert: Alert) -> str:
        """The rollout's report; Dagster's UI for an alert that belongs to no rollout."""
        if not alert.rollout_id:
            return f"http://{HOST}:{self._settings.ports.dagster}"
        return f"http://{HOST}:{self._settings.ports.reports}/{alert.rollout_id}.html"

    def _deliver(self) -> Delivered:
        sent = failed = waiting = 0
        broken: set[str] = set()
        for alert in self._ledger.outbox.waiting():
            before = self._ledger.outbox.deliveries(alert.key)
            channels = self._channels(alert)
            left = 0
            for name, channel in channels.items():
                outcome = self._try(alert, name, channel, before.get(name), broken)
                sent += outcome == "sent"
                failed += outcome == "failed"
                left += outcome in ("failed", "later")
            if left and self._clock() - alert.at < GIVE_UP:
                waiting += 1
            else:
                if left:
                    log.error("alert %s: given up after %s on %d channels", alert.key, GIVE_UP, left)
                self._ledger.outbox.finished(alert.key, self._clock())
        return Delivered(sent=sent, failed=failed, waiting=waiting)

    def _try(
        self, alert: Alert, name: str, channel: Channel, before: Delivery | None, broken: set[str]
    ) -> str:
        if before is not None and before.sent_at is not None:
            return "had"
        if name in broken or (before is not None and self._clock() < before.next_at):
            return "later"
        try:
            channel(alert, self._text(alert))
        except ChannelError as error:
            broken.add(name)
            pause = _pause(before.attempts if before else 0)
            log.warning("alert %s: channel %s: %s; again in %s", alert.key, name, error, pause)
            self._ledger.outbox.failed(alert.key, name, self._clock(), error=str(error), wait=pause)
            return "failed"
        self._ledger.outbox.sent(alert.key, name, self._clock())
        return "sent"

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
            _append_line(path, json.dumps(record))
        except OSError as error:
            raise ChannelError(f"{path}: {error.strerror}") from error


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


def _append_line(path: Path, line: str) -> None:
    """One write, so that lines of two processes never mix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def _pause(attempts: int) -> timedelta:
    return min(FIRST_PAUSE * 2 ** min(attempts, 10), LONGEST_PAUSE)
