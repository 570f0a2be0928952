"""Routes: probes to a named revision, everything else by a sticky weighted split."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from resources.serving.envoy.clusters import (
    absent_cluster,
    again_cluster,
    distinct_cluster,
    failover_cluster,
    probe_cluster,
    shadow_cluster,
)
from resources.serving.envoy.description import (
    MOST_ID_BYTES,
    ROUTES,
    TOTAL_WEIGHT,
    GatewayRevision,
    Service,
    typed,
)

UNIT_HEADER = "x-unit-id"

ASSIGNMENT_HEADER = "x-assignment"

PIN_HEADER = "x-model-revision"

TOKEN_HEADER = "x-probe-token"

REVISION_HEADER = "x-served-revision"

AGAIN_HEADER = "x-unit-again"
"""Set by the gateway on what a unit asks again within `UNIT_WINDOW`; taken from callers."""

NEW_HEADER = "x-unit-new"
"""Set by the gateway on every request: `NEW`, or `SEEN` where its unit has asked before in this rollout; taken from callers."""

NEW, SEEN = "1", "0"

ASKED_HEADER = "x-asked-after-ms"
"""Set by the gateway: how long after a request's first byte a revision is asked; taken from callers."""

REQUEST_ID_HEADER = "x-request-id"

CALL_HEADER = "x-call-id"
"""Made by the gateway, one for every call: the same for all attempts at it and for its copy. A caller's own request
id may name many calls."""

_UNREAD_MS = 5_000

COMPARISON = "comparison"
"""In a route's metadata, for the gateway to remember units by. With another share or rollout, all are counted anew."""

ROLLOUT = "rollout"
"""The same for as long as a rollout lasts, whatever its share."""


def route_configuration(services: Iterable[Service], *, probe_token: str | None) -> dict[str, Any]:
    """One virtual host for all services.

    A request is pinned only if it names a revision and carries `probe_token`; a client that merely
    names a revision is assigned like everybody else. Without a token nothing can be pinned.
    """
    routes = [route for service in services for route in _routes(service, probe_token)]
    return typed(
        "envoy.config.route.v3.RouteConfiguration",
        name=ROUTES,
        # A rejected update would keep old weights in force for every service; a route to a cluster
        # that is not there answers 503 for itself alone.
        validate_clusters=False,
        virtual_hosts=[_virtual_host(routes)],
    )


def _virtual_host(routes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "services",
        "domains": ["*"],
        "routes": [*map(_too_long, (UNIT_HEADER, REQUEST_ID_HEADER)), *routes],
        "include_request_attempt_count": True,
        # Without a caller's Ce-Id, KServe's payload logger makes one for every answer.
        "request_headers_to_remove": [PIN_HEADER, TOKEN_HEADER, AGAIN_HEADER, NEW_HEADER, "ce-id"],
        "response_headers_to_add": [_set(REQUEST_ID_HEADER, "%REQ(X-REQUEST-ID)%")],
    }


def _too_long(header: str) -> dict[str, Any]:
    """Refused by the gateway, and counted for nobody: to cut an id off would make one unit of many."""
    regex = rf"\C{{{MOST_ID_BYTES + 1},}}"
    error = json.dumps({"error": f"{header} has more than {MOST_ID_BYTES} bytes"})
    return {
        "match": {
            "prefix": "/",
            "headers": [{"name": header, "string_match": {"safe_regex": {"regex": regex}}}],
        },
        "direct_response": {"status": 400, "body": {"inline_string": error}},
        "response_headers_to_add": [_set("content-type", "application/json")],
    }


def _routes(service: Service, probe_token: str | None) -> list[dict[str, Any]]:
    """The first that matches counts: pinned, live, and what is no prediction."""
    live: list[dict[str, Any]] = []
    for match in _predictions(service):
        for marks, counted_at in _marked(service):
            if probe_token:
                told = match | {"headers": [*match["headers"], _is(TOKEN_HEADER, probe_token), *marks]}
                live.append(_weighted(service, told, counted_at) | {"response_headers_to_add": [_REVISION]})
            live.append(_weighted(service, match | {"headers": [*match["headers"], *marks]}, counted_at))
    pinned = [
        _pinned(service, revision, match, probe_token)
        for match in _paths(service)
        for revision in service.live()
        if probe_token
    ]
    return [*pinned, *live, *(_uncounted(service, match) for match in _paths(service))]


def _marked(service: Service) -> list[tuple[list[dict[str, Any]], Callable[[str], str]]]:
    """By which marks a request is told, and in which cluster beside the share's its answer is counted then."""
    again, new = {"name": AGAIN_HEADER, "present_match": True}, _is(NEW_HEADER, NEW)
    rest: tuple[list[dict[str, Any]], Callable[[str], str]] = ([], str)
    if not _counts_units(service):
        return [rest]
    return [([again], again_cluster), ([new], distinct_cluster), rest]


def _paths(service: Service) -> list[dict[str, Any]]:
    return [
        {"path_separated_prefix": f"/v2/models/{service.name}"},
        {"prefix": f"/v1/models/{service.name}:"},
    ]


def _predictions(service: Service) -> list[dict[str, Any]]:
    """What asks for a prediction: nothing else is assigned, or counted as an answer of a revision."""
    asked = [{"name": ":method", "string_match": {"exact": "POST"}}]
    return [match | {"headers": asked} for match in _paths(service)]


def _uncounted(service: Service, match: dict[str, Any]) -> dict[str, Any]:
    """Metadata and readiness, of the stable revision: a good answer to them says nothing of its predictions."""
    cluster = probe_cluster(service.stable) if service.stable else absent_cluster(service)
    action = {"cluster": cluster, **_patience(service), **_host(service)}
    return _route(service, match, action, assignment="none")


def _pinned(
    service: Service, revision: GatewayRevision, match: dict[str, Any], probe_token: str | None
) -> dict[str, Any]:
    headers = [_is(PIN_HEADER, revision.name), _is(TOKEN_HEADER, probe_token)]
    action = {"cluster": probe_cluster(revision), **_patience(service), **_host(service)}
    pinned = _route(service, match | {"headers": headers}, action, assignment="pinned")
    return pinned | {"response_headers_to_add": [_REVISION]}


def _weighted(service: Service, match: dict[str, Any], counted_at: Callable[[str], str]) -> dict[str, Any]:
    action: dict[str, Any] = {
        "weighted_clusters": _split(service, counted_at),
        "hash_policy": [_unit_hash(service.salt)],
        **_patience(service),
        "retry_policy": _retry(service.timeout_ms),
        **_host(service),
    }
    if service.mirror and service.canary is not None:
        action["request_mirror_policies"] = [_mirror(service.canary)]
    return _route(service, match, action, assignment="weighted")


def _counts_units(service: Service) -> bool:
    """While two revisions are compared, a unit's first answer is told from what it asks later (`bootstrap`)."""
    return service.stable is not None and service.canary is not None and service.canary_weight > 0


def _route(
    service: Service, match: dict[str, Any], action: dict[str, Any], *, assignment: str
) -> dict[str, Any]:
    about = {"service": service.name, "salt": service.salt}
    if assignment == "weighted" and _counts_units(service):
        about[ROLLOUT] = f"{service.name}/{service.salt}"
        about[COMPARISON] = f"{about[ROLLOUT]}/{service.canary_weight}"
    return {
        "match": match,
        "route": action,
        "metadata": {"filter_metadata": {"rampgate": about}},
        # Whatever the client claims about its assignment is overwritten.
        "request_headers_to_add": [
            _set(ASSIGNMENT_HEADER, assignment),
            _set(CALL_HEADER, "%UNIQUE_ID%"),
            _set(ASKED_HEADER, "%DURATION%"),
        ],
    }


def routes_of(resources: Iterable[dict[str, Any]], services: set[str]) -> list[dict[str, Any]]:
    """Those services' routes in published resources."""
    routes = [route for each in resources for host in each["virtual_hosts"] for route in host["routes"]]
    return [route for route in routes if _service_of(route) in services]


def _service_of(route: dict[str, Any]) -> str | None:
    """None for a route that is no service's."""
    return route["metadata"]["filter_metadata"]["rampgate"]["service"] if "metadata" in route else None


def give_nothing_to_the_canary(route: dict[str, Any]) -> None:
    """Everything to the stable side: the second of two weighted clusters, see `_split`."""
    shares = route["route"].get("weighted_clusters", {}).get("clusters", [])
    if len(shares) > 1:
        shares[0]["weight"], shares[1]["weight"] = 0, TOTAL_WEIGHT
        route["route"].pop("request_mirror_policies", None)


def _split(service: Service, counted_at: Callable[[str], str]) -> dict[str, Any]:
    """The canary first: it owns the hashes below its weight, so a growing share only adds units."""
    stable = service.stable.name if service.stable else absent_cluster(service)
    shares = [{"name": stable, "weight": TOTAL_WEIGHT - service.canary_weight}]
    if service.canary is not None:
        name = failover_cluster(service.canary, service.stable) if service.stable else service.canary.name
        shares.insert(0, {"name": name, "weight": service.canary_weight})
    shares = [share | {"name": counted_at(share["name"])} for share in shares]
    return {"clusters": shares, "use_hash_policy": True}


def _unit_hash(salt: str) -> dict[str, Any]:
    """xxh64 of `<salt>:<unit>`, of the unit's bytes as they came: no character set is assumed, so any byte matches.

    A request without a unit has no hash and is assigned at random.
    """
    prefix = salt.replace("\\", "\\\\")
    rewrite = {"pattern": {"regex": r"^(\C*)$"}, "substitution": rf"{prefix}:\1"}
    return {"header": {"header_name": UNIT_HEADER, "regex_rewrite": rewrite}, "terminal": True}


def _retry(timeout_ms: int) -> dict[str, Any]:
    """Once, and after a canary's failure by the stable revision: predictions change nothing.

    Whatever is not 2xx is asked again, callers' mistakes too: only the second answer tells whose fault the first was.
    """
    priorities = typed(
        "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", update_frequency=1
    )
    hosts = typed("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate")
    return {
        "retry_on": "connect-failure,refused-stream,reset-before-request,gateway-error,retriable-headers",
        "retriable_headers": [
            {"name": ":status", "string_match": {"prefix": "2"}, "invert_match": True},
        ],
        "num_retries": 1,
        "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.02s"},
        "per_try_timeout": _seconds(timeout_ms // 2),
        "retry_priority": {"name": "envoy.retry_priorities.previous_priorities", "typed_config": priorities},
        # Never the same replica again: a dead or hung one is idle, and the least loaded is asked first.
        "retry_host_predicate": [
            {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": hosts}
        ],
        "host_selection_retry_max_attempts": 40,
    }


def _patience(service: Service) -> dict[str, Any]:
    """An answer may take the service's timeout; a caller that does not read it has a little longer."""
    return {
        "timeout": _seconds(service.timeout_ms),
        "idle_timeout": _seconds(service.timeout_ms + _UNREAD_MS),
    }


def _host(service: Service) -> dict[str, Any]:
    """Each replica is asked by its own name, which is how Knative's activator tells revisions apart."""
    return {"auto_host_rewrite": True} if service.named else {}


def _mirror(canary: GatewayRevision) -> dict[str, Any]:
    name = next((endpoint.hostname for endpoint in canary.endpoints if endpoint.hostname), "")
    return {
        **({"host_rewrite_literal": name} if name else {}),
        "cluster": shadow_cluster(canary),
        "disable_shadow_host_suffix_append": True,
        "request_headers_mutations": [{"append": _set(ASSIGNMENT_HEADER, "shadow")}],
    }


def _set(name: str, value: str) -> dict[str, Any]:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _is(name: str, value: str | None) -> dict[str, Any]:
    return {"name": name, "string_match": {"exact": value}}


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g}s"


_REVISION = _set(REVISION_HEADER, "%UPSTREAM_METADATA(envoy.lb:revision)%")
"""Who answered: for those alone who have the token."""
