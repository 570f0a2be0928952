"""The embedded backend on a gateway of its own."""

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.settings import Settings
from tests.conformance.arena import EmbeddedArena, establish, gateway_alone
from tests.support.full_disk import Disk, full_disk

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


@pytest.fixture(scope="module")
def disk() -> Iterator[Disk]:
    """A small disk that can be filled."""
    place = Path(tempfile.mkdtemp(prefix="rgd-", dir="/tmp"))
    with full_disk(place, size="64m") as disk:
        yield disk
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def gateway_on_disk(disk: Disk) -> Iterator[Settings]:
    """A gateway whose files lie there."""
    with gateway_alone(disk.place) as settings:
        yield settings
