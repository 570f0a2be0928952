"""Loads what was logged into the lake, as far as it is not there yet; for schedules, looks and the validation alike."""

from datetime import UTC, datetime
from typing import NamedTuple

from resources.lake.completeness import mark_ingested
from resources.lake.connection import Lake
from resources.lake.ingest import IngestReport, ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.prediction_log.stores import fetch_from_stores
from resources.settings import Settings


class LoadedPredictions(NamedTuple):
    """What one call loaded."""

    fetched: int
    """Objects copied from object stores."""
    report: IngestReport


def load_predictions(lake: Lake, settings: Settings, model: str) -> LoadedPredictions:
    """Load the prediction log's closed segments, those of configured stores included. Raises LakeError, OSError."""
    directory, started = settings.prediction_log / model, datetime.now(UTC)
    fetched = fetch_from_stores(lake, settings, model, directory)
    report = ingest_predictions(lake, model, None, directory)
    mark_ingested(directory, started)
    return LoadedPredictions(fetched, report)


def load_outcomes(lake: Lake, settings: Settings, model: str) -> OutcomeReport:
    """Load the outcome files. Raises LakeError, OSError."""
    directory, started = settings.outcomes / model, datetime.now(UTC)
    report = ingest_outcomes(lake, model, directory)
    mark_ingested(directory, started)
    return report
