"""One writer at a time on a SQLite catalogue: writers queue instead of losing commit after commit."""

import fcntl
import random
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import LakeError


@contextmanager
def writer_lock(path: Path, *, timeout: float) -> Generator[None]:
    """Hold an exclusive flock on `path`; the kernel drops it with the process, whatever killed it.

    It is fairness, not correctness: without it the catalogue itself refuses the second commit.
    Raises `LakeError` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with path.open("a") as file:
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                raise LakeError(f"another process has been writing to the lake for {timeout:.0f} s ({path})")
            time.sleep(random.uniform(0.005, 0.03))
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
