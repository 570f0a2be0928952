"""The backends that must conform. Another backend is one more member of `BACKENDS`, and the arena that it names."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.kserve.backend import KServeBackend
from resources.serving.kserve.sticky import StickyBackend
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
from tests.support.memory_backend import MemoryBackend

__all__ = [
    "knative_gateway",
    "kserve_cluster_arena",
    "kserve_knative_arena",
    "kserve_standard_arena",
    "standard_gateway",
    "sticky_knative_arena",
    "sticky_standard_arena",
]


class Member(NamedTuple):
    """A backend that must conform, on the arena that the fixture `<name>_arena` makes."""

    name: str
    backend: type[Any]
    sticky: bool = False
    """Assignment follows the unit, and its arena answers requests: what KServe alone cannot do."""
    marks: tuple[pytest.MarkDecorator, ...] = ()
    sampled: bool = False
    """Its parts are met by other members too: of three tests `make test` runs one on it, `make test-conformance` all."""


BACKENDS = (
    Member("embedded", EmbeddedBackend, sticky=True),
    Member("sticky_knative", StickyBackend, sticky=True),
    Member("sticky_standard", StickyBackend, sticky=True, sampled=True),
    Member("kserve_knative", KServeBackend),
    Member("kserve_standard", KServeBackend),
    Member("memory", MemoryBackend),
    Member("kserve_cluster", KServeBackend, marks=(pytest.mark.cluster,)),
)
"""The one list: every test of the suite runs on each of these, or on each that is sticky."""

ALL = [pytest.param(each, marks=each.marks, id=each.name) for each in BACKENDS]

STICKY = [pytest.param(each, marks=each.marks, id=each.name) for each in BACKENDS if each.sticky]

_names = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `faults` what is in no sample."""
    for member in BACKENDS:
        of_it = [item for item in items if member.sampled and _runs_on(item, member)]
        for number, item in enumerate(of_it):
            if number % 3:
                item.add_marker(pytest.mark.faults)


def _runs_on(item: pytest.Item, member: Member) -> bool:
    called = getattr(item, "callspec", None)
    return called is not None and any(value is member for value in called.params.values())


@pytest.fixture(scope="session")
def gateway() -> Iterator[Settings]:
    with gateway_alone() as settings:
        yield settings


def _arena(request: pytest.FixtureRequest) -> Arena:
    made: Arena = request.getfixturevalue(f"{request.param.name}_arena")
    assert type(made.backend) is request.param.backend
    return made


@pytest.fixture(params=ALL)
def arena(request: pytest.FixtureRequest) -> Arena:
    """A service that nothing was ever deployed to."""
    return _arena(request)


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
    arena = _arena(request)
    establish(arena, "1", obeys=True)
    arena.backend.deploy_canary(arena.service, arena.artefact("2", obeys=True), percent=50, salt="a")
    return arena


@pytest.fixture(params=STICKY)
def traffic(request: pytest.FixtureRequest) -> Arena:
    """An arena that carries requests, with version 1 stable."""
    arena = _arena(request)
    establish(arena, "1")
    return arena
