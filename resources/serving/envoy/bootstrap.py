"""Envoy's bootstrap: one listener, file discovery, a JSON access log, an admin socket."""

from typing import Any

from resources.serving.envoy.callers import BUFFER_BYTES, connection_limits, overload_manager, request_limits
from resources.serving.envoy.description import MOST_ID_BYTES, THRESHOLDS_MS, Gateway
from resources.serving.envoy.discovery import CDS, RDS, ROUTES
from resources.serving.envoy.types import typed

LISTENER = "gateway"
ZONE = "gateway"
"""The gateway's own zone: statistics per revision need one (`clusters`)."""
STATS_FLUSH = "0.5s"
"""Histograms reach the admin interface once per flush: this bounds how old `over_slo` is."""
LONGEST_MS = 3_600_000
"""Upper bound of the last latency bucket: everything that was counted lies below it."""
GATEWAY_HEALTH_PATH = "/gateway/health"
"""Answered by the gateway itself, on the port of its callers: it needs no model."""
_RUNTIME = {"re2.max_program_size.error_level": 1_000}
"""A pattern that counts to `MOST_ID_BYTES` is larger than Envoy lets one be by default."""

# What callers write is cut off: a line has at most two kilobytes or so.
_ACCESS_LOG_FIELDS = {
    "time": "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%",
    "request_id": f"%REQ(X-REQUEST-ID):{MOST_ID_BYTES}%",
    "call_id": f"%REQ(X-CALL-ID):{MOST_ID_BYTES}%",
    "unit_id": f"%REQ(X-UNIT-ID):{MOST_ID_BYTES}%",
    "assignment": "%REQ(X-ASSIGNMENT):16%",
    "salt": "%METADATA(ROUTE:rampgate:salt)%",
    "service": "%METADATA(ROUTE:rampgate:service)%",
    "method": "%REQ(:METHOD):16%",
    "path": "%REQ(:PATH):512%",
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
        "admin": {
            "address": {"pipe": {"path": str(gateway.admin), "mode": 0o600}},
            "ignore_global_conn_limit": True,
        },
        "overload_manager": overload_manager(),
        "layered_runtime": {"layers": [{"name": "rampgate", "static_layer": _RUNTIME}]},
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
        "per_connection_buffer_limit_bytes": BUFFER_BYTES,
        "filter_chains": [{"filters": [_connection_manager(gateway)]}],
    }


def _connection_manager(gateway: Gateway) -> dict[str, Any]:
    manager = typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=LISTENER,
        generate_request_id=True,
        # A caller's own request id survives, so that it can join its answers to ours.
        preserve_external_request_id=True,
        server_header_transformation="PASS_THROUGH",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        drain_timeout="5s",
        rds={"route_config_name": ROUTES, "config_source": _from_file(str(gateway.discovery / RDS))},
        access_log=[_access_log(gateway)],
        http_filters=[_own_health(), *request_limits(), _router()],
        **connection_limits(),
    )
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}


def _access_log(gateway: Gateway) -> dict[str, Any]:
    log = typed(
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        path=str(gateway.access_log),
        log_format={"json_format": _ACCESS_LOG_FIELDS},
    )
    return {"name": "envoy.access_loggers.file", "typed_config": log}


def _own_health() -> dict[str, Any]:
    path = {"name": ":path", "string_match": {"exact": GATEWAY_HEALTH_PATH}}
    check = typed(
        "envoy.extensions.filters.http.health_check.v3.HealthCheck", pass_through_mode=False, headers=[path]
    )
    return {"name": "envoy.filters.http.health_check", "typed_config": check}


def _router() -> dict[str, Any]:
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    return {"name": "envoy.filters.http.router", "typed_config": router}


def _from_file(path: str) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
