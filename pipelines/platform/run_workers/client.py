"""Asks the host of the runs, over its socket."""

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.core.errors import RampgateError

_TIMEOUT = 60.0
"""The host answers between two imports of large libraries."""

_PAUSE = 0.25


class RunHostError(RampgateError):
    """The host of the runs does not answer; the message names its socket."""


def ask(
    path: Path, question: Mapping[str, str], *, patience: float = 0.0, timeout: float = _TIMEOUT
) -> dict[str, Any]:
    """What the host that listens on `path` answers; it is asked again for as many seconds as `patience`.

    Raises `RunHostError`.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _ask(path, question, timeout)
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise RunHostError(f"the host of the runs does not answer on {path}: {error}") from error
        time.sleep(_PAUSE)


def _ask(path: Path, question: Mapping[str, str], timeout: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as host:
        host.settimeout(timeout)
        host.connect(str(path))
        host.sendall(json.dumps(question).encode())
        host.shutdown(socket.SHUT_WR)
        with host.makefile("rb") as answer:
            return json.loads(answer.read())
