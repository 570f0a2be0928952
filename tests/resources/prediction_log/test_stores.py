"""Object stores that are configured wrongly are named before anything is read."""

from pathlib import Path

import pytest

from pipelines.core.errors import LakeError
from pipelines.monitoring.loading import fetch_from_stores
from resources.lake.connection import Lake
from resources.settings import Settings


def settings(folder: Path, **variables: str) -> Settings:
    return Settings.from_environment({"RAMPGATE_HOME": str(folder), **variables})


def test_nothing_is_fetched_where_no_store_is_configured(tmp_path: Path):
    given = settings(tmp_path)
    assert fetch_from_stores(Lake.from_settings(given), given, "m", tmp_path / "log") == 0


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("/mnt/log", "RAMPGATE_PREDICTION_LOG_BLOBS is '/mnt/log', must be s3://"),
        ("s3://log/models", "RAMPGATE_PREDICTION_LOG_BLOBS .* RAMPGATE_LAKE_DATA must be s3://"),
    ],
)
def test_a_store_that_cannot_be_read_is_named(url: str, problem: str, tmp_path: Path):
    given = settings(tmp_path, RAMPGATE_PREDICTION_LOG_BLOBS=url)
    with pytest.raises(LakeError, match=problem):
        fetch_from_stores(Lake.from_settings(given), given, "m", tmp_path / "log")
