"""Whether a part does its work, asked over the network as its users would. None means yes."""

import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from pipelines.platform.run_workers.client import RunHostError, ask
from resources.serving.envoy.admin import Admin
from resources.serving.envoy.bootstrap import GATEWAY_HEALTH_PATH

_TIMEOUT = 3.0

HEARTBEAT_SECONDS = 100.0
"""Dagster's daemons send one every 30 s; Dagster itself calls one healthy for half an hour without."""

_LOCATIONS = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""

_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses {
  daemonType required healthy lastHeartbeatTime lastHeartbeatErrors { message } } } } }"""

_SWITCHES = """{ workspaceOrError { ... on Workspace { locationEntries { name locationOrLoadError {
  ... on RepositoryLocation { repositories {
    sensors { name description defaultStatus sensorState { status } }
    schedules { name description defaultStatus scheduleState { status } } } } } } } } }"""

_NO_PING = {"UNAVAILABLE": "nothing listens", "DEADLINE_EXCEEDED": f"silent for {_TIMEOUT:g} s"}

_NO_CODE = "the process that holds the code is gone"

_RELOAD = "mutation { reloadWorkspace { __typename } }"


def no_answer(url: str) -> str | None:
    """Trouble unless a GET succeeds."""
    try:
        answer = _client().get(url, follow_redirects=True)
    except httpx.HTTPError as error:
        return f"{url} does not answer: {error}"
    return None if answer.is_success else f"{url} answers {answer.status_code}"


def no_gateway(admin: Path, traffic: str) -> str | None:
    """Trouble unless the gateway answers where its callers ask, and where it is asked what it has counted."""
    silent = None if Admin(admin).ready() else f"{admin} does not answer that the gateway is ready"
    return no_answer(f"{traffic}{GATEWAY_HEALTH_PATH}") or silent


def no_code(socket: Path) -> str | None:
    """Trouble unless the process that holds the loaded code answers a ping: its parent only passes it on."""
    import grpc

    with grpc.insecure_channel(f"unix:{socket}") as channel:
        ping = channel.unary_unary("/api.DagsterApi/Ping")
        try:
            ping(b"", timeout=_TIMEOUT)
        except grpc.RpcError as error:
            return f"{socket} does not answer: {_NO_PING.get(error.code().name, _NO_CODE)}"
    return None


def no_runs(path: Path, *, timeout: float = _TIMEOUT) -> str | None:
    """Trouble unless the host of the runs answers a question within `timeout` seconds."""
    try:
        ask(path, {"do": "state", "run_id": "none"}, timeout=timeout)
    except RunHostError as error:
        return str(error)
    return None


def code_location(url: str) -> str | None:
    """Trouble unless every code location is loaded; one that failed to load is asked to try again."""
    data = _query(url, _LOCATIONS)
    if isinstance(data, str):
        return data
    entries: list[dict[str, Any]] = data["workspaceOrError"].get("locationEntries", [])
    trouble = next((found for found in map(_location_trouble, entries) if found), None)
    if trouble and not trouble.endswith("is loading"):
        _query(url, _RELOAD)
    return trouble if entries else f"{url} has no code location"


def no_heartbeat(url: str) -> str | None:
    """Trouble if a daemon that the instance needs has been silent; what the webserver cannot say is not."""
    data = _query(url, _DAEMONS)
    rows = [] if isinstance(data, str) else _required_daemons(data)
    oldest = time.time() - HEARTBEAT_SECONDS
    silent = [row["daemonType"] for row in rows if (row["lastHeartbeatTime"] or 0.0) < oldest]
    return f"no heartbeat from: {', '.join(silent)}" if silent else None


def daemons(url: str) -> str | None:
    """Trouble unless every daemon that the instance needs sends heartbeats, and has no errors to report."""
    data = _query(url, _DAEMONS)
    if isinstance(data, str):
        return data
    failing = [row["daemonType"] for row in _required_daemons(data) if not row["healthy"]]
    return f"no good heartbeat from: {', '.join(failing)}" if failing else None


class SwitchedOff(NamedTuple):
    """A sensor or schedule that is to run and does not: somebody turned it off."""

    name: str
    does: str
    """Its description."""
    url: str
    """Where it is turned on."""


def switched_off(url: str) -> tuple[SwitchedOff, ...] | None:
    """Every sensor and schedule that is off; None where none is seen to be and the webserver cannot say it of all."""
    data = _query(url, _SWITCHES)
    entries: list[dict[str, Any]] = (
        [] if isinstance(data, str) else data["workspaceOrError"].get("locationEntries", [])
    )
    off = tuple(found for entry in entries for found in _off_in(url, entry))
    told = entries and all("repositories" in (entry["locationOrLoadError"] or {}) for entry in entries)
    return off if off or told else None


def _off_in(url: str, entry: dict[str, Any]) -> Iterator[SwitchedOff]:
    for repository in (entry["locationOrLoadError"] or {}).get("repositories", ()):
        for kind in ("sensor", "schedule"):
            for row in repository[f"{kind}s"]:
                state = (row[f"{kind}State"] or {}).get("status")
                if row["defaultStatus"] == "RUNNING" and state != "RUNNING":
                    where = f"{url}/locations/{entry['name']}/{kind}s/{row['name']}"
                    yield SwitchedOff(row["name"], row["description"] or "", where)


def stale(beat: Path, seconds: float) -> str | None:
    """Trouble unless the file was written within the last `seconds`."""
    try:
        age = time.time() - beat.stat().st_mtime
    except OSError as error:
        return f"{beat} cannot be read: {error.strerror}"
    return None if age < seconds else f"{beat} was last written {age:.0f} s ago"


def _required_daemons(data: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = data["instance"]["daemonHealth"]["allDaemonStatuses"]
    return [row for row in rows if row["required"]]


@cache
def _client() -> httpx.Client:
    """Made once (it loads certificates); every question has its own connection, so nothing stays open."""
    return httpx.Client(timeout=_TIMEOUT, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


def _location_trouble(entry: dict[str, Any]) -> str | None:
    loaded = entry["locationOrLoadError"] or {}
    if loaded.get("__typename") == "PythonError":
        return f"code location {entry['name']}: {loaded['message'].strip()}"
    return None if entry["loadStatus"] == "LOADED" else f"code location {entry['name']} is loading"


def _query(url: str, query: str) -> dict[str, Any] | str:
    """The data of an answer, or what is wrong."""
    try:
        answer = _client().post(f"{url}/graphql", json={"query": query})
        found = answer.raise_for_status().json()
    except (httpx.HTTPError, ValueError) as error:
        return f"{url}/graphql does not answer: {error}"
    # Without data where the webserver failed, which it does while its storage is being set up.
    return found.get("data") or f"{url}/graphql answers: {found.get('errors')}"
