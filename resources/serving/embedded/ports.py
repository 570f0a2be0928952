"""Ports for predictor processes."""

import socket
from collections.abc import Iterable

from pipelines.errors import ServingError
from resources.settings import HOST

RANGE = 100


def allocate(first: int, count: int, *, taken: Iterable[int]) -> tuple[int, ...]:
    """`count` ports from `first` on that nobody was given and nobody listens on."""
    reserved = set(taken)
    free = (port for port in range(first, first + RANGE) if port not in reserved and is_free(port))
    found = tuple(port for port, _ in zip(free, range(count), strict=False))
    if len(found) < count:
        raise ServingError(
            f"no {count} free ports in {first} to {first + RANGE - 1}; set RAMPGATE_PREDICTORS_PORT"
        )
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
