"""The object stores that a model's prediction log is fetched from, if any are configured."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

from duckdb import DuckDBPyConnection

from pipelines.core.errors import LakeError
from pipelines.core.manifest.model import PredictionLog
from resources.lake import outcomes, segments
from resources.lake.connection import Lake
from resources.lake.ingest import SOURCE, IngestReport, ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.schema import exists
from resources.lake.windows import mark_ingested
from resources.ledger.ledger import Ledger
from resources.notifier import platform_alert
from resources.prediction_log.objects import fetch_blobs, fetch_segments
from resources.settings import Settings, shown


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
            raise LakeError(f"{name} is {shown(url)!r}, must be s3://bucket/prefix")
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


# Loads what was logged into the lake, as far as it is not there yet; for schedules, looks and the validation alike.


class LoadedPredictions(NamedTuple):
    """What one call loaded."""

    fetched: int
    """Objects copied from object stores."""
    report: IngestReport


def load_predictions(
    lake: Lake, ledger: Ledger, settings: Settings, model: str, limits: PredictionLog
) -> LoadedPredictions:
    """Load the prediction log's closed segments, those of configured stores included.

    A segment that could not be loaded is alerted. Raises LakeError, LedgerError, OSError.
    """
    directory, started = settings.prediction_log / model, datetime.now(UTC)
    fetched = fetch_from_stores(lake, settings, model, directory)
    report = ingest_predictions(lake, model, None, directory, limits=limits)
    mark_ingested(directory, started)
    _tell(lake, ledger, model, SOURCE)
    return LoadedPredictions(fetched, report)


def load_outcomes(lake: Lake, ledger: Ledger, settings: Settings, model: str) -> OutcomeReport:
    """Load the outcome files; one that could not be loaded is alerted. Raises LakeError, LedgerError, OSError."""
    directory, started = settings.outcomes / model, datetime.now(UTC)
    report = ingest_outcomes(lake, model, directory)
    mark_ingested(directory, started)
    _tell(lake, ledger, model, outcomes.SOURCE)
    return report


def _tell(lake: Lake, ledger: Ledger, model: str, source: str) -> None:
    """One alert a segment, however often this is called: what the ledger did not take, it is told the next time."""
    with lake.connect() as connection:
        found = segments.whole_segments(connection, model, source) if exists(connection, model) else {}
    for segment, reason in found.items():
        platform_alert(
            ledger,
            topic=f"quarantine:{model}:{source}",
            once=segment,
            model=model,
            title=f"{model}: a segment of {source} is in the quarantine",
            body=f"{segment}: {reason}. What came after it is loaded; docs/lake.md says how to load it after all.",
        )
