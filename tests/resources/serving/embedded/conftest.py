"""The embedded backend on a gateway of its own."""

import itertools
from collections.abc import Iterator

import pytest

from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone

_names = itertools.count(1)


@pytest.fixture(scope="session")
def gateway() -> Iterator[Settings]:
    with gateway_alone() as settings:
        yield settings


@pytest.fixture
def arena(gateway: Settings) -> Iterator[EmbeddedArena]:
    """A service with version 1 stable."""
    arena = EmbeddedArena(gateway, service=f"embedded-{next(_names)}", replicas=1)
    establish(arena, "1")
    yield arena
    arena.retire()
