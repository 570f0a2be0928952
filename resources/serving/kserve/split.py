"""What the gateway should do for a service, from what the cluster says. Pure.

The sidecar computes it to carry it out, and the backend computes it to compare it with what the sidecars report.
"""

from dataclasses import asdict, dataclass
from typing import Any

from resources.serving.contract import RevisionStatus
from resources.serving.envoy.description import TOTAL_WEIGHT
from resources.serving.kserve import knative as knative_mode
from resources.serving.kserve import standard as standard_mode
from resources.serving.kserve.assignment import Assignment
from resources.serving.kserve.identity import Identity
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.service import DeploymentMode
from resources.serving.kserve.standard import StandardView


@dataclass(frozen=True, kw_only=True)
class SplitPart:
    """One revision: the cluster's name of it, which is also the name of its Service."""

    name: str
    version: str


@dataclass(frozen=True, kw_only=True)
class Split:
    """Who answers, and for which share of the units."""

    service: str
    mode: str
    stable: SplitPart | None = None
    canary: SplitPart | None = None
    weight: int = 0
    """The canary's, in hundredths of a percent."""
    salt: str = ""
    mirror: bool = False
    timeout_ms: int = 60_000

    @property
    def parts(self) -> tuple[SplitPart, ...]:
        """The revisions that requests may reach."""
        return tuple(part for part in (self.stable, self.canary) if part is not None)

    @property
    def answering(self) -> tuple[SplitPart, ...]:
        """The revisions whose answers reach somebody."""
        return tuple(part for part in self.parts if part != self.canary or self.weight > 0)

    def encode(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def decode(cls, data: dict[str, Any]) -> "Split":
        """The inverse of `encode`."""
        parts: dict[str, Any] = {
            key: SplitPart(**data[key]) if data[key] else None for key in ("stable", "canary")
        }
        return cls(**(data | parts))


def split(view: KnativeView | StandardView, assignment: Assignment | None) -> Split | None:
    """What should be in force; None for a service that is not there or has nothing to serve.

    The assignment counts if it is about the deployment that is the canary now. Without one the spec's own
    percent does: that is how a restored version gets its traffic back, and a service that was rolled out before
    there was a gateway.
    """
    knative = isinstance(view, KnativeView)
    status = knative_mode.status(view) if knative else standard_mode.status(view)
    stable, canary = _part(status.stable), _part(status.canary)
    if stable is None and canary is None:
        return None
    mode = DeploymentMode.KNATIVE if knative else DeploymentMode.STANDARD
    made = Split(service=view.service, mode=mode.value, stable=stable, timeout_ms=view.timeout_ms)
    if canary is None:
        return made
    identity = canary_identity(view)
    share: dict[str, Any] = {"weight": _spec_weight(view), "salt": identity.salt}
    if assignment is not None and assignment.revision == deployment(view.service, identity):
        weight = round(assignment.percent * TOTAL_WEIGHT / 100)
        share = {"weight": weight, "salt": assignment.salt, "mirror": assignment.mirror}
    return Split(
        service=view.service,
        mode=mode.value,
        stable=stable,
        canary=canary,
        timeout_ms=view.timeout_ms,
        **share,
    )


def canary_identity(view: KnativeView | StandardView) -> Identity:
    """The deployment that a canary is, where there is one."""
    if isinstance(view, StandardView) and view.canary is not None:
        return view.canary.identity
    return view.spec


def deployment(service: str, identity: Identity) -> str:
    """The name that an assignment knows a deployment by."""
    return f"{service}-{identity.label}"


def _part(revision: RevisionStatus | None) -> SplitPart | None:
    if revision is None or not revision.name:
        return None
    return SplitPart(name=revision.name, version=revision.version)


def _spec_weight(view: KnativeView | StandardView) -> int:
    if isinstance(view, StandardView):
        return view.canary.percent * 100 if view.canary else 0
    if view.unpromoted:
        return TOTAL_WEIGHT
    if view.created != view.ready:
        return 0
    return TOTAL_WEIGHT if view.percent is None else view.percent * 100
