"""Envoy's typed configuration messages as plain dictionaries."""

from typing import Any


def typed(message: str, /, **fields: Any) -> dict[str, Any]:
    """A message with its type URL, e.g. `typed("envoy.config.cluster.v3.Cluster", name="a")`."""
    return {"@type": f"type.googleapis.com/{message}", **fields}
