"""The rollout's report: one page that tells what happened and why."""

from typing import Any

import dagster as dg

from pipelines.errors import CorruptLedger
from pipelines.manifest.load import Model
from resources.naming import key
from resources.reports import report_name, rollout_story, write_report
from resources.reports.words import headline
from resources.systems import Systems


def rollout_report(model: Model) -> dg.AssetsDefinition:
    """The asset that writes the report of the model's latest rollout."""

    @dg.asset(
        key=key(model.name, "rollout_report"),
        deps=[key(model.name, "rollout")],
        group_name="rollout",
        kinds={"html"},
    )
    def report(
        context: dg.AssetExecutionContext, systems: dg.ResourceParam[Systems]
    ) -> dg.MaterializeResult[Any]:
        """The story of the latest rollout on one page: share of traffic, evidence against its boundary, every
        check, decision and order in words, and what other tools' default rules would have done.

        It is written from the ledger alone, after every decision, and may be written again at any time. Alerts
        link to it.
        """
        row = systems.ledger.latest(model.name)
        if row is None:
            return dg.MaterializeResult(metadata={"status": "there was no rollout yet"})
        try:
            path = write_report(systems, row.rollout_id)
        except CorruptLedger as error:
            raise dg.Failure(description=f"the report cannot be written: {error}") from error
        verdict = headline(rollout_story(systems, row.rollout_id))
        context.log.info(f"{verdict.title}: {path}")
        return dg.MaterializeResult(
            metadata={
                "report": dg.MetadataValue.url(systems.report_url(report_name(row.rollout_id))),
                "verdict": dg.MetadataValue.text(f"{verdict.title}. {verdict.why}".strip()),
                "path": dg.MetadataValue.path(str(path)),
                "rollout": dg.MetadataValue.text(row.rollout_id),
            }
        )

    return report
