"""Envoy's bootstrap: one listener, file discovery, a JSON access log, an admin port on loopback."""

from typing import Any

from resources.serving.envoy.description import THRESHOLDS_MS, Gateway
from resources.serving.envoy.discovery import CDS, RDS, ROUTES
from resources.serving.envoy.routes import UNIT_HEADER
from resources.serving.envoy.types import typed

LISTENER = "gateway"
ZONE = "gateway"
"""The gateway's own zone: statistics per revision need one (`clusters`)."""
STATS_FLUSH = "0.5s"
"""Histograms reach the admin port once per flush: this bounds how old `over_slo` is."""
LONGEST_MS = 3_600_000
"""Upper bound of the last latency bucket: everything that was counted lies below it."""
_LONGEST_REQUEST = "600s"
_UNIT_AS_SENT = "x-unit-id-as-sent"

_ACCESS_LOG_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "call_id": "%REQ(X-CALL-ID)%",
    "unit_id": "%REQ(X-UNIT-ID)%",
    "assignment": "%REQ(X-ASSIGNMENT)%",
    "salt": "%METADATA(ROUTE:rampgate:salt)%",
    "service": "%METADATA(ROUTE:rampgate:service)%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "revision": "%UPSTREAM_METADATA(envoy.lb:revision)%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "duration_ms": "%DURATION%",
    "upstream_ms": "%RESPONSE_DURATION%",
    "bytes_in": "%BYTES_RECEIVED%",
    "bytes_out": "%BYTES_SENT%",
}


def bootstrap(gateway: Gateway) -> dict[str, Any]:
    """The whole static configuration; everything about services arrives through discovery."""
    return {
        "node": {"id": "gateway", "cluster": "rampgate", "locality": {"zone": ZONE}},
        "admin": {"address": _address("127.0.0.1", gateway.admin_port)},
        "stats_flush_interval": STATS_FLUSH,
        "stats_config": {"histogram_bucket_settings": [_latency_buckets()]},
        "dynamic_resources": {"cds_config": _from_file(str(gateway.discovery / CDS))},
        "static_resources": {"listeners": [_listener(gateway)]},
    }


def _latency_buckets() -> dict[str, Any]:
    return {"match": {"suffix": "upstream_rq_time"}, "buckets": [*THRESHOLDS_MS, LONGEST_MS]}


def _listener(gateway: Gateway) -> dict[str, Any]:
    return {
        "name": LISTENER,
        "address": _address(gateway.host, gateway.port),
        "filter_chains": [{"filters": [_connection_manager(gateway)]}],
    }


def _connection_manager(gateway: Gateway) -> dict[str, Any]:
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        generate_request_id=True,
        # A caller's own request id survives, so that it can join its answers to ours.
        preserve_external_request_id=True,
        # No caller counts as internal, so that nobody's x-envoy-* headers change retries or timeouts.
        use_remote_address=True,
        internal_address_config={"unix_sockets": False},
        server_header_transformation="PASS_THROUGH",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        request_timeout=_LONGEST_REQUEST,
        stream_idle_timeout=_LONGEST_REQUEST,
        drain_timeout="5s",
        rds={"route_config_name": ROUTES, "config_source": _from_file(str(gateway.discovery / RDS))},
        access_log=[_access_log(gateway)],
        early_header_mutation_extensions=[_one_unit()],
        http_filters=[_router()],
    )
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _one_unit() -> dict[str, Any]:
    """Before a request is assigned: an empty unit id is none, and of several the first counts.

    An empty one would be a unit like any other: all anonymous traffic would move as one.
    """
    mutations = [
        {"remove": _UNIT_AS_SENT},
        _copied(UNIT_HEADER, _UNIT_AS_SENT),
        {"remove": UNIT_HEADER},
        _copied(_UNIT_AS_SENT, UNIT_HEADER),
        {"remove": _UNIT_AS_SENT},
    ]
    name = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(name, mutations=mutations),
    }


def _copied(source: str, target: str) -> dict[str, Any]:
    """The first value of `source`; nothing where that is empty."""
    header = {"key": target, "value": f"%REQ({source})%"}
    return {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


def _access_log(gateway: Gateway) -> dict[str, Any]:
    log = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=str(gateway.access_log),
        log_format={"json_format": _ACCESS_LOG_FIELDS},
    )
    return {"name": "envoy.access_loggers.file", "typed_config": log}


def _router() -> dict[str, Any]:
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    return {"name": "envoy.filters.http.router", "typed_config": router}


def _from_file(path: str) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
