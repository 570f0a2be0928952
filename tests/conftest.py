"""What tests of assets, sensors and definitions share."""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import settings

from tests.support.memory_systems import MemorySystems, memory_systems

# No test is timed; on CI the same examples are tried every time.
settings.register_profile("rampgate", deadline=None, derandomize="CI" in os.environ)

settings.load_profile("rampgate")


@pytest.fixture
def systems(tmp_path: Path) -> Iterator[MemorySystems]:
    """Ledger, lake and manifests in a folder of their own; serving side and registry in memory."""
    yield from memory_systems(tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
