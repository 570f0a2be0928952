"""What starts and drives rollouts, as Dagster resources made of those in `resources/configured.py`."""

from pathlib import Path

import dagster as dg

from pipelines.rollouts.controller import Controller
from pipelines.rollouts.start import RolloutSystems
from resources.configured import (
    LakeResource,
    LedgerResource,
    RegistryResource,
    ServingResource,
    SettingsResource,
    once,
)
from resources.ledger.ledger import Ledger
from resources.registry.registry import Registry
from resources.serving.contract import ServingBackend


class ControllerResource(dg.ConfigurableResource[Controller]):
    """Starts rollouts, drives them, and takes orders."""

    ledger: dg.ResourceDependency[LedgerResource]
    registry: dg.ResourceDependency[RegistryResource]
    serving: dg.ResourceDependency[ServingResource]
    home: str
    """An emergency rollback that can be written nowhere else is kept in `<home>/spool`."""

    def get(self) -> Controller:
        """Raises what the serving side raises where it cannot be had."""
        return _controller(self.ledger.get(), self.serving.get(), self.registry.get(), Path(self.home))


@once
def _controller(ledger: Ledger, backend: ServingBackend, registry: Registry, home: Path) -> Controller:
    return Controller(ledger, backend, registry, home=home)


class RolloutsResource(dg.ConfigurableResource[RolloutSystems]):
    """All that a version is started with, and carried on."""

    settings: dg.ResourceDependency[SettingsResource]
    ledger: dg.ResourceDependency[LedgerResource]
    lake: dg.ResourceDependency[LakeResource]
    registry: dg.ResourceDependency[RegistryResource]
    serving: dg.ResourceDependency[ServingResource]
    controller: dg.ResourceDependency[ControllerResource]

    def get(self) -> RolloutSystems:
        """Raises what the serving side raises where it cannot be had."""
        return RolloutSystems(
            settings=self.settings.get(),
            ledger=self.ledger.get(),
            lake=self.lake.get(),
            registry=self.registry.get(),
            backend=self.serving.get(),
            controller=self.controller.get(),
        )
