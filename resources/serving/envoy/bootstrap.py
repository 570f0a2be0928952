"""Envoy's bootstrap: one listener, what callers may do to it, file discovery, a JSON access log, an admin socket.

What callers may say of themselves, how much they may send, and how slowly. Nothing here bounds how long an answer may
take: that is each service's own `timeout`.
"""

from datetime import timedelta
from typing import Any

from resources.serving.contract import UNIT_WINDOW, UNITS_REMEMBERED
from resources.serving.envoy.description import (
    CDS,
    MOST_BODY_BYTES,
    MOST_ID_BYTES,
    RDS,
    ROUTES,
    THRESHOLDS_MS,
    Gateway,
    typed,
)
from resources.serving.envoy.routes import (
    AGAIN_HEADER,
    ASKED_HEADER,
    COMPARISON,
    NEW,
    NEW_HEADER,
    REQUEST_ID_HEADER,
    ROLLOUT,
    SEEN,
    UNIT_HEADER,
)

LONGEST_HEADERS, LONGEST_REQUEST, LONGEST_IDLE = "5s", "10s", "60s"
"""Time for the headers of a request, for all of it, and for a connection without one."""

MOST_CONNECTIONS = 4_000

MOST_HEADERS_KIB, MOST_HEADERS = 16, 100

MOST_KIB_A_SECOND = 32 * 1024
"""Requests of 100 kB and more come in at this rate together: unfinished ones never hold more than 320 MiB."""

MOST_HEAP_BYTES = 768 * 1024 * 1024
"""Beyond this the gateway refuses requests before it takes the memory of others."""

BUFFER_BYTES = 64 * 1024
"""What is read of a connection, or written to it, ahead of who uses it."""

_CALLERS_MAY_NOT_SEND = "x-envoy-.*|knative-.*|k-.*"
"""What Envoy and Knative tell themselves: timeouts, retries, the path before it was rewritten, the revision."""

_NO_ADDRESS = {"cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]}

_AS_SENT = "x-as-sent"


def connection_limits() -> dict[str, Any]:
    """Fields of the connection manager."""
    return {
        # The address is the connection's own, and none is internal: Envoy would trust such a caller's headers.
        "use_remote_address": True,
        "internal_address_config": _NO_ADDRESS,
        # Each caller's requests come one after the other on its connection: its limits are the connection's.
        "codec_type": "HTTP1",
        "max_request_headers_kb": MOST_HEADERS_KIB,
        "request_headers_timeout": LONGEST_HEADERS,
        "request_timeout": LONGEST_REQUEST,
        # Until there is a route, which has its own.
        "stream_idle_timeout": LONGEST_REQUEST,
        "common_http_protocol_options": {"idle_timeout": LONGEST_IDLE, "max_headers_count": MOST_HEADERS},
        "early_header_mutation_extensions": [_headers()],
    }


def request_limits() -> list[dict[str, Any]]:
    """Filters in front of the router."""
    return [_large_requests_share(), _whole_requests()]


def overload_manager() -> dict[str, Any]:
    """Bounds of the whole process."""
    return {
        "refresh_interval": "0.1s",
        "resource_monitors": [
            _monitor(
                "global_downstream_max_connections",
                "downstream_connections.v3.DownstreamConnectionsConfig",
                max_active_downstream_connections=MOST_CONNECTIONS,
            ),
            _monitor("fixed_heap", "fixed_heap.v3.FixedHeapConfig", max_heap_size_bytes=MOST_HEAP_BYTES),
        ],
        "actions": [_beyond("shrink_heap", 0.8), _beyond("stop_accepting_requests", 0.95)],
    }


def _headers() -> dict[str, Any]:
    """Before anything is done with a request: nothing in it steers, and it has one unit at most."""
    steering = {"safe_regex": {"regex": _CALLERS_MAY_NOT_SEND}}
    mutations = [
        {"remove_on_match": {"key_matcher": steering}},
        {"remove": AGAIN_HEADER},
        {"remove": ASKED_HEADER},
        {"append": _overwritten(NEW_HEADER, NEW)},
        *_one(UNIT_HEADER),
        *_one(REQUEST_ID_HEADER),
    ]
    name = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation"
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": typed(name, mutations=mutations),
    }


def _one(header: str) -> list[dict[str, Any]]:
    """An empty id is none, and of several the first counts. (Of several request ids Envoy has made one, with commas.)

    An empty unit would be a unit like any other: all anonymous traffic would move as one.
    """
    return [
        {"remove": _AS_SENT},
        _copied(header, _AS_SENT),
        {"remove": header},
        _copied(_AS_SENT, header),
        {"remove": _AS_SENT},
    ]


def _copied(source: str, target: str) -> dict[str, Any]:
    """The first value of `source`; nothing where that is empty."""
    return {"append": _overwritten(target, f"%REQ({source})%")}


def _overwritten(header: str, value: str) -> dict[str, Any]:
    return {"header": {"key": header, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _large_requests_share() -> dict[str, Any]:
    """Whole requests are waited for in memory, and large ones must not take it from small ones.

    What they send in `LONGEST_REQUEST` is all that unfinished ones can hold.
    """
    name = "envoy.filters.http.bandwidth_limit"
    share = typed(
        "envoy.extensions.filters.http.bandwidth_limit.v3.BandwidthLimit",
        stat_prefix="large_requests",
        enable_mode="REQUEST",
        limit_kbps=MOST_KIB_A_SECOND,
    )
    config = typed(
        "envoy.extensions.common.matching.v3.ExtensionWithMatcher",
        extension_config={"name": name, "typed_config": share},
        xds_matcher={"matcher_list": {"matchers": [_small_ones_skip_it()]}},
    )
    return {"name": name, "typed_config": config}


def _small_ones_skip_it() -> dict[str, Any]:
    """Those that announce less than 100 kB; one of unknown length may be large."""
    length = typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", header_name="content-length")
    small = {
        "input": {"name": "content-length", "typed_config": length},
        "value_match": {"safe_regex": {"google_re2": {}, "regex": "[0-9]{1,5}"}},
    }
    skip = typed("envoy.extensions.filters.common.matcher.action.v3.SkipFilter")
    return {
        "predicate": {"single_predicate": small},
        "on_match": {"action": {"name": "skip", "typed_config": skip}},
    }


def _whole_requests() -> dict[str, Any]:
    """A request reaches a predictor when it is there to its last byte: a slow caller keeps no place at one."""
    buffer = typed("envoy.extensions.filters.http.buffer.v3.Buffer", max_request_bytes=MOST_BODY_BYTES)
    return {"name": "envoy.filters.http.buffer", "typed_config": buffer}


def _monitor(name: str, kind: str, **most: int) -> dict[str, Any]:
    config = typed(f"envoy.extensions.resource_monitors.{kind}", **most)
    return {"name": f"envoy.resource_monitors.{name}", "typed_config": config}


def _beyond(action: str, share: float) -> dict[str, Any]:
    """Where the heap has reached this share of what it may."""
    trigger = {"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": share}}
    return {"name": f"envoy.overload_actions.{action}", "triggers": [trigger]}


# Envoy's bootstrap: one listener, file discovery, a JSON access log, an admin socket.


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

LONGEST_ROLLOUT = timedelta(days=1000)
"""No unit is new again within it: it is longer than any rollout."""

PATIENCE_MS = 100
"""How long a caller must have waited for hanging up to say something of who was asked."""

_SENT_WITHIN_MS = 50
"""Of a request that took longer to come it is not known how long its caller waited: hanging up on it says nothing."""

_HUNG_UP = "hung_up"

HUNG_UP_AT = f"{_HUNG_UP}.requests.asked."
"""Before the cluster's name, in the counter of callers that went away."""

COUNTED = "completed|retry_success|retry_overflow|timeout|time"
"""What `counting` reads of a cluster's requests, and of their answers by class (`ANSWERED`)."""

ANSWERED = "[1-5]xx|unknown"

_KEPT_STATISTICS = (
    rf"cluster\..*\.(upstream_rq_({COUNTED}|{ANSWERED}|active)|outlier_detection\.ejections_enforced_total)"
    rf"|.*\.version_text|{_HUNG_UP}\..*"
)
"""Of the 550 of each cluster: all are searched through for each question."""

_UNIT = "unit"

_NO_LIMIT = 4_000_000_000

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
        "stats_config": {
            "histogram_bucket_settings": [_latency_buckets()],
            "stats_matcher": {"inclusion_list": {"patterns": [{"safe_regex": {"regex": _KEPT_STATISTICS}}]}},
        },
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
        access_log=[_access_log(gateway), _hung_up()],
        http_filters=[
            _own_health(),
            *request_limits(),
            _marks_units(ROLLOUT, LONGEST_ROLLOUT, _overwritten(NEW_HEADER, SEEN)),
            _marks_units(COMPARISON, UNIT_WINDOW, _overwritten(AGAIN_HEADER, "1")),
            _routed_anew(),
            _router(),
        ],
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


def _hung_up() -> dict[str, Any]:
    """Counts callers that went away without an answer, by the cluster that was asked; Envoy completes no such request."""
    gone = {"response_flag_filter": {"flags": ["DC"]}}
    unanswered = {"status_code_filter": {"comparison": _compared("EQ", 0, "rampgate.unanswered")}}
    prompt = {"name": ASKED_HEADER, "range_match": {"start": 0, "end": _SENT_WITHIN_MS + 1}}
    least = _SENT_WITHIN_MS + PATIENCE_MS  # a duration counts from a request's first byte
    waited = {"duration_filter": {"comparison": _compared("GE", least, "rampgate.patience_ms")}}
    asked = {"name": "asked", "value_format": "%UPSTREAM_CLUSTER_RAW%"}
    config = typed(
        "envoy.extensions.access_loggers.stats.v3.Config",
        stats_scope={"prefix": _HUNG_UP},
        counters=[{"stat": {"name": "requests", "tags": [asked]}, "value_fixed": 1}],
    )
    return {
        "name": "envoy.access_loggers.stats",
        "filter": {
            "and_filter": {"filters": [gone, unanswered, {"header_filter": {"header": prompt}}, waited]}
        },
        "typed_config": config,
    }


def _compared(how: str, value: int, key: str) -> dict[str, Any]:
    return {"op": how, "value": {"default_value": value, "runtime_key": key}}


def _marks_units(by: str, every: timedelta, mark: dict[str, Any]) -> dict[str, Any]:
    """Marks what a unit asks again before `every` is over; limits nothing.

    A unit has a bucket of one token for each value of what its route names `by`. Requests without a unit are not marked.
    """
    route = {"metadata_key": {"key": "rampgate", "path": [{"key": by}]}, "source": "ROUTE_ENTRY"}
    named = [
        {"metadata": {"descriptor_key": by, **route}},
        {"request_headers": {"header_name": UNIT_HEADER, "descriptor_key": _UNIT}},
    ]
    return _filter(
        "local_ratelimit",
        "local_ratelimit.v3.LocalRateLimit",
        stat_prefix="units",
        token_bucket=_tokens(_NO_LIMIT, every=timedelta(seconds=1)),
        always_consume_default_token_bucket=False,
        filter_enabled=_percent(100),
        filter_enforced=_percent(0),
        request_headers_to_add_when_not_enforced=[mark],
        descriptors=[{"entries": [{"key": by}, {"key": _UNIT}], "token_bucket": _tokens(1, every=every)}],
        rate_limits=[{"actions": named}],
        max_dynamic_descriptors=UNITS_REMEMBERED,
    )


def _routed_anew() -> dict[str, Any]:
    """The route was chosen before the marks were there."""
    mark = {
        "object_key": AGAIN_HEADER,
        "factory_key": "envoy.string",
        "format_string": {
            "text_format_source": {"inline_string": f"%REQ({AGAIN_HEADER})%"},
            "omit_empty_values": True,
        },
        "skip_if_empty": True,
    }
    return _filter(
        "set_filter_state", "set_filter_state.v3.Config", on_request_headers=[mark], clear_route_cache=True
    )


def _filter(name: str, message: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": f"envoy.filters.http.{name}",
        "typed_config": typed(f"envoy.extensions.filters.http.{message}", **fields),
    }


def _tokens(most: int, *, every: timedelta) -> dict[str, Any]:
    return {"max_tokens": most, "tokens_per_fill": most, "fill_interval": f"{every.total_seconds():.0f}s"}


def _percent(share: int) -> dict[str, Any]:
    return {"default_value": {"numerator": share, "denominator": "HUNDRED"}}


def _router() -> dict[str, Any]:
    router = typed("envoy.extensions.filters.http.router.v3.Router")
    return {"name": "envoy.filters.http.router", "typed_config": router}


def _from_file(path: str) -> dict[str, Any]:
    return {"resource_api_version": "V3", "path_config_source": {"path": path}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
