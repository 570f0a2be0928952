"""What the gateway should do, in the words of a rollout; the rest of this package turns it into Envoy's."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.manifest.model import PredictionLog
from resources.prediction_log.cloudevents import LONGEST_ID

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
class Revision:
    """One running version of a service. Its name is unique in the gateway and holds no dot."""

    name: str
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, kw_only=True)
class Service:
    """One InferenceService: who answers, and for which share of the units."""

    name: str
    stable: Revision | None = None
    canary: Revision | None = None
    retiring: tuple[Revision, ...] = ()
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

    def live(self) -> Iterator[Revision]:
        """The revisions that routes may name: stable, then canary."""
        yield from (revision for revision in (self.stable, self.canary) if revision is not None)

    def all(self) -> Iterator[Revision]:
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
