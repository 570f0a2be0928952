"""Reads and writes assignments; whoever writes on an outdated reading is refused and reads again."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.errors import ServingError
from resources.serving.kserve.assignment import ASSIGNMENTS, Assignment, decode
from resources.serving.kserve.client import Cluster, Conflict, Missing, Unreachable

Change = Callable[[Assignment | None], Assignment | None]
"""What is there -> what should be; None leaves it as it is. May raise, and may be called again."""


@dataclass(frozen=True)
class Assignments:
    """The config map of one namespace."""

    cluster: Cluster
    patience: float = 30.0
    """Seconds to go on against conflicts and an API server that does not answer."""
    pause: float = 0.1

    def read(self, service: str) -> Assignment | None:
        """The service's assignment, None where it never had one."""
        return self._read(service)[0]

    def change(self, service: str, change: Change) -> Assignment | None:
        """Apply `change` to what is there and return what then is. Raises ServingError when it cannot be."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return self._once(service, change)
            except (Conflict, Unreachable):
                if time.monotonic() > deadline:
                    raise
                time.sleep(self.pause)

    def _once(self, service: str, change: Change) -> Assignment | None:
        before, version = self._read(service)
        after = change(before)
        if after is None or after == before:
            return before
        self.cluster.assign({service: after.encode()}, resource_version=version)
        return after

    def _read(self, service: str) -> tuple[Assignment | None, str]:
        try:
            found = self.cluster.assignments()
        except Missing as missing:
            raise ServingError(
                f"the gateway's config map {ASSIGNMENTS} is missing in namespace {self.cluster.namespace}: apply "
                f"serving_manifests/platform/models ({missing})"
            ) from missing
        text = (found.get("data") or {}).get(service)
        return (decode(service, text) if text else None), str(found["metadata"]["resourceVersion"])
