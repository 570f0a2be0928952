"""From the gateway's statistics to what each revision did.

Whatever is not a 2xx is asked again, of the stable side (`routes`), and what that answers tells whose fault it was:

- a 2xx: the revision's error. So is an answer which the stable side gave at once, because no replica was up;
- anything else: the request's fault. It fails everywhere, and says nothing of the revision;
- nobody was asked again, because too many were waiting for that: the revision's error, until somebody knows better.

A caller who hung up before there was an answer counts as an error of whom they waited for: to them that is a timeout. Who
waited less than `PATIENCE`, or had asked before, does not count at all: anybody can do that at will.

Every request counts once. Probes never do. A 5xx, or no answer that somebody waited for, is a fault as well.
Copies are asked once: every failure of one is an error, and is compared with all failures of the other side.

A request that ran into its timeout never got an answer, so that Envoy's latency histogram lacks it; it was
slower than every threshold below the timeout and is counted there.
"""

import re
from dataclasses import dataclass
from functools import reduce

from pipelines.core.errors import ServingError
from resources.serving.contract import Answers, RevisionCounters, plus
from resources.serving.embedded.state import Deployed, ServiceState
from resources.serving.envoy.admin import Admin, Start, Stats
from resources.serving.envoy.bootstrap import ANSWERED, COUNTED, HUNG_UP_AT, LONGEST_MS, ZONE
from resources.serving.envoy.clusters import (
    AGAIN,
    DISTINCT,
    FAILOVER,
    SHADOW,
    again_cluster,
    distinct_cluster,
)
from resources.serving.envoy.description import THRESHOLDS_MS

_BAD = ("1xx", "3xx", "4xx", "5xx", "unknown")
"""Added up instead of taking the 2xx from all: counters are read one after the other, and a request that ends in
between must not look like an error. Envoy calls a status of 600 or more unknown."""


@dataclass(frozen=True)
class _Clusters:
    """Where the requests of one revision are counted."""

    revision: Deployed
    weighted: str
    """The cluster that the weighted routes name."""
    stand_in: str = ""
    """The revision that answers in this one's place."""
    shadow: str = ""


def stats_pattern(state: ServiceState) -> str:
    """Matches the statistics that `count` needs of one service."""
    return _pattern("|".join(re.escape(each.revision.name) for each in _clusters(state)) or "-")


def _pattern(names: str) -> str:
    classes = rf"(zone\.{ZONE}\.({names})\.)?upstream_rq_({ANSWERED})"
    cluster = f"({SHADOW}|{AGAIN}|{DISTINCT})?({names})({FAILOVER}({names}))?"
    return rf"^(cluster\.{cluster}\.(upstream_rq_({COUNTED})|{classes})|{HUNG_UP_AT}{cluster})$"


EVERY_STATISTIC = _pattern(r"[^.]+")
"""Matches the statistics that `count` needs of all services."""


@dataclass(frozen=True)
class Reading:
    """What one start of the gateway had counted."""

    start: Start
    stats: Stats


def read(admin: Admin, pattern: str) -> Reading:
    """The statistics that match, of one start alone. Raises ServingError, also where another one has begun meanwhile."""
    start = admin.start()
    stats = admin.stats(pattern)
    if admin.start().instance != start.instance:
        raise ServingError("the gateway restarted while its counters were read")
    return Reading(start, stats)


def count(state: ServiceState, stats: Stats) -> tuple[RevisionCounters, ...]:
    """Counters of the stable revision and the canary."""
    return tuple(_counted(state, side, stats) for side in _clusters(state))


def _clusters(state: ServiceState) -> list[_Clusters]:
    """The stable revision, then the canary."""
    stable, canary = state.stable, state.canary.revision if state.canary else None
    found = [] if stable is None else [_Clusters(stable, stable.name)]
    if canary is not None:
        shadow = f"{SHADOW}{canary.name}"
        weighted = canary.name if stable is None else f"{canary.name}{FAILOVER}{stable.name}"
        found.append(_Clusters(canary, weighted, "" if stable is None else stable.name, shadow))
    return found


def _counted(state: ServiceState, side: _Clusters, stats: Stats) -> RevisionCounters:
    distinct = _answers(state, side, distinct_cluster(side.weighted), stats)
    first = plus(distinct, _answers(state, side, side.weighted, stats))
    everything = [first, _answers(state, side, again_cluster(side.weighted), stats)]
    if side.shadow:
        everything.append(_copies(state, side.shadow, stats))
    return RevisionCounters(
        revision=side.revision.name,
        version=side.revision.version,
        stand_in=side.stand_in,
        first=first,
        distinct=distinct,
        **vars(reduce(plus, everything)),
    )


def _answers(state: ServiceState, side: _Clusters, cluster: str, stats: Stats) -> Answers:
    bad = _failures(stats, cluster)
    # What a second attempt made good, and what there was no second attempt at.
    if side.stand_in:
        good = _get(stats, cluster, f"zone.{ZONE}.{side.stand_in}.upstream_rq_2xx")
        own = f"zone.{ZONE}.{side.revision.name}."
        lonely = sum(_failures(stats, cluster, own).values())
    else:
        good = _get(stats, cluster, "upstream_rq_retry_success")
        lonely = _get(stats, cluster, "upstream_rq_retry_overflow")
    again = cluster == again_cluster(side.weighted)  # hanging up again says nothing
    gone = 0 if again else stats.counters.get(f"{HUNG_UP_AT}{cluster}", 0)
    return Answers(
        requests=_get(stats, cluster, "upstream_rq_completed") + gone,
        errors=good + lonely + gone,
        faults=bad["5xx"] + good,
        request_faults=max(0, sum(bad.values()) - lonely),
        over_slo={limit: _slower(state, cluster, limit, stats) for limit in THRESHOLDS_MS},
    )


def _copies(state: ServiceState, cluster: str, stats: Stats) -> Answers:
    bad = _failures(stats, cluster)
    return Answers(
        requests=_get(stats, cluster, "upstream_rq_completed"),
        errors=sum(bad.values()),
        faults=bad["5xx"],
        over_slo={limit: _slower(state, cluster, limit, stats) for limit in THRESHOLDS_MS},
    )


def _failures(stats: Stats, cluster: str, of: str = "") -> dict[str, int]:
    """By class of status; `of` narrows them to the answers of one zone."""
    return {kind: _get(stats, cluster, f"{of}upstream_rq_{kind}") for kind in _BAD}


def _slower(state: ServiceState, cluster: str, limit: int, stats: Stats) -> int:
    buckets = stats.histograms.get(f"cluster.{cluster}.upstream_rq_time", {})
    late = _get(stats, cluster, "upstream_rq_timeout") if limit < state.timeout_ms else 0
    return buckets.get(LONGEST_MS, 0) - buckets.get(limit, 0) + late


def _get(stats: Stats, cluster: str, name: str) -> int:
    return stats.counters.get(f"cluster.{cluster}.{name}", 0)
