"""The object stores that a model's prediction log is fetched from, if any are configured."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from duckdb import DuckDBPyConnection

from pipelines.errors import LakeError
from resources.lake import segments
from resources.lake.connection import Lake
from resources.lake.ingest import SOURCE
from resources.lake.schema import exists
from resources.prediction_log.objects import fetch_blobs, fetch_segments
from resources.settings import Settings


def fetch_from_stores(lake: Lake, settings: Settings, model: str, directory: Path) -> int:
    """Copy what the configured stores have and the lake has not into `directory`, as segments to be loaded.

    Returns how many objects were copied; none before the model has its tables. Raises `LakeError` where a store does
    not answer, or where the lake itself is not on S3: its access is the one that is used.
    """
    stores = {
        "RAMPGATE_PREDICTION_LOG_STORE": settings.log_store,
        "RAMPGATE_PREDICTION_LOG_BLOBS": settings.log_blobs,
    }
    configured = {name: url for name, url in stores.items() if url}
    if not configured:
        return 0
    _check(configured, lake)
    with lake.connect() as connection:
        if not exists(connection, model):
            return 0
        return _fetch(connection, settings, model, directory)


def _check(stores: Mapping[str, str], lake: Lake) -> None:
    """They are read with the lake's own access, which must therefore be access to S3."""
    for name, url in stores.items():
        if not url.startswith("s3://"):
            raise LakeError(f"{name} is {url!r}, must be s3://bucket/prefix")
        if not lake.location.on_s3:
            raise LakeError(
                f"{name} is read with the lake's access, so RAMPGATE_LAKE_DATA must be s3://, too"
            )


def _fetch(connection: DuckDBPyConnection, settings: Settings, model: str, directory: Path) -> int:
    known = partial(segments.loaded, connection, model, SOURCE)
    copied = 0
    if settings.log_store:
        copied += fetch_segments(connection, f"{settings.log_store}/{model}", directory, known)
    if settings.log_blobs:
        copied += fetch_blobs(connection, f"{settings.log_blobs}/{model}", directory, known)
    return copied
