"""Rollout ids: `<model>-v<version>-<8 hex>`; the same attempt at a version always gets the same id."""

import hashlib
import re
from typing import NamedTuple

_ID = re.compile(r"^(?P<model>.+)-v(?P<version>[^-]+)-[0-9a-f]{8}$")


class Named(NamedTuple):
    """What an id names."""

    model: str
    version: str


def rollout_id(model: str, version: str, attempt: int) -> str:
    """The id of the `attempt`-th rollout (from 1) of this version."""
    digest = hashlib.sha256(f"{model}\n{version}\n{attempt}".encode()).hexdigest()
    return f"{model}-v{version}-{digest[:8]}"


def named(identity: str) -> Named:
    """Model and version, for when the ledger cannot be asked. Raises ValueError."""
    match = _ID.match(identity)
    if match is None:
        raise ValueError(f"rollout id is {identity!r}, expected <model>-v<version>-<8 hex>")
    return Named(match["model"], match["version"])
