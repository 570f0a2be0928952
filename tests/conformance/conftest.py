"""The backends that must conform. Another backend adds a name to BACKENDS and an arena for it."""

import itertools
from collections.abc import Iterator

import pytest

from resources.settings import Settings
from tests.conformance.arena import Arena, EmbeddedArena, MemoryArena, establish, gateway_alone
from tests.conformance.kserve_arena import (
    knative_gateway,
    kserve_cluster_arena,
    kserve_knative_arena,
    kserve_standard_arena,
    standard_gateway,
    sticky_knative_arena,
    sticky_standard_arena,
)

__all__ = [
    "knative_gateway",
    "kserve_cluster_arena",
    "kserve_knative_arena",
    "kserve_standard_arena",
    "standard_gateway",
    "sticky_knative_arena",
    "sticky_standard_arena",
]

STICKY = ["embedded", "sticky_knative", "sticky_standard"]
"""Assignment follows the unit: what KServe alone cannot do."""

BACKENDS = [
    *STICKY,
    "kserve_knative",
    "kserve_standard",
    "memory",
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
def memory_arena() -> MemoryArena:
    return MemoryArena(f"model-{next(_names)}")


@pytest.fixture(params=STICKY)
def obedient(request: pytest.FixtureRequest) -> Arena:
    """Versions 1, stable, and 2, its canary with half of the units, that answer as `x-please` says."""
    arena: Arena = request.getfixturevalue(f"{request.param}_arena")
    establish(arena, "1", obeys=True)
    arena.backend.deploy_canary(arena.service, arena.artefact("2", obeys=True), percent=50, salt="a")
    return arena


@pytest.fixture(params=STICKY)
def traffic(request: pytest.FixtureRequest) -> Arena:
    """An arena that carries requests, with version 1 stable."""
    arena: Arena = request.getfixturevalue(f"{request.param}_arena")
    establish(arena, "1")
    return arena
