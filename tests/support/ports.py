"""Ports for what the tests start: no two processes on this machine are given the same ones.

A port that is free when it is looked up may be taken when a slow process comes to listen on it. So each process of
the tests first claims blocks of neighbouring ports, by locks that end with it, and goes round its own blocks.
"""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

from resources.serving.embedded.layout import is_free
from resources.settings import HOST

_BLOCK = 120
"""The platform's own, then room for its predictors."""

_BLOCKS = range(12_000, 32_000, _BLOCK)
"""Below the ephemeral range, whose ports outgoing connections take."""

_OWN = 32
"""Blocks of one process: a block comes round again when its last user is long gone or listens."""

_LOCKS = Path(tempfile.gettempdir()) / f"rampgate-test-ports-{os.getuid()}"


class _Claims:
    """The blocks of this process."""

    def __init__(self) -> None:
        self.held: list[BinaryIO] = []
        self.turns = cycle(self._claim())

    def _claim(self) -> list[int]:
        _LOCKS.mkdir(exist_ok=True)
        blocks = random.sample(_BLOCKS, len(_BLOCKS))
        return [block for block in blocks if len(self.held) < _OWN and self._locked(block)]

    def _locked(self, block: int) -> bool:
        lock = (_LOCKS / str(block)).open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            return False
        self.held.append(lock)
        return True

    def free_base(self, count: int) -> int:
        for block, _ in zip(self.turns, range(_OWN), strict=False):
            if all(is_free(port) for port in range(block, block + count)):
                return block
        raise RuntimeError(f"no {count} neighbouring free ports in the blocks of this process")


def listens(port: int) -> bool:
    """Whether somebody takes connections at this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_base(count: int = 8) -> int:
    """The first of `count` neighbouring ports that nobody has."""
    return _claims().free_base(count)


@cache
def _claims() -> _Claims:
    return _Claims()
