"""What was predicted and what came of it, in the lake exactly once."""

from typing import Any

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.monitoring.loading import load_outcomes, load_predictions
from pipelines.rollouts.naming import key
from resources.configured import LakeResource, LedgerResource, SettingsResource

GROUP = "prediction_log"


def prediction_log(model: Model) -> dg.AssetsDefinition:
    """The asset that loads closed prediction log segments."""

    @dg.asset(
        key=key(model.name, "prediction_log"),
        group_name=GROUP,
        kinds={"duckdb"},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def load(
        lake: LakeResource, ledger: LedgerResource, settings: SettingsResource
    ) -> dg.MaterializeResult[Any]:
        """Every prediction that was answered, with its features, version, unit and latency.

        The serving side writes each prediction to a log segment before the answer leaves. This asset loads the
        closed segments into the lake, each exactly once, whatever dies in between. Lines that cannot be read go
        to the quarantine table with file, line and reason, a segment that breaks the loading goes there whole. A failed prediction is kept with its status.
        """
        fetched, report = load_predictions(
            lake.get(), ledger.get(), settings.get(), model.name, model.rollout.prediction_log
        )
        return dg.MaterializeResult(
            metadata={
                "fetched from object stores": fetched,
                "dagster/row_count": report.rows,
                "segments": report.segments,
                "quarantined": report.bad,
                "duplicates left out": report.duplicates,
                "waiting for their other half": report.unpaired,
            }
        )

    return load


def outcomes(model: Model) -> dg.AssetsDefinition:
    """The asset that loads outcomes."""

    @dg.asset(
        key=key(model.name, "outcomes"),
        deps=[key(model.name, "prediction_log")],
        group_name=GROUP,
        kinds={"duckdb"},
        retry_policy=dg.RetryPolicy(max_retries=2, delay=2),
    )
    def load(
        lake: LakeResource, ledger: LedgerResource, settings: SettingsResource
    ) -> dg.MaterializeResult[Any]:
        """What came of the predictions: labels, conversions, cost, revenue; they arrive later, by unit.

        NaN, duplicates and outcomes of unknown units are counted, named and kept out of every analysis.
        """
        report = load_outcomes(lake.get(), ledger.get(), settings.get(), model.name)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": report.rows,
                "segments": report.segments,
                "quarantined": report.bad,
                "duplicates left out": report.duplicates,
                "unknown units so far": report.unknown,
                "before their exposure": report.before_exposure,
            }
        )

    return load
