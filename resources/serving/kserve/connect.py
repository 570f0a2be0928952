"""The backend as environment variables describe it (docs/kubernetes.md lists them)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import ServingError
from resources.serving.kserve.assignment import Assignments
from resources.serving.kserve.backend import KServeBackend, Probe
from resources.serving.kserve.client import Cluster
from resources.serving.kserve.commit_back import CommitBack
from resources.serving.kserve.driver import Timing
from resources.serving.kserve.gateways import Gateways
from resources.serving.kserve.prometheus import PRESETS, Prometheus
from resources.serving.kserve.sticky import StickyBackend


def connect(
    services: Mapping[str, Mapping[str, Any]],
    env: Mapping[str, str] | None = None,
    *,
    allow: Mapping[str, tuple[str, ...]] | None = None,
) -> KServeBackend | StickyBackend:
    """A backend on the cluster of KUBECONFIG, or the one that this process runs in.

    `services` are the models' InferenceServices as the teams wrote them, by service name; `allow` is what may run code
    when each is loaded (default: nothing). With RAMPGATE_GATEWAY_CONTROL_URL the sticky gateway splits traffic in KServe's place.
    """
    env = os.environ if env is None else env

    def manifest(service: str) -> Mapping[str, Any]:
        if service not in services:
            raise ServingError(f"{service}: no InferenceService in the cluster, and no model of that name")
        return services[service]

    cluster = Cluster.connect(namespace=env.get("RAMPGATE_NAMESPACE", "default"))
    kserve = KServeBackend(
        cluster=cluster,
        manifests=manifest,
        allow=allow or {},
        prometheus=_prometheus(env),
        probe=Probe(ingress=env.get("RAMPGATE_INGRESS_URL", "")),
        logger_url=env.get("RAMPGATE_SINK_URL", ""),
        kserve_namespace=env.get("RAMPGATE_KSERVE_NAMESPACE", "kserve"),
        commit_back=CommitBack(Path(tree)) if (tree := env.get("RAMPGATE_COMMIT_BACK", "")) else None,
        timing=Timing(model=_seconds(env, "RAMPGATE_MODEL_TIMEOUT", 600.0)),
    )
    control, traffic = env.get("RAMPGATE_GATEWAY_CONTROL_URL", ""), env.get("RAMPGATE_GATEWAY_URL", "")
    if not control and not traffic:
        return kserve
    if not control or not traffic:
        raise ServingError("RAMPGATE_GATEWAY_URL and RAMPGATE_GATEWAY_CONTROL_URL: set both or none")
    gateways = Gateways(control=control, traffic=traffic, token=env.get("RAMPGATE_GATEWAY_TOKEN", ""))
    return StickyBackend(kserve=kserve, assignments=Assignments(cluster), gateways=gateways)


def _prometheus(env: Mapping[str, str]) -> Prometheus | None:
    url, preset = env.get("RAMPGATE_PROMETHEUS_URL", ""), env.get("RAMPGATE_PROMETHEUS_QUERIES", "")
    if preset and preset not in PRESETS:
        raise ServingError(f"RAMPGATE_PROMETHEUS_QUERIES == {preset!r}, must be one of {', '.join(PRESETS)}")
    return (
        Prometheus(url=url, queries=preset, token=env.get("RAMPGATE_PROMETHEUS_TOKEN", "")) if url else None
    )


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = -1.0
    if not 0 < value < 86400:
        raise ServingError(f"{name} == {text!r}, must be seconds, more than 0 and less than 86400")
    return value
