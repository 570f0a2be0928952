"""What the embedded backend takes from an InferenceService."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DEFAULT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class ServiceDefinition:
    """The part of `spec.predictor` that means something without a cluster."""

    replicas: int
    """Processes of each revision: `minReplicas`, at least 1. There is no autoscaler here."""
    timeout_ms: int
    environment: Mapping[str, str]
    """`model.env` entries that carry a value, and the threads that `limits.cpu` allows."""

    @classmethod
    def of(cls, inference_service: Mapping[str, Any]) -> "ServiceDefinition":
        """Read an InferenceService as it stands in its YAML."""
        predictor: Mapping[str, Any] = inference_service.get("spec", {}).get("predictor", {})
        return cls(
            replicas=max(1, int(predictor.get("minReplicas", 1))),
            timeout_ms=round(float(predictor.get("timeout", _DEFAULT_TIMEOUT_SECONDS)) * 1000),
            environment=_environment(predictor.get("model", {})),
        )


def _environment(model: Mapping[str, Any]) -> dict[str, str]:
    limit = model.get("resources", {}).get("limits", {}).get("cpu")
    threads = {} if limit is None else {"OMP_NUM_THREADS": str(max(1, math.floor(_cpus(str(limit)))))}
    return threads | {
        entry["name"]: str(entry["value"]) for entry in model.get("env", []) if "value" in entry
    }


def _cpus(quantity: str) -> float:
    """Kubernetes' `500m` or `2` in cores."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)
