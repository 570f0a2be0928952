"""Runs a program after ending what an earlier start of it has left behind.

    python -m pipelines.platform.alone <name> <program> [argument ...]

A killed parent cannot end its children: MLflow's would go on answering on the port that the next start needs.
They are known by an environment variable that they inherit.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import psutil

_MARK = "RAMPGATE_ALONE"

_PATIENCE_SECONDS = 5.0


def main() -> None:
    name, *command = sys.argv[1:]
    end_leftovers(name)
    os.execvpe(command[0], command, os.environ | {_MARK: name})


def end_leftovers(name: str) -> None:
    """End every process that a start under this name has left, and wait until they are gone."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (left := list(_left_by(name))) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _left_by(name: str) -> Iterator[int]:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or somebody else's
            if process.pid != os.getpid() and process.environ().get(_MARK) == name:
                yield process.pid


if __name__ == "__main__":
    main()
