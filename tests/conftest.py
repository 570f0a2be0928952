"""In which order tests run and which of them in one process; what those of assets, sensors and definitions share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    # What starts the processes that run the tests reads this file first, and needs none of it.
    import dagster as dg
    import duckdb

    from tests.support.memory_systems import MemorySystems
    from tests.support.watches import Watches

# No test is timed; on CI the same examples are tried every time.
settings.register_profile("rampgate", deadline=None, derandomize="CI" in os.environ)

settings.load_profile("rampgate")

TOGETHER = (
    ("tests/resources/registry/",),
    (
        "tests/resources/serving/predictor/",
        "tests/resources/serving/embedded/test_embedded_real_predictor.py",
        "tests/demo/",
    ),
    ("tests/assets/", "tests/monitoring/", "tests/attacks/test_drift.py"),
)
"""What shares a server, or libraries, that take a processor ten seconds to start (MLflow's; MLflow with scikit-learn; Evidently
and Great Expectations) is run by one process."""

FIRST = (
    "tests/resources/registry/",
    "tests/conformance/",
    "tests/assets/",
    "tests/monitoring/",
    "tests/resources/",
    "tests/sensors/",
    "tests/experiments/",
    "tests/platform/test_whole_platform.py",
    "tests/rollouts/",
    "tests/ui/",
)
"""What takes longest is begun first, so that no process is left with it at the end; the whole platform beside what starts no servers."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`FIRST` is first."""

    def place(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(FIRST) if item.nodeid.startswith(name)), len(FIRST))

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, and so is each line of `TOGETHER`; in this order."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            alone = super()._split_scope(nodeid)
            return next((shared[0] for shared in TOGETHER if nodeid.startswith(shared)), alone)

    return Together(config, log)


@pytest.fixture(scope="session", autouse=True)
def extensions_are_verified_once() -> Iterator[None]:
    """DuckDB hashes the 70 MB of a lake's extensions, half a CPU second, whenever one is opened: here, for the first alone."""
    import duckdb

    real, verified = duckdb.connect, False

    def connect(
        *args: Any, config: dict[str, Any] | None = None, **kwargs: Any
    ) -> "duckdb.DuckDBPyConnection":
        nonlocal verified
        trusting = {"allow_unsigned_extensions": True} if verified and config else {}
        verified = verified or bool(config)
        return real(*args, config=(config or {}) | trusting, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duckdb, "connect", connect)
        yield


@pytest.fixture
def systems(tmp_path: Path, watches: "Watches") -> Iterator["MemorySystems"]:
    """Ledger, lake and manifests in a folder of their own; serving side and registry in memory."""
    from tests.support.memory_systems import memory_systems

    for each in memory_systems(tmp_path):
        yield each
        watches.end()


@pytest.fixture
def watches(monkeypatch: pytest.MonkeyPatch) -> "Watches":
    """What watches because of this test; it ends with it, however long it was to be kept on."""
    from tests.support.watches import Watches

    return Watches(monkeypatch)


@pytest.fixture
def instance() -> Iterator["dg.DagsterInstance"]:
    import dagster as dg

    with dg.DagsterInstance.ephemeral() as instance:
        yield instance
