"""The model registry (MLflow): versions, aliases, tags, and what is inside a version."""

from resources.registry.registry import Registry
from resources.registry.validation import Step, ValidationReport, validate_version
from resources.registry.version import Registration, VersionInfo

__all__ = ["Registration", "Registry", "Step", "ValidationReport", "VersionInfo", "validate_version"]
