"""What callers may do to the gateway: what they may say of themselves, how much they may send, and how slowly.

Nothing here bounds how long an answer may take: that is each service's own `timeout`.
"""

from typing import Any

from resources.serving.envoy.description import MOST_BODY_BYTES
from resources.serving.envoy.routes import AGAIN_HEADER, ASKED_HEADER, REQUEST_ID_HEADER, UNIT_HEADER
from resources.serving.envoy.types import typed

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
    header = {"key": target, "value": f"%REQ({source})%"}
    return {"append": {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}}


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
