"""Envoy's admin port: what the gateway has applied, who is well, what was counted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from pipelines.errors import ServingError
from resources.certificates import certificates
from resources.settings import HOST

_VERSIONS = {
    "clusters": "cluster_manager.cds.version_text",
    "routes": "http.gateway.rds.rampgate.version_text",
}


@dataclass(frozen=True, kw_only=True)
class Stats:
    """One reading of the statistics of some clusters."""

    counters: Mapping[str, int] = field(default_factory=dict[str, int])
    histograms: Mapping[str, Mapping[int, int]] = field(default_factory=dict[str, Mapping[int, int]])
    """Name -> upper bound in ms -> how many were at or below it."""


class Admin:
    """Raises `ServingError` when the gateway does not answer."""

    def __init__(self, port: int) -> None:
        self._where = f"http://{HOST}:{port}"
        # One connection per question: nothing to close, nothing that a fork could share.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._http = httpx.Client(
            base_url=self._where, trust_env=False, timeout=5, limits=limits, verify=certificates()
        )

    def ready(self) -> bool:
        """Whether the gateway has its clusters and routes and takes traffic."""
        try:
            return self._http.get("/ready").is_success
        except httpx.HTTPError:
            return False

    def applied_version(self, kind: str) -> str:
        """The version of `clusters` or `routes` in force; empty before the first."""
        name = _VERSIONS[kind]
        text = self._get("/stats", filter=f"^{name.replace('.', '[.]')}$", type="TextReadouts").text
        _, _, value = text.strip().partition(": ")
        return value.strip('"')

    def instance(self) -> str:
        """A name that every start of the gateway has for itself."""
        return str(self._get("/server_info").json()["node"]["id"])

    def health(self) -> dict[str, dict[int, bool]]:
        """Active clusters: name -> port -> whether requests may be sent there."""
        rows: list[dict[str, Any]] = self._get("/clusters", format="json").json().get("cluster_statuses", [])
        return {row["name"]: dict(map(_host, row.get("host_statuses", []))) for row in rows}

    def stats(self, pattern: str) -> Stats:
        """Counters, gauges and cumulative histograms whose names match the regular expression."""
        answer = self._get("/stats", filter=pattern, format="json", histogram_buckets="cumulative")
        rows: list[dict[str, Any]] = answer.json()["stats"]
        histograms = [each for row in rows for each in row.get("histograms", [])]
        return Stats(
            counters={row["name"]: int(row["value"]) for row in rows if isinstance(row.get("value"), int)},
            histograms={each["name"]: _buckets(each["buckets"]) for each in histograms},
        )

    def _get(self, path: str, **parameters: str) -> httpx.Response:
        try:
            return self._http.get(path, params=parameters).raise_for_status()
        except httpx.HTTPError as error:
            raise ServingError(f"the gateway does not answer at {self._where}{path}: {error}") from error


def _host(row: dict[str, Any]) -> tuple[int, bool]:
    health = {name: value for name, value in row["health_status"].items() if name != "eds_health_status"}
    return int(row["address"]["socket_address"]["port_value"]), not any(health.values())


def _buckets(rows: list[dict[str, Any]]) -> dict[int, int]:
    return {round(row["upper_bound"]): int(row["cumulative"]) for row in rows}
