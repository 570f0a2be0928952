"""Whether a part works, asked over the network as its users would. None means yes."""

import socket
from functools import cache
from pathlib import Path
from typing import Any

import httpx

from resources.settings import HOST

_TIMEOUT = 3.0
_LOCATIONS = """{ workspaceOrError { __typename ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"""
_DAEMONS = """{ instance { daemonHealth { allDaemonStatuses {
  daemonType required healthy lastHeartbeatErrors { message } } } } }"""
_RELOAD = "mutation { reloadWorkspace { __typename } }"


def no_answer(url: str) -> str | None:
    """Trouble unless a GET succeeds."""
    try:
        answer = _client().get(url, follow_redirects=True)
    except httpx.HTTPError as error:
        return f"{url} does not answer: {error}"
    return None if answer.is_success else f"{url} answers {answer.status_code}"


def port_closed(port: int) -> str | None:
    """Trouble unless something listens on the loopback port."""
    return _closed(socket.AF_INET, (HOST, port), f"{HOST}:{port}")


def socket_closed(path: Path) -> str | None:
    """Trouble unless something listens on the socket file."""
    return _closed(socket.AF_UNIX, str(path), str(path))


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


def daemons(url: str) -> str | None:
    """Trouble unless every daemon that the instance needs sends heartbeats."""
    data = _query(url, _DAEMONS)
    if isinstance(data, str):
        return data
    rows: list[dict[str, Any]] = data["instance"]["daemonHealth"]["allDaemonStatuses"]
    silent = [row["daemonType"] for row in rows if row["required"] and not row["healthy"]]
    return f"no heartbeat from: {', '.join(silent)}" if silent else None


def _closed(family: socket.AddressFamily, address: tuple[str, int] | str, name: str) -> str | None:
    with socket.socket(family) as probe:
        probe.settimeout(_TIMEOUT)
        if probe.connect_ex(address) == 0:
            return None
    return f"nothing listens on {name}"


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
    except httpx.HTTPError as error:
        return f"{url}/graphql does not answer: {error}"
    # Without data where the webserver failed, which it does while its storage is being set up.
    return found.get("data") or f"{url}/graphql answers: {found.get('errors')}"
