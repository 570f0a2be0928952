"""What tests of assets, sensors and definitions share."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import settings

from tests.support.memory_systems import MemorySystems, memory_systems
from tests.support.watches import Watches

# No test is timed; on CI the same examples are tried every time.
settings.register_profile("rampgate", deadline=None, derandomize="CI" in os.environ)

settings.load_profile("rampgate")


@pytest.fixture
def systems(tmp_path: Path, watches: Watches) -> Iterator[MemorySystems]:
    """Ledger, lake and manifests in a folder of their own; serving side and registry in memory."""
    for each in memory_systems(tmp_path):
        yield each
        watches.end()


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> Watches:
    """What watches because of this test; it ends with it, however long it was to be kept on."""
    return Watches(monkeypatch)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
