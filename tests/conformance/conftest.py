"""The backends that must conform. Another backend adds a name to BACKENDS and an arena for it."""

import itertools
from collections.abc import Iterator

import pytest

from resources.settings import Settings
from tests.conformance.arena import Arena, EmbeddedArena, establish, gateway_alone
from tests.conformance.kserve_arena import kserve_cluster_arena, kserve_knative_arena, kserve_standard_arena

__all__ = ["kserve_cluster_arena", "kserve_knative_arena", "kserve_standard_arena"]

BACKENDS = [
    "embedded",
    "kserve_knative",
    "kserve_standard",
    pytest.param("kserve_cluster", marks=pytest.mark.cluster),
]
_names = itertools.count(1)


@pytest.fixture(scope="session")
def gateway() -> Iterator[Settings]:
    with gateway_alone() as settings:
        yield settings


@pytest.fixture(params=BACKENDS)
def arena(request: pytest.FixtureRequest) -> Arena:
    """A service that nothing was ever deployed to."""
    return request.getfixturevalue(f"{request.param}_arena")


@pytest.fixture
def embedded_arena(gateway: Settings) -> Iterator[EmbeddedArena]:
    arena = EmbeddedArena(gateway, service=f"model-{next(_names)}")
    yield arena
    arena.retire()


@pytest.fixture
def traffic(arena: Arena) -> Arena:
    """An arena that carries requests, with version 1 stable."""
    if not arena.carries_traffic:
        pytest.skip("no traffic on this backend")
    establish(arena, "1")
    return arena
