"""Which artefact locations a cluster can load a model from."""

from urllib.parse import urlsplit

from pipelines.errors import ServingError

SCHEMES = ("abfs", "gs", "https", "pvc", "s3")


def checked(uri: str) -> str:
    """The URI, if KServe's storage initializer can fetch it. Raises ServingError for anything else."""
    scheme = urlsplit(uri).scheme
    if scheme in SCHEMES:
        return uri
    allowed = ", ".join(f"{name}://" for name in SCHEMES)
    raise ServingError(f"storageUri: {uri!r} cannot be loaded by a cluster{_why(scheme)}; allowed: {allowed}")


def _why(scheme: str) -> str:
    if scheme in ("", "file"):
        return " (it lies on one machine: give MLflow an artifact root on object storage or a volume)"
    if scheme == "mlflow-artifacts":
        return (
            " (only MLflow's proxy can read it: start MLflow with --no-serve-artifacts and an artifact root)"
        )
    if scheme == "models":
        return " (it is a registry name: resolve it with get_model_version_download_uri)"
    return ""
