"""A lake of its own for every test, with as many threads as in production."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resources.lake.connection import Lake
from tests.resources.lake.segments_by_hand import MODEL, Log, lake_below


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_below(tmp_path, threads=2)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    log = Log(tmp_path / "log" / "predictions" / MODEL, tmp_path / "log" / "outcomes" / MODEL)
    log.predictions.mkdir(parents=True)
    log.outcomes.mkdir(parents=True)
    return log


@pytest.fixture
def rows(lake: Lake) -> Callable[[str], list[tuple[Any, ...]]]:
    """Runs a query with the model's tables in scope."""

    def read(query: str) -> list[tuple[Any, ...]]:
        with lake.connect() as connection:
            connection.execute(f'USE lake."{MODEL}"')
            return connection.execute(query).fetchall()

    return read
