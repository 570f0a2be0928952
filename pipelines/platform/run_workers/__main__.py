"""python -m pipelines.platform.run_workers <socket>

Imports the libraries that runs need, and forks a process for each of them. Rampgate's own code, recipes and manifests
are loaded by each run: they may have changed since the last one.
"""

import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from pipelines.platform.run_workers.host import Host, work_and_end

_LIBRARIES = (
    "dagster._cli.api",
    "duckdb",
    "sqlalchemy",
    "httpx",
    "ruamel.yaml",
    "scipy.stats",
    "mlflow.sklearn",
    "sklearn.ensemble",
    "matplotlib.figure",
    "great_expectations",
    "evidently",
)
"""In the order in which a new platform needs them."""

_NICENESS = 10
"""Runs are beside what serves on the same machine: an analysis may wait, an answer may not."""


def main() -> None:
    path = Path(sys.argv[1])
    path.unlink(missing_ok=True)
    os.nice(_NICENESS)
    with socket.socket(socket.AF_UNIX) as listening:
        umask = os.umask(0o077)
        listening.bind(str(path))
        os.umask(umask)
        listening.listen(64)
        arguments = _host(listening)
    work_and_end(lambda: _execute(arguments))


def _host(listening: socket.socket) -> str:
    """Returns in forked processes only. Stopped, it waits for the runs, which were stopped with it."""
    host = Host(listening)
    signal.signal(signal.SIGTERM, _stop)
    try:
        return host.serve(_LIBRARIES)
    except _Stopped:
        host.wait()
        sys.exit(0)


class _Stopped(BaseException):
    """SIGTERM."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Stopped


def _execute(arguments: str) -> None:
    """What `dagster api execute_run` does, in this process, with the definitions of the run's model alone."""
    import numpy as np
    from dagster._cli.api import execute_run_command

    from resources.settings import RUN_MODEL

    wanted: dict[str, str] = json.loads(arguments)
    os.environ[RUN_MODEL] = wanted["model"]
    np.random.seed()  # every run would go on from the host's state
    execute_run_command.main([wanted["run"]], standalone_mode=False)


if __name__ == "__main__":
    main()
