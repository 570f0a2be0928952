"""Every system that a program outside of Dagster talks to, built from the settings when it is first used."""

from dataclasses import dataclass
from functools import cached_property

from pipelines.core.manifest.load import Catalogue, load_models
from pipelines.rollouts.controller import Controller
from resources.configured import serving_backend
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.registry.registry import Registry
from resources.serving.contract import ServingBackend
from resources.settings import Settings


@dataclass(frozen=True)
class Systems:
    """One per process. What runs in Dagster asks for resources instead (`resources/configured.py`)."""

    settings: Settings

    @cached_property
    def catalogue(self) -> Catalogue:
        """The models of `serving_manifests/`, and the mistakes in those that could not be read."""
        return load_models(self.settings.manifests)

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings.ledger_url)

    @cached_property
    def lake(self) -> Lake:
        return Lake.from_settings(self.settings)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.settings.mlflow_uri, cache=self.settings.model_cache)

    @cached_property
    def backend(self) -> ServingBackend:
        """Embedded or KServe, as `RAMPGATE_SERVING` says."""
        return serving_backend(self.settings.serving, self.settings)

    @cached_property
    def controller(self) -> Controller:
        return Controller(self.ledger, self.backend, self.registry, home=self.settings.home)

    @cached_property
    def links(self) -> Links:
        """Where a person reads on."""
        return Links(self.settings)
