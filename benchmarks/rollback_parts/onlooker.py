"""Notes from outside what becomes of canaries' shares: by the leases, the states, the routes and the alerts."""

import json
import time
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.rollback_parts.rows import NotMeasurable
from pipelines.core.errors import ServingError
from resources.serving.embedded.gateway import EmbeddedGateway
from resources.serving.embedded.layout import Layout, gateway_of
from resources.serving.embedded.lease import Leases
from resources.serving.embedded.state import StateStore
from resources.serving.envoy.description import RDS, published
from resources.serving.envoy.routes import routes_of
from resources.settings import Settings

LOOK_S = 0.02


@dataclass(kw_only=True)
class Share:
    """What became of one canary's share; seconds since the epoch, 0 where it has not happened."""

    how: str
    """What was done to its watcher."""
    rollout: str
    blow: float
    last_word: float = 0.0
    """Of the watcher, before the share was away."""
    away: float = 0.0
    by_lease: bool = False
    alert: float = 0.0
    harmed: int = 0
    """Live requests that the canary did not answer well; the gateway asks the stable side once more."""
    after: int = 0
    """Live requests that were sent after 0 % was confirmed, and reached the canary."""

    @property
    def seconds(self) -> float:
        """From the watcher's last moment to 0 %."""
        return self.away - max(self.blow, self.last_word)


class Lapses:
    """The alerts about lapses in the file channel, as they come."""

    def __init__(self, settings: Settings) -> None:
        self._path, self._read = settings.home / "alerts.jsonl", 0

    def new(self) -> list[str]:
        """The models of those that came since this was asked last."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = [line for line in file if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        found = map(json.loads, lines)
        return [each["model"] for each in found if each["key"].startswith("lapsed:")]


class Onlooker:
    """Looks at all shares together, by model."""

    def __init__(self, settings: Settings, shares: dict[str, Share]) -> None:
        layout = Layout(settings.home)
        self._shares = shares
        self._store, self._leases = StateStore(layout.states), Leases(layout.leases)
        self._gateway = EmbeddedGateway(settings, self._store)
        self._routes = gateway_of(settings).discovery / RDS
        self._lapses = Lapses(settings)
        self._lapses.new()

    def look_on(self, *, seconds: float) -> None:
        """Until every share is away, and every lapse was told."""
        until = time.monotonic() + seconds
        while not all(share.away and (share.alert or not share.by_lease) for share in self._shares.values()):
            if time.monotonic() > until:
                raise NotMeasurable(f"not all shares were away and told within {seconds:g} s: {self._shares}")
            self._look()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        gone = [share for model, share in self._shares.items() if not share.away and self._is_gone(model)]
        if gone and self._confirmed():
            for share in gone:
                share.away = time.time()
        for model in self._lapses.new():
            self._shares[model].alert = time.time()

    def _is_gone(self, model: str) -> bool:
        if word := self._leases.last_word(model):
            self._shares[model].last_word = word / 1e9
        canary = self._store.read(model).canary
        self._shares[model].by_lease = canary is not None and canary.lapse is not None
        return (canary is None or canary.percent == 0) and self._is_routed_past(model)

    def _is_routed_past(self, model: str) -> bool:
        """Whoever is frozen while it writes may have published an older state over a newer one."""
        actions = [route["route"] for route in routes_of(published(self._routes), {model})]
        splits = [
            action["weighted_clusters"]["clusters"] for action in actions if "weighted_clusters" in action
        ]
        return all(len(split) < 2 or split[0]["weight"] == 0 for split in splits)

    def _confirmed(self) -> bool:
        with suppress(ServingError):
            self._gateway.confirm("routes")
            return True
        return False
