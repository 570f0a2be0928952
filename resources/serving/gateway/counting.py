"""What each revision of a service did at this Envoy, counted as the embedded gateway counts."""

from typing import Any

from resources.serving.embedded.admin import Admin
from resources.serving.embedded.counting import count, stats_pattern
from resources.serving.embedded.state import Canary, Deployed, ServiceState
from resources.serving.kserve.split import Part, Split


def counted(admin: Admin, split: Split) -> dict[str, Any]:
    """Cumulative counts since this Envoy started; `instance` tells two starts apart."""
    instance = admin.instance()
    state = _state(split)
    revisions = count(state, admin.stats(stats_pattern(state)))
    return {
        "instance": instance,
        "revisions": [
            {
                "revision": each.revision,
                "version": each.version,
                "requests": each.requests,
                "errors": each.errors,
                "faults": each.faults,
                "over_slo": {str(limit): number for limit, number in each.over_slo.items()},
            }
            for each in revisions
        ],
    }


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
