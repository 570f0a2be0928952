"""From the gateway's statistics to what each revision did.

A request is an error of the revision that it was assigned to unless that revision answered it with a 2xx itself:

- another status that reached the client, whatever it is: a caller's own bad requests fail on both sides;
- an answer which the stable revision gave in the canary's place (after a failed attempt, or at once because no
  replica of the canary was up), and a failed attempt of the stable revision that a second attempt hid;
- a caller who hung up before there was an answer: to them that is a timeout, and Envoy completes no such request.

Every request counts once. Probes never do. A 5xx, or no answer that somebody waited for, is a fault as well.

A request that ran into its timeout never got an answer, so that Envoy's latency histogram lacks it; it was
slower than every threshold below the timeout and is counted there.
"""

import re
from dataclasses import dataclass

from resources.serving.backend import RevisionCounters
from resources.serving.embedded.admin import Stats
from resources.serving.embedded.state import Deployed, ServiceState
from resources.serving.envoy import THRESHOLDS_MS
from resources.serving.envoy.bootstrap import LONGEST_MS, ZONE
from resources.serving.envoy.clusters import FAILOVER, SHADOW

_ERRORS = ("1xx", "3xx", "4xx", "5xx", "unknown")
"""Added up instead of taking the 2xx from all: counters are read one after the other, and a request that ends in
between must not look like an error. Envoy calls a status of 600 or more unknown."""
_ENDED = "upstream_cx_destroy_local_with_active_rq"
"""HTTP/1 connections that the gateway closed within an answer: because the caller was gone, or for what follows."""
_GIVEN_UP = ("upstream_rq_per_try_timeout", "upstream_rq_timeout", "retry.upstream_rq_completed")
"""Attempts that took too long, and those whose status led to another attempt."""


@dataclass(frozen=True)
class _Clusters:
    """Where the requests of one revision are counted."""

    revision: Deployed
    weighted: str
    """The cluster that the weighted routes name."""
    stand_in: str = ""
    """The revision that answers in this one's place."""
    shadow: str = ""

    @property
    def all(self) -> tuple[str, ...]:
        return tuple(name for name in (self.shadow, self.weighted) if name)


def stats_pattern(state: ServiceState) -> str:
    """Matches the statistics that `count` needs."""
    names = "|".join(re.escape(each.revision.name) for each in _clusters(state)) or "-"
    wanted = "|".join(("upstream_rq_completed", "upstream_rq_retry_success", _ENDED, *_GIVEN_UP))
    classes = rf"(zone\.{ZONE}\.({names})\.)?upstream_rq_([1-5]xx|unknown)"
    cluster = f"({SHADOW})?({names})({FAILOVER}({names}))?"
    return rf"^cluster\.{cluster}\.({wanted}|upstream_rq_time|{classes})$"


def count(state: ServiceState, stats: Stats) -> tuple[RevisionCounters, ...]:
    """Counters of the stable revision and the canary."""
    sides = _clusters(state)
    hung_up = _hung_up(sides, stats)
    return tuple(_sum(state, side, hung_up[side.revision.name], stats) for side in sides)


def _clusters(state: ServiceState) -> list[_Clusters]:
    """The stable revision, then the canary."""
    stable, canary = state.stable, state.canary.revision if state.canary else None
    found = [] if stable is None else [_Clusters(stable, stable.name)]
    if canary is not None:
        shadow = f"{SHADOW}{canary.name}"
        weighted = canary.name if stable is None else f"{canary.name}{FAILOVER}{stable.name}"
        found.append(_Clusters(canary, weighted, "" if stable is None else stable.name, shadow))
    return found


def _sum(state: ServiceState, side: _Clusters, hung_up: int, stats: Stats) -> RevisionCounters:
    replaced = _answered_by(stats, side.weighted, side.stand_in) if side.stand_in else {}
    hidden = 0 if side.stand_in else _get(stats, side.weighted, "upstream_rq_retry_success")
    bad = {kind: sum(_get(stats, each, f"upstream_rq_{kind}") for each in side.all) for kind in _ERRORS}
    return RevisionCounters(
        revision=side.revision.name,
        version=side.revision.version,
        requests=sum(_get(stats, each, "upstream_rq_completed") for each in side.all) + hung_up,
        errors=sum(bad.values()) + replaced.get("2xx", 0) + hidden + hung_up,
        faults=bad["5xx"] + sum(replaced.values()) + hidden,
        over_slo={limit: _slower(state, side.all, limit, stats) for limit in THRESHOLDS_MS},
    )


def _answered_by(stats: Stats, cluster: str, revision: str) -> dict[str, int]:
    """Answers but 5xx that `revision` gave to requests which were routed to `cluster`, by class of status."""
    zone = f"zone.{ZONE}.{revision}.upstream_rq"
    return {kind: _get(stats, cluster, f"{zone}_{kind}") for kind in ("1xx", "2xx", "3xx", "4xx", "unknown")}


def _hung_up(sides: list[_Clusters], stats: Stats) -> dict[str, int]:
    """Requests whose caller went away before the answer, by the revision that was asked.

    A canary's failed attempts are counted together with those of its stand-in: what is too much to subtract on one
    side is subtracted on the other.
    """
    counted: dict[str, int] = {}
    ended = given_up = 0
    for side in reversed(sides):
        ended += _get(stats, side.revision.name, _ENDED)
        given_up += sum(_get(stats, side.weighted, name) for name in _GIVEN_UP)
        counted[side.revision.name] = max(0, ended - given_up - sum(counted.values()))
    return counted


def _slower(state: ServiceState, clusters: tuple[str, ...], limit: int, stats: Stats) -> int:
    total = 0
    for cluster in clusters:
        buckets = stats.histograms.get(f"cluster.{cluster}.upstream_rq_time", {})
        total += buckets.get(LONGEST_MS, 0) - buckets.get(limit, 0)
        if limit < state.timeout_ms:
            total += _get(stats, cluster, "upstream_rq_timeout")
    return total


def _get(stats: Stats, cluster: str, name: str) -> int:
    return stats.counters.get(f"cluster.{cluster}.{name}", 0)
