"""What tests of assets, sensors and definitions share."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.support.memory_systems import MemorySystems, memory_systems


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[MemorySystems]:
    """Ledger, lake and manifests in a folder of their own; serving side and registry in memory."""
    yield from memory_systems(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
