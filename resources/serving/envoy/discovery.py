"""File discovery: resources in a file that Envoy reads again whenever it is replaced."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CDS = "cds.json"
RDS = "rds.json"
ROUTES = "rampgate"
"""Name of the one route configuration."""


def version_of(resources: Sequence[dict[str, Any]]) -> str:
    """A version that follows from the content, so that equal configurations have equal versions."""
    return hashlib.sha256(json.dumps(resources, sort_keys=True).encode()).hexdigest()[:16]


def publish(path: Path, resources: Sequence[dict[str, Any]]) -> str:
    """Replace the file atomically and return its version. Envoy watches for exactly this rename.

    Only the owner may read it: routes hold the probe token.
    """
    version = version_of(resources)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({"version_info": version, "resources": list(resources)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return version


def publish_if_new(path: Path, resources: Sequence[dict[str, Any]], before: str | None) -> str:
    """`publish`, unless `before` is the version of just these resources."""
    version = version_of(resources)
    return version if version == before else publish(path, resources)


def published_version(path: Path) -> str | None:
    """The version in the file, or None before the first `publish`."""
    if not path.exists():
        return None
    return str(json.loads(path.read_text())["version_info"])
