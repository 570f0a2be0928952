"""Clusters: where revisions are, whether they are well, and who stands in when a canary is not."""

import ipaddress
from collections.abc import Iterable
from typing import Any

from resources.serving.envoy.description import Endpoint, GatewayRevision, Service, typed

HEALTH_PATH = "/v2/health/ready"

SHADOW = "shadow/"

FAILOVER = "/else/"

AGAIN = "again/"

DISTINCT = "new/"

_ONE_REPLICA_IS_ENOUGH = 10_000
"""Percent. By default Envoy gives the next cluster a share as soon as a third of the replicas is down: a
canary that starts another replica would lose units to the stable revision."""

_CONNECT_TIMEOUT = "0.25s"


def clusters(services: Iterable[Service]) -> list[dict[str, Any]]:
    """Every cluster that the routes of `services` may name."""
    return [cluster for service in services for cluster in _clusters_of(service)]


def probe_cluster(revision: GatewayRevision) -> str:
    """Probes have their own cluster, so that they never count in a revision's statistics."""
    return f"probe/{revision.name}"


def shadow_cluster(revision: GatewayRevision) -> str:
    """Copies of live traffic, counted apart from the answers that reach somebody."""
    return f"{SHADOW}{revision.name}"


def absent_cluster(service: Service) -> str:
    """The share of a service that nobody serves yet: answered 503 by the gateway."""
    return f"absent/{service.name}"


def failover_cluster(canary: GatewayRevision, stable: GatewayRevision) -> str:
    """The canary, with the stable revision standing in for what it cannot answer."""
    return f"{canary.name}{FAILOVER}{stable.name}"


def again_cluster(cluster: str) -> str:
    """The same replicas, for what a unit asks again: within `UNIT_WINDOW`: counted apart."""
    return f"{AGAIN}{cluster}"


def distinct_cluster(cluster: str) -> str:
    """The same replicas, for the first answer that a unit gets in this rollout."""
    return f"{DISTINCT}{cluster}"


def _clusters_of(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for revision in service.all():
        found.append(_revision(revision))
        found += [_unchecked(name, revision) for name in (probe_cluster(revision), shadow_cluster(revision))]
    if service.stable is None:
        found.append(_base(absent_cluster(service), ()))
    members = {failover_cluster(*pair): pair for pair in _failovers(service)}
    found += [_aggregate(name, pair) for name, pair in members.items()]
    alone = {revision.name: (revision,) for revision in service.all()}
    return found + [
        _aggregate(apart(name), those)
        for name, those in (members | alone).items()
        for apart in (distinct_cluster, again_cluster)
    ]


def _failovers(service: Service) -> list[tuple[GatewayRevision, GatewayRevision]]:
    """A retiring revision keeps its pairs until it is gone: routes in force may still name them."""
    stable, canary = service.stable, service.canary
    if stable is None:
        return []
    pairs = [(canary, stable)] if canary is not None else []
    for revision in service.retiring:
        pairs += [(revision, stable), (stable, revision)]
    return pairs


def _revision(revision: GatewayRevision) -> dict[str, Any]:
    one_name = any(endpoint.hostname for endpoint in revision.endpoints)
    return _base(revision.name, revision.endpoints, revision.name) | {
        "health_checks": [_health_check(failures=5 if one_name else 2)],
        "common_lb_config": {
            # Never send traffic to replicas known to be down, even when all of them are.
            "healthy_panic_threshold": {"value": 0},
            # Workers learn of a replica's health at once, not up to a second later.
            "update_merge_window": "0s",
        },
        # A name stands for many pods, and its own readiness keeps broken ones out: to eject it for what one
        # of them answered would take the whole revision away.
        **({} if one_name else {"outlier_detection": _outlier_detection()}),
        "circuit_breakers": {"thresholds": [_thresholds()]},
    }


def _unchecked(name: str, revision: GatewayRevision) -> dict[str, Any]:
    return _base(name, revision.endpoints, revision.name)


def _base(name: str, endpoints: tuple[Endpoint, ...], revision: str = "") -> dict[str, Any]:
    hosts = [_endpoint(endpoint, revision) for endpoint in endpoints]
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        type="STATIC" if all(_is_address(endpoint.host) for endpoint in endpoints) else "STRICT_DNS",
        connect_timeout=_CONNECT_TIMEOUT,
        lb_policy="LEAST_REQUEST",
        load_assignment={
            "cluster_name": name,
            "endpoints": [_locality(hosts, revision)],
            "policy": {"overprovisioning_factor": _ONE_REPLICA_IS_ENOUGH},
        },
        typed_extension_protocol_options=_http1(),
    )


def _locality(hosts: list[dict[str, Any]], revision: str) -> dict[str, Any]:
    """The revision is a zone: Envoy then counts, for every cluster, the answers of each revision.

    That is how an answer which the stable revision gave in a canary's place is told apart.
    """
    return {"lb_endpoints": hosts} | ({"locality": {"zone": revision}} if revision else {})


def _endpoint(endpoint: Endpoint, revision: str) -> dict[str, Any]:
    address = {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}
    named = {"hostname": endpoint.hostname} if endpoint.hostname else {}
    checked = {"health_check_config": named} if named else {}
    return {
        "endpoint": {"address": address, **named, **checked},
        # Read back by the access log and the x-served-revision header.
        "metadata": {"filter_metadata": {"envoy.lb": {"revision": revision}}},
    }


def _aggregate(name: str, members: tuple[GatewayRevision, ...]) -> dict[str, Any]:
    """The members' replicas and health, in this order, with answers counted under a name of its own."""
    config = typed(
        "envoy.extensions.clusters.aggregate.v3.ClusterConfig", clusters=[each.name for each in members]
    )
    return typed(
        "envoy.config.cluster.v3.Cluster",
        name=name,
        connect_timeout=_CONNECT_TIMEOUT,
        lb_policy="CLUSTER_PROVIDED",
        cluster_type={"name": "envoy.clusters.aggregate", "typed_config": config},
        circuit_breakers={"thresholds": [_thresholds()]},
    )


def _health_check(*, failures: int) -> dict[str, Any]:
    return {
        "timeout": "1s",
        "interval": "1s",
        # Without traffic Envoy would wait 60 s between checks, and a canary starts without traffic.
        "no_traffic_interval": "0.5s",
        "unhealthy_interval": "0.5s",
        "unhealthy_threshold": failures,
        "healthy_threshold": 1,
        "http_health_check": {"path": HEALTH_PATH},
    }


def _outlier_detection() -> dict[str, Any]:
    """Eject a replica that cannot be reached; one that answers stays, whatever it says, so that it is judged.

    A caller can have it say 503, or take too long, as often as they like: that must not take it from others.
    """
    return {
        "split_external_local_origin_errors": True,
        "consecutive_local_origin_failure": 3,
        "enforcing_consecutive_local_origin_failure": 100,
        "enforcing_local_origin_success_rate": 0,
        "enforcing_consecutive_gateway_failure": 0,
        "enforcing_consecutive_5xx": 0,
        "enforcing_success_rate": 0,
        "interval": "1s",
        "base_ejection_time": "5s",
        "max_ejection_percent": 100,
    }


def _thresholds() -> dict[str, Any]:
    return {"max_connections": 256, "max_pending_requests": 256, "max_requests": 512, "max_retries": 256}


def _http1() -> dict[str, Any]:
    name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    options = typed(
        name,
        common_http_protocol_options={"idle_timeout": "30s"},
        explicit_http_config={"http_protocol_options": {}},
    )
    return {name: options}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
