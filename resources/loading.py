"""Loads what was logged into the lake, as far as it is not there yet; for schedules, looks and the validation alike."""

from datetime import UTC, datetime
from typing import NamedTuple

from pipelines.manifest.model import PredictionLog
from resources.lake import outcomes, quarantine
from resources.lake.completeness import mark_ingested
from resources.lake.ingest import SOURCE, IngestReport, ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.schema import exists
from resources.platform_alerts import platform_alert
from resources.prediction_log.stores import fetch_from_stores
from resources.systems import Systems


class LoadedPredictions(NamedTuple):
    """What one call loaded."""

    fetched: int
    """Objects copied from object stores."""
    report: IngestReport


def load_predictions(systems: Systems, model: str, limits: PredictionLog) -> LoadedPredictions:
    """Load the prediction log's closed segments, those of configured stores included.

    A segment that could not be loaded is alerted. Raises LakeError, LedgerError, OSError.
    """
    directory, started = systems.settings.prediction_log / model, datetime.now(UTC)
    fetched = fetch_from_stores(systems.lake, systems.settings, model, directory)
    report = ingest_predictions(systems.lake, model, None, directory, limits=limits)
    mark_ingested(directory, started)
    _tell(systems, model, SOURCE)
    return LoadedPredictions(fetched, report)


def load_outcomes(systems: Systems, model: str) -> OutcomeReport:
    """Load the outcome files; one that could not be loaded is alerted. Raises LakeError, LedgerError, OSError."""
    directory, started = systems.settings.outcomes / model, datetime.now(UTC)
    report = ingest_outcomes(systems.lake, model, directory)
    mark_ingested(directory, started)
    _tell(systems, model, outcomes.SOURCE)
    return report


def _tell(systems: Systems, model: str, source: str) -> None:
    """One alert a segment, however often this is called: what the ledger did not take, it is told the next time."""
    with systems.lake.connect() as connection:
        found = quarantine.whole_segments(connection, model, source) if exists(connection, model) else {}
    for segment, reason in found.items():
        platform_alert(
            systems.ledger,
            topic=f"quarantine:{model}:{source}",
            once=segment,
            model=model,
            title=f"{model}: a segment of {source} is in the quarantine",
            body=f"{segment}: {reason}. What came after it is loaded; docs/lake.md says how to load it after all.",
        )
