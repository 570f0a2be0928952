"""Who gets the canary of a service: the part of a rollout that the gateway alone carries out.

One key per service in the config map `rampgate-assignments` of the models' namespace. It is not on the
InferenceService, because KServe copies that object's annotations into the pod template, where any change starts a
new revision.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from pipelines.core.errors import ServingError
from resources.serving.kserve.client import ASSIGNMENTS, Cluster, Conflict, NotThere, Unreachable


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The share of one deployment. It means nothing for any other deployment of the service."""

    revision: str
    """`<service>-<label>`, see `resources.serving.kserve.identity.Identity.label`."""
    version: str
    percent: float
    salt: str
    mirror: bool = False
    command: int = 0
    """Counts the commands; a slow command gives way to a newer one."""
    leased: bool = True
    """Whether each pod of the gateway takes the share away where nobody watches it."""

    @property
    def lapses(self) -> bool:
        """Whether there is something to be taken away."""
        return self.leased and (self.percent > 0 or self.mirror)

    def encode(self) -> str:
        """As it stands in the config map: what pods of a release without leases do not know is there only where it must."""
        return json.dumps(
            {name: value for name, value in asdict(self).items() if (name, value) != ("leased", True)},
            sort_keys=True,
        )


def decode(service: str, text: str) -> Assignment:
    """The assignment in a value of the config map. Raises ServingError for anything else."""
    try:
        return Assignment(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ServingError(
            f"config map {ASSIGNMENTS}: data[{service!r}] == {text[:200]!r} is not an assignment"
        ) from error


# Reads and writes assignments; whoever writes on an outdated reading is refused and reads again.


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
        except NotThere as missing:
            raise ServingError(
                f"the gateway's config map {ASSIGNMENTS} is missing in namespace {self.cluster.namespace}: apply "
                f"serving_manifests/platform/models ({missing})"
            ) from missing
        text = (found.get("data") or {}).get(service)
        return (decode(service, text) if text else None), str(found["metadata"]["resourceVersion"])
