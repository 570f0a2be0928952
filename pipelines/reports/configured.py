"""Reports as a Dagster resource: what they are written from, and where to."""

import dagster as dg

from pipelines.reports.report import Reports
from resources.configured import LakeResource, LedgerResource, LinksResource, SettingsResource, catalogue


class ReportsResource(dg.ConfigurableResource[Reports]):
    """The pages in `<home>/reports`, one for each rollout."""

    ledger: dg.ResourceDependency[LedgerResource]
    lake: dg.ResourceDependency[LakeResource]
    links: dg.ResourceDependency[LinksResource]
    settings: dg.ResourceDependency[SettingsResource]

    def get(self) -> Reports:
        settings = self.settings.get()
        return Reports(
            folder=settings.home / "reports",
            ledger=self.ledger.get(),
            lake=self.lake.get(),
            links=self.links.get(),
            catalogue=catalogue(settings.manifests),
        )
