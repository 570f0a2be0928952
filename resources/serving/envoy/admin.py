"""Envoy's admin socket: what the gateway has applied, who is well, what was counted."""

import http.client
import json
import socket
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from pipelines.core.errors import ServingError

_TIMEOUT = 5.0

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


@dataclass(frozen=True, kw_only=True)
class Start:
    """One start of the gateway."""

    instance: str
    """A name that every start has for itself."""
    age: timedelta | None
    """It is no older than this; None where its clock was set back."""


class Admin:
    """Raises `ServingError` when the gateway does not answer. Every question has its own connection."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def ready(self) -> bool:
        """Whether the gateway has its clusters and routes and takes traffic."""
        try:
            self._ask("GET", "/ready")
        except ServingError:
            return False
        return True

    def applied_version(self, kind: str) -> str:
        """The version of `clusters` or `routes` in force; empty before the first."""
        name = _VERSIONS[kind]
        text = self._ask("GET", "/stats", filter=f"^{name.replace('.', '[.]')}$", type="TextReadouts")
        _, _, value = text.strip().partition(": ")
        return value.strip('"')

    def start(self) -> Start:
        """Which start of the gateway this is."""
        said = json.loads(self._ask("GET", "/server_info"))
        return Start(instance=str(said["node"]["id"]), age=_age(str(said.get("uptime_current_epoch", ""))))

    def health(self) -> dict[str, dict[int, bool]]:
        """Active clusters: name -> port -> whether requests may be sent there."""
        found = json.loads(self._ask("GET", "/clusters", format="json"))
        rows: list[dict[str, Any]] = found.get("cluster_statuses", [])
        return {row["name"]: dict(map(_host, row.get("host_statuses", []))) for row in rows}

    def stats(self, pattern: str) -> Stats:
        """Counters, gauges and cumulative histograms whose names match the regular expression."""
        answer = self._ask("GET", "/stats", filter=pattern, format="json", histogram_buckets="cumulative")
        rows: list[dict[str, Any]] = json.loads(answer)["stats"]
        histograms = [each for row in rows for each in row.get("histograms", [])]
        return Stats(
            counters={row["name"]: int(row["value"]) for row in rows if isinstance(row.get("value"), int)},
            histograms={each["name"]: _buckets(each["buckets"]) for each in histograms},
        )

    def reopen_logs(self) -> None:
        """Have logs that were moved written to new files."""
        self._ask("POST", "/reopen_logs")

    def _ask(self, method: str, path: str, **parameters: str) -> str:
        try:
            with closing(_Connection(self._place)) as connection:
                connection.request(method, f"{path}?{urlencode(parameters)}")
                answer = connection.getresponse()
                text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ServingError(f"the gateway does not answer at {self._place}: {path}: {error}") from error
        if answer.status != http.client.OK:
            raise ServingError(f"the gateway answers {answer.status} at {self._place}: {path}: {text[:200]}")
        return text


class _Connection(http.client.HTTPConnection):
    def __init__(self, place: Path) -> None:
        super().__init__("gateway", timeout=_TIMEOUT)
        self._place = place

    def connect(self) -> None:
        """Through the socket instead of a port."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._place))


def _age(uptime: str) -> timedelta | None:
    """Envoy says whole seconds, as the difference of two times without their fractions."""
    seconds = float(uptime.removesuffix("s") or -1)
    return timedelta(seconds=seconds + 1) if seconds >= 0 else None


def _host(row: dict[str, Any]) -> tuple[int, bool]:
    health = {name: value for name, value in row["health_status"].items() if name != "eds_health_status"}
    return int(row["address"]["socket_address"]["port_value"]), not any(health.values())


def _buckets(rows: list[dict[str, Any]]) -> dict[int, int]:
    return {round(row["upper_bound"]): int(row["cumulative"]) for row in rows}
