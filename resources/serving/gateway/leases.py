"""The leases of canaries in one pod of the gateway: who was watched, and what was taken from whom nobody watches."""

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pipelines.core.errors import ServingError
from resources.files import replace_with_spare
from resources.serving.contract import Lapse, lapsed_meanwhile
from resources.serving.kserve.assignment import Assignment, decode
from resources.serving.kserve.split import LapsedShare, Split, without_share
from resources.serving.lease import Keeper, lapse_of

_LOG = logging.getLogger(__name__)


class _PodMark(NamedTuple):
    revision: str
    command: int
    renewals: int


@dataclass
class PodLeases:
    """One thread calls `look`, others `renew`. What has lapsed stays so in a sidecar that starts again in its pod."""

    memory: Path
    keeper: Keeper[_PodMark] = field(default_factory=Keeper[_PodMark])

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._renewals: Counter[str] = Counter()
        self._shares, self._lapsed = _remembered(self.memory)

    def renew(self, service: str, version: str) -> Lapse | None:
        """Somebody watches this version. What it had and has lost, where it has."""
        with self._lock:
            lapsed, share = self._lapsed.get(service), self._shares.get(service)
            if lapsed is not None:
                return lapsed.lapse if share is not None and lapsed.lapse.version == version else None
            if share is not None and share.version == version:
                self._renewals[service] += 1
            return None

    def look(self, assignments: Mapping[str, Assignment], leased: set[str]) -> dict[str, LapsedShare]:
        """Look at every lease once; those that have run out now. `leased`: the services where something may lapse."""
        with self._lock:
            before = self._shares, self._lapsed
            self._shares = {name: assignments[name] for name in leased}
            # An assignment that is not in force for a while keeps its lapse: it would begin a lease of its own.
            kept = {name: each for name, each in self._lapsed.items() if each.is_of(assignments.get(name))}
            over = self._over(kept)
            self._lapsed = {**kept, **over}
            now = self._shares, self._lapsed
        if now != before:
            self._remember()
        return over

    def look_alone(self) -> dict[str, LapsedShare]:
        """The same by what was there last, before the cluster has answered a sidecar that starts again."""
        return self.look(dict(self._shares), set(self._shares))

    def lapsed(self) -> dict[str, LapsedShare]:
        """What is without its share now, by service."""
        with self._lock:
            return {name: each for name, each in self._lapsed.items() if name in self._shares}

    def applied(self, splits: Mapping[str, Split]) -> dict[str, Split]:
        """What should be in force, given what has lapsed."""
        gone = self.lapsed()
        return {name: without_share(each) if name in gone else each for name, each in splits.items()}

    def _over(self, kept: Mapping[str, LapsedShare]) -> dict[str, LapsedShare]:
        marks = {
            name: _PodMark(share.revision, share.command, self._renewals[name])
            for name, share in self._shares.items()
            if name not in kept
        }
        return {
            name: LapsedShare(mark.revision, mark.command, self._lapse(self._shares[name]))
            for name, mark in self.keeper.look(marks).items()
        }

    def _lapse(self, share: Assignment) -> Lapse:
        return lapse_of(share.version, percent=share.percent, mirror=share.mirror, lease=self.keeper.lease)

    def _remember(self) -> None:
        content = {
            "shares": {name: each.encode() for name, each in self._shares.items()},
            "lapsed": {name: each.encode() for name, each in self._lapsed.items()},
        }
        try:
            replace_with_spare(self.memory, json.dumps(content).encode(), from_reserve=True)
        except OSError as error:  # the lapse is in force; only a sidecar that starts again would miss it
            _LOG.error("%s cannot be written: %s", self.memory, error.strerror)


# Telling people, for which nothing but this pod is needed: the log has it in any case.


TRIES, AGAIN_SECONDS = 6, 10.0


def telling(urls: tuple[str, ...]) -> Callable[[str, Lapse], None]:
    """What alerts these apprise URLs, on a thread of its own for each lapse; nothing where there are none."""

    def tell(service: str, lapse: Lapse) -> None:
        if urls:
            threading.Thread(target=_tell, args=(service, lapse, urls), daemon=True).start()

    return tell


def _tell(service: str, lapse: Lapse, urls: tuple[str, ...]) -> None:
    """Each pod tells for itself: it is not known which of them the watcher still reaches."""
    try:
        from resources.notifier import lapse_alert, send

        body = f"gateway {os.environ.get('HOSTNAME', 'pod')}: {lapsed_meanwhile(service, lapse)}"
        alert = lapse_alert(service, model=service, version=lapse.version, body=body)
        for _ in range(TRIES):
            urls = send(alert, urls)
            if not urls:
                return
            time.sleep(AGAIN_SECONDS)
        _LOG.error("%d channels were not told that the share of %s has lapsed", len(urls), service)
    except Exception as error:  # noqa: BLE001 -- whoever cannot be told must not end the sidecar
        _LOG.error("nobody is told that the share of %s has lapsed: %s", service, type(error).__name__)


def _remembered(memory: Path) -> tuple[dict[str, Assignment], dict[str, LapsedShare]]:
    """What the sidecar before this one knew; nothing where that cannot be read: then every share has a lease anew."""
    try:
        found = json.loads(memory.read_bytes())
        shares = {name: decode(name, text) for name, text in found["shares"].items()}
        return shares, {name: LapsedShare.decode(each) for name, each in found["lapsed"].items()}
    except FileNotFoundError:
        return {}, {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ServingError) as error:
        _LOG.error("%s cannot be read, what has lapsed before is not known: %s", memory, error)
        return {}, {}
