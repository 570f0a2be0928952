"""Kubernetes API paths."""

import re
from dataclasses import dataclass

_PATH = re.compile(
    r"^/(?:api|apis/(?P<group>[a-z0-9.]+))/(?P<version>v[a-z0-9]+)"
    r"(?:/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)(?:/(?P<name>[^/]+)(?:/(?P<sub>[^/]+))?)?)?/?$"
)


@dataclass(frozen=True)
class Target:
    """What a path is about."""

    group: str
    version: str
    namespace: str
    plural: str
    name: str
    subresource: str

    @property
    def resource(self) -> str:
        """`plural.group`, or the plural alone in the core group; empty for discovery."""
        return f"{self.plural}.{self.group}" if self.group and self.plural else self.plural

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.resource, self.namespace, self.name)


def parse(path: str) -> Target | None:
    """The target of a path, None for a path that no server knows."""
    match = _PATH.match(path)
    if match is None:
        return None
    parts = {key: value or "" for key, value in match.groupdict().items()}
    return Target(
        parts["group"], parts["version"], parts["namespace"], parts["plural"], parts["name"], parts["sub"]
    )
