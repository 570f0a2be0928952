"""The few calls that need the mlflow library itself: bounded in time, and failing as `RegistryError`."""

import os
from collections.abc import Generator
from contextlib import contextmanager

from pipelines.errors import RegistryError

_BOUNDS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "20", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2"}
"""MLflow's own defaults wait for minutes (120 s, 7 retries with back-off)."""


@contextmanager
def mlflow_calls(uri: str, what: str) -> Generator[None]:
    """Calls of the mlflow library against `uri`; `what` names them in the `RegistryError` of a failure."""
    for name, value in _BOUNDS.items():
        os.environ.setdefault(name, value)
    import mlflow
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(uri)
    try:
        yield
    except (MlflowException, OSError) as error:
        raise RegistryError(f"{what} failed at MLflow {uri}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
