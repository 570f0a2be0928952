"""KServe on Kubernetes as a serving backend."""

from resources.serving.kserve.backend import KServeBackend
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.connect import connect
from resources.serving.kserve.driver import Timing
from resources.serving.kserve.probe import Probe
from resources.serving.kserve.prometheus import Prometheus
from resources.serving.kserve.service import from_folder
from resources.serving.kserve.sticky import StickyBackend

__all__ = [
    "Cluster",
    "KServeBackend",
    "Probe",
    "Prometheus",
    "StickyBackend",
    "Timing",
    "connect",
    "from_folder",
]
