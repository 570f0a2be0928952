"""What the gateway should do, in the words of a rollout, and the files through which Envoy is told."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServingError
from pipelines.core.manifest.model import PredictionLog
from resources.files import replace_with_spare
from resources.prediction_log.cloudevents import LONGEST_ID


def typed(message: str, /, **fields: Any) -> dict[str, Any]:
    """A message with its type URL, e.g. `typed("envoy.config.cluster.v3.Cluster", name="a")`."""
    return {"@type": f"type.googleapis.com/{message}", **fields}


# What the gateway should do, in the words of a rollout; the rest of this package turns it into Envoy's.


TOTAL_WEIGHT = 10_000
"""Weights are in hundredths of a percent."""

THRESHOLDS_MS = (
    1, 2, 5, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750,
    1_000, 1_500, 2_000, 3_000, 5_000, 10_000, 30_000,
)  # fmt: skip
"""Latency bounds that the gateway counts against; a manifest's `slo` is one of them."""

MOST_BODY_BYTES = PredictionLog().max_bytes
"""The largest body of a request that is passed on: 8 MiB. No manifest raises it."""

MOST_ID_BYTES = LONGEST_ID
"""The longest unit id and request id."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One replica: an IP address, or a name that Envoy resolves."""

    host: str
    port: int
    hostname: str = ""
    """What requests and health checks name as their host; empty: what the client named."""


@dataclass(frozen=True, kw_only=True)
class GatewayRevision:
    """One running version of a service. Its name is unique in the gateway and holds no dot."""

    name: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One InferenceService: who answers, and for which share of the units."""

    name: str
    stable: GatewayRevision | None = None
    canary: GatewayRevision | None = None
    retiring: tuple[GatewayRevision, ...] = ()
    """Still known to the gateway while they finish what they are answering."""
    canary_weight: int = 0
    """Hundredths of a percent, 0 to `TOTAL_WEIGHT`."""
    salt: str = ""
    mirror: bool = False
    """Send the canary a copy of the weighted traffic."""
    timeout_ms: int = 60_000

    def __post_init__(self) -> None:
        most = TOTAL_WEIGHT if self.canary else 0
        if not 0 <= self.canary_weight <= most:
            raise ValueError(f"{self.name}: canary_weight == {self.canary_weight}, must be 0 to {most}")

    @property
    def named(self) -> bool:
        """Whether its replicas are told the host that they are asked as."""
        return any(endpoint.hostname for revision in self.live() for endpoint in revision.endpoints)

    def live(self) -> Iterator[GatewayRevision]:
        """The revisions that routes may name: stable, then canary."""
        yield from (revision for revision in (self.stable, self.canary) if revision is not None)

    def all(self) -> Iterator[GatewayRevision]:
        """Every revision that the gateway must know, the retiring ones last."""
        yield from self.live()
        yield from self.retiring


@dataclass(frozen=True, kw_only=True)
class Gateway:
    """Where the gateway listens and where it keeps its files."""

    host: str
    port: int
    discovery: Path
    """Directory of cds.json and rds.json, replaced atomically."""
    access_log: Path
    """A file, or /dev/stdout."""

    @property
    def admin(self) -> Path:
        """Envoy's admin interface: a socket, for it closes the gateway and shows the probe token to whoever asks."""
        return self.discovery / "admin"


# File discovery: resources in a file that Envoy reads again whenever it is replaced.


CDS = "cds.json"

RDS = "rds.json"

ROUTES = "rampgate"
"""Name of the one route configuration."""


def version_of(resources: Sequence[dict[str, Any]]) -> str:
    """A version that follows from the content, so that equal configurations have equal versions."""
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


def publish(path: Path, resources: Sequence[dict[str, Any]], *, from_reserve: bool = False) -> str:
    """Replace the file atomically and return its version. Envoy watches for exactly this rename.

    Only the owner may read it: routes hold the probe token. `from_reserve`: see `resources.files`. Raises
    ServingError where it cannot be written.
    """
    version = version_of(resources)
    content = json.dumps({"version_info": version, "resources": list(resources)}, indent=1)
    try:
        replace_with_spare(path, content.encode(), from_reserve=from_reserve)
    except OSError as error:
        raise ServingError(f"the gateway's {path} cannot be written: {error.strerror}") from error
    return version


def publish_if_new(
    path: Path, resources: Sequence[dict[str, Any]], before: str | None, *, from_reserve: bool = False
) -> str:
    """`publish`, unless `before` is the version of just these resources."""
    version = version_of(resources)
    return version if version == before else publish(path, resources, from_reserve=from_reserve)


def published(path: Path) -> list[dict[str, Any]]:
    """The resources in the file; none before the first `publish`."""
    return list(json.loads(path.read_text())["resources"]) if path.exists() else []


def published_version(path: Path) -> str | None:
    """The version in the file, or None before the first `publish`."""
    if not path.exists():
        return None
    return str(json.loads(path.read_text())["version_info"])
