"""The sidecar: follow the cluster, tell Envoy, answer what is in force."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pipelines.errors import ServingError
from resources.serving.envoy import Endpoint
from resources.serving.gateway.control import Answer
from resources.serving.gateway.counting import counted
from resources.serving.gateway.following import Follower
from resources.serving.gateway.publishing import Publisher
from resources.serving.kserve.mode import Installation, Mode
from resources.serving.kserve.split import Part, Split

_LOG = logging.getLogger(__name__)
_RETRY_SECONDS = 0.1
"""How often a service is looked at again whose canary is not healthy yet, or an Envoy that does not answer."""


@dataclass
class Sidecar:
    """One gateway pod."""

    follower: Follower
    publisher: Publisher
    trouble: str = ""
    """Why Envoy could not be told what the cluster wants."""
    served: bool = False
    """Whether Envoy has ever had everything that was there at the start."""
    _threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self) -> None:
        """Follow and publish on threads of their own until `stop`."""
        self._threads = self.follower.start()
        self._threads.append(threading.Thread(target=self.run, daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        """Ends the publishing; the watches end with their next event."""
        self.follower.stop.set()
        self.follower.changed.set()
        self._threads[-1].join()

    def run(self) -> None:
        """Publish whenever something changed."""
        while not self.follower.stop.is_set():
            pending = self.publisher.waiting or self.trouble
            self.follower.changed.wait(_RETRY_SECONDS if pending else 1.0)
            self.follower.changed.clear()
            if self.follower.complete and not self.follower.stop.is_set():
                self._step()

    def answer(self, path: str) -> Answer:
        """See `control`."""
        if path == "/healthz":
            ready = self.served and self.publisher.admin.ready()
            return (200 if ready else 503), {"ready": ready, **self.follower.trouble}
        if path == "/splits":
            splits = {name: each.encode() for name, each in self.publisher.in_force().items()}
            return 200, {"splits": splits, "waiting": self._waiting()}
        found = self.publisher.routed.get(path.removeprefix("/counters/"))
        if not path.startswith("/counters/") or found is None:
            return 404, {"error": f"{path}: nothing is routed there"}
        return 200, counted(self.publisher.admin, found)

    def _step(self) -> None:
        try:
            self.publisher.step(self.follower.splits())
            self.trouble = ""
            self.served = self.served or not self.publisher.waiting
        except ServingError as error:
            if self.trouble != str(error):
                _LOG.warning("%s", error)
            self.trouble = str(error)
            time.sleep(_RETRY_SECONDS)

    def _waiting(self) -> dict[str, str]:
        general = {"": self.trouble} if self.trouble else {}
        return {**self.follower.trouble, **general, **self.publisher.waiting}


def in_cluster(
    namespace: str, domain: str, installed: Callable[[], Installation]
) -> Callable[[Split, Part], Endpoint]:
    """Where revisions answer inside a cluster: at the Service that has the revision's name.

    A Standard predictor's Service without an address gives the pods themselves, at their own port.
    """

    def address(split: Split, part: Part) -> Endpoint:
        name = f"{part.name}.{namespace}.svc.{domain}"
        headless = split.mode == Mode.STANDARD and installed().headless
        return Endpoint(host=name, port=8080 if headless else 80, hostname=name)

    return address
