"""KServe's configuration, read once: it decides on names and ports, not on traffic."""

from resources.serving.kserve.client import Cluster
from resources.serving.kserve.mode import Installation, read_installation


class Installed:
    """Reads the config map when it is first asked. Raises ServingError where that fails, and tries again."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self._cluster, self._namespace = cluster, namespace
        self._found: Installation | None = None

    def __call__(self) -> Installation:
        if self._found is None:
            found = self._cluster.config_map(self._namespace, "inferenceservice-config")
            self._found = read_installation(found)
        return self._found
