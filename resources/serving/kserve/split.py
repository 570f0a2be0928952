"""What the gateway should do for a service, from what the cluster says. Pure.

The sidecar computes it to carry it out, and the backend computes it to compare it with what the sidecars report.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pipelines.core.errors import ServingError
from resources.serving.contract import Lapse, RevisionStatus
from resources.serving.envoy.description import TOTAL_WEIGHT
from resources.serving.kserve import knative as knative_mode
from resources.serving.kserve import standard as standard_mode
from resources.serving.kserve.assignment import Assignment
from resources.serving.kserve.identity import Identity
from resources.serving.kserve.knative import KnativeView
from resources.serving.kserve.service import DeploymentMode
from resources.serving.kserve.standard import StandardView

_LAPSE = TypeAdapter(Lapse)


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

    @property
    def gives_traffic(self) -> bool:
        """Whether the canary gets requests, or copies of them."""
        return self.weight > 0 or self.mirror

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
    if assignment is not None and _is_about(assignment, view):
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


def without_share(split: Split) -> Split:
    """The same service after its canary's lease has run out."""
    return replace(split, weight=0, mirror=False)


def lapses(view: KnativeView | StandardView, assignment: Assignment) -> bool:
    """Whether the canary has its share, or its mirror, by this assignment, and is to lose it where nobody watches.

    Never where the share is the spec's own, as a restored version's is, nor where nothing stable could take the traffic.
    """
    if not assignment.lapses:
        return False
    found = split(view, assignment)
    both = found is not None and found.stable is not None and found.canary is not None
    return both and _is_about(assignment, view)


def _is_about(assignment: Assignment, view: KnativeView | StandardView) -> bool:
    return assignment.revision == deployment(view.service, canary_identity(view))


class LapsedShare(NamedTuple):
    """The lease of one assignment that has run out."""

    revision: str
    command: int
    """With the revision, which assignment it was: the next command gives a share of its own."""
    lapse: Lapse

    def is_of(self, assignment: Assignment | None) -> bool:
        """Whether it is this assignment's."""
        return assignment is not None and (assignment.revision, assignment.command) == self[:2]

    def encode(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**self._asdict(), "lapse": _LAPSE.dump_python(self.lapse, mode="json")}

    @classmethod
    def decode(cls, data: Mapping[str, Any]) -> "LapsedShare":
        """The inverse of `encode`. Raises ServingError for anything else."""
        try:
            return cls(str(data["revision"]), int(data["command"]), _LAPSE.validate_python(data["lapse"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServingError(f"{str(data)[:200]} is not a lapse") from error


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
