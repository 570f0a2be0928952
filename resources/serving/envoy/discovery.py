"""File discovery: resources in a file that Envoy reads again whenever it is replaced."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.errors import ServingError
from resources.reserve import replace

CDS = "cds.json"
RDS = "rds.json"
ROUTES = "rampgate"
"""Name of the one route configuration."""


def version_of(resources: Sequence[dict[str, Any]]) -> str:
    """A version that follows from the content, so that equal configurations have equal versions."""
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


def publish(path: Path, resources: Sequence[dict[str, Any]], *, from_reserve: bool = False) -> str:
    """Replace the file atomically and return its version. Envoy watches for exactly this rename.

    Only the owner may read it: routes hold the probe token. `from_reserve`: see `resources.reserve`. Raises
    ServingError where it cannot be written.
    """
    version = version_of(resources)
    content = json.dumps({"version_info": version, "resources": list(resources)}, indent=1)
    try:
        replace(path, content.encode(), from_reserve=from_reserve)
    except OSError as error:
        raise ServingError(f"the gateway's {path} cannot be written: {error.strerror}") from error
    return version


def publish_if_new(
    path: Path, resources: Sequence[dict[str, Any]], before: str | None, *, from_reserve: bool = False
) -> str:
    """`publish`, unless `before` is the version of just these resources."""
    version = version_of(resources)
    return version if version == before else publish(path, resources, from_reserve=from_reserve)


def published(path: Path) -> list[dict[str, Any]]:
    """The resources in the file; none before the first `publish`."""
    return list(json.loads(path.read_text())["resources"]) if path.exists() else []


def published_version(path: Path) -> str | None:
    """The version in the file, or None before the first `publish`."""
    if not path.exists():
        return None
    return str(json.loads(path.read_text())["version_info"])
