"""Envoy configuration from a small description; pure, and shared by every gateway that we run."""

from resources.serving.envoy.bootstrap import bootstrap
from resources.serving.envoy.clusters import clusters
from resources.serving.envoy.description import (
    THRESHOLDS_MS,
    TOTAL_WEIGHT,
    Endpoint,
    Gateway,
    Revision,
    Service,
)
from resources.serving.envoy.discovery import CDS, RDS, ROUTES, publish, publish_if_new, published_version
from resources.serving.envoy.routes import route_configuration

__all__ = [
    "CDS",
    "RDS",
    "ROUTES",
    "THRESHOLDS_MS",
    "TOTAL_WEIGHT",
    "Endpoint",
    "Gateway",
    "Revision",
    "Service",
    "bootstrap",
    "clusters",
    "publish",
    "publish_if_new",
    "published_version",
    "route_configuration",
]
