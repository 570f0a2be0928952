"""What each revision of a service did at this Envoy, counted as the embedded gateway counts."""

from typing import Any

from pydantic import TypeAdapter

from resources.serving.backend import RevisionCounters
from resources.serving.embedded.admin import Admin
from resources.serving.embedded.counting import count, stats_pattern
from resources.serving.embedded.state import Canary, Deployed, ServiceState
from resources.serving.kserve.split import Part, Split

_ROWS = TypeAdapter(RevisionCounters)


def counted(admin: Admin, split: Split) -> dict[str, Any]:
    """Cumulative counts since this Envoy started; `instance` tells two starts apart."""
    instance = admin.instance()
    state = _state(split)
    revisions = count(state, admin.stats(stats_pattern(state)))
    return {"instance": instance, "revisions": [_ROWS.dump_python(each, mode="json") for each in revisions]}


def _state(split: Split) -> ServiceState:
    canary = _deployed(split, split.canary)
    return ServiceState(
        service=split.service,
        timeout_ms=split.timeout_ms,
        stable=_deployed(split, split.stable),
        canary=Canary(revision=canary, salt=split.salt) if canary else None,
    )


def _deployed(split: Split, part: Part | None) -> Deployed | None:
    if part is None:
        return None
    return Deployed(name=part.name, model=split.service, version=part.version, digest="", ports=())
