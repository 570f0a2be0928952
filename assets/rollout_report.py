"""The rollout's report: one page that tells what happened and why."""

from typing import Any

import dagster as dg

from pipelines.core.errors import CorruptLedger
from pipelines.core.manifest.load import Model
from pipelines.reports.configured import ReportsResource
from pipelines.reports.metadata import report_metadata
from pipelines.rollouts.naming import key


def rollout_report(model: Model) -> dg.AssetsDefinition:
    """The asset that writes the report of the model's latest rollout."""

    @dg.asset(
        key=key(model.name, "rollout_report"),
        deps=[key(model.name, "rollout")],
        group_name="rollout",
        kinds={"html"},
    )
    def report(reports: ReportsResource) -> dg.MaterializeResult[Any]:
        """The story of the latest rollout on one page: share of traffic, evidence against its boundary, every
        check, decision and order in words, and what other tools' default rules would have done.

        It is written from the ledger alone, after every decision, and may be written again at any time. Alerts
        link to it.
        """
        try:
            return dg.MaterializeResult(metadata=report_metadata(reports.get(), model.name))
        except CorruptLedger as error:
            raise dg.Failure(description=f"the report cannot be written: {error}") from error

    return report
