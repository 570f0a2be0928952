"""From the gateway's statistics to what each revision did.

A request that was assigned to the canary counts as the canary's error when the canary did not answer it
well itself: a failure that reached the client, or an answer which the stable revision gave in its place
(after a failed attempt, or at once because no replica of the canary was up). Failed attempts of the
stable revision that a second attempt hid count likewise. Every request counts once. Probes never do.

A request that ran into its timeout never got an answer, so that Envoy's latency histogram lacks it; it was
slower than every threshold below the timeout and is counted there.
"""

import re
from collections.abc import Iterable

from resources.serving.backend import RevisionCounters
from resources.serving.embedded.admin import Stats
from resources.serving.embedded.state import Deployed, ServiceState
from resources.serving.envoy import THRESHOLDS_MS
from resources.serving.envoy.bootstrap import LONGEST_MS, ZONE
from resources.serving.envoy.clusters import FAILOVER, SHADOW


def stats_pattern(state: ServiceState) -> str:
    """Matches the statistics that `count` needs."""
    names = "|".join(re.escape(revision.name) for revision in _live(state)) or "-"
    wanted = "upstream_rq_completed|upstream_rq_5xx|upstream_rq_retry_success|upstream_rq_timeout"
    zones = rf"zone\.{ZONE}\.({names})\.upstream_rq_(completed|5xx)"
    cluster = f"({SHADOW})?({names})({FAILOVER}({names}))?"
    return rf"^cluster\.{cluster}\.({wanted}|upstream_rq_time|{zones})$"


def count(state: ServiceState, stats: Stats) -> tuple[RevisionCounters, ...]:
    """Counters of the stable revision and the canary."""
    stable, canary = state.stable, state.canary.revision if state.canary else None
    found = [] if stable is None else [_sum(state, stable, [stable.name], (), stats)]
    if canary is not None:
        clusters = [f"{SHADOW}{canary.name}", canary.name]
        stand_ins: tuple[tuple[str, str], ...] = ()
        if stable is not None:
            clusters = [f"{SHADOW}{canary.name}", f"{canary.name}{FAILOVER}{stable.name}"]
            stand_ins = ((clusters[1], stable.name),)
        found.append(_sum(state, canary, clusters, stand_ins, stats))
    return tuple(found)


def _sum(
    state: ServiceState,
    revision: Deployed,
    clusters: list[str],
    stand_ins: Iterable[tuple[str, str]],
    stats: Stats,
) -> RevisionCounters:
    stood_in = sum(_answered_by(stats, cluster, other) for cluster, other in stand_ins)
    replaced = {cluster for cluster, _ in stand_ins}
    hidden = sum(_get(stats, each, "upstream_rq_retry_success") for each in clusters if each not in replaced)
    return RevisionCounters(
        revision=revision.name,
        version=revision.version,
        requests=sum(_get(stats, each, "upstream_rq_completed") for each in clusters),
        errors=sum(_get(stats, each, "upstream_rq_5xx") for each in clusters) + stood_in + hidden,
        over_slo={limit: _slower(state, clusters, limit, stats) for limit in THRESHOLDS_MS},
    )


def _answered_by(stats: Stats, cluster: str, revision: str) -> int:
    """Good answers that `revision` gave to requests which were routed to `cluster`."""
    zone = f"zone.{ZONE}.{revision}"
    return _get(stats, cluster, f"{zone}.upstream_rq_completed") - _get(
        stats, cluster, f"{zone}.upstream_rq_5xx"
    )


def _slower(state: ServiceState, clusters: list[str], limit: int, stats: Stats) -> int:
    total = 0
    for cluster in clusters:
        buckets = stats.histograms.get(f"cluster.{cluster}.upstream_rq_time", {})
        total += buckets.get(LONGEST_MS, 0) - buckets.get(limit, 0)
        if limit < state.timeout_ms:
            total += _get(stats, cluster, "upstream_rq_timeout")
    return total


def _get(stats: Stats, cluster: str, name: str) -> int:
    return stats.counters.get(f"cluster.{cluster}.{name}", 0)


def _live(state: ServiceState) -> list[Deployed]:
    canary = [state.canary.revision] if state.canary else []
    return canary + ([state.stable] if state.stable else [])
