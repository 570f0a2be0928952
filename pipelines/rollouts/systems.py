"""Every system that an asset or a sensor talks to, built from the settings when it is first used."""

from dataclasses import dataclass
from functools import cached_property

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.load import Catalogue, load_models
from pipelines.rollouts.controller import Controller, utc_now
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.notifier import Notifier
from resources.registry.registry import Registry
from resources.serving.contract import ServingBackend
from resources.settings import Settings


@dataclass(frozen=True)
class Systems:
    """One per process; Dagster gives it to assets and sensors as the resource `systems`."""

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
        return Registry(self.settings.mlflow_uri, cache=self.settings.home / "models-cache")

    @cached_property
    def backend(self) -> ServingBackend:
        """Embedded or KServe, as `RAMPGATE_SERVING` says."""
        services = {model.name: model.service for model in self.catalogue.models}
        allow = {model.name: model.rollout.artefact.allow for model in self.catalogue.models}
        if self.settings.serving == "embedded":
            from resources.serving.embedded.backend import EmbeddedBackend

            durability = {model.name: model.rollout.durability for model in self.catalogue.models}
            limits = {model.name: model.rollout.prediction_log for model in self.catalogue.models}
            return EmbeddedBackend(self.settings, services, durability=durability, allow=allow, limits=limits)
        if self.settings.serving == "kserve":
            from resources.serving.kserve.connect import connect

            return connect(services, allow=allow)
        raise ManifestError(f"RAMPGATE_SERVING == {self.settings.serving!r}, must be embedded or kserve")

    @cached_property
    def controller(self) -> Controller:
        return Controller(self.ledger, self.backend, self.registry, home=self.settings.home)

    @cached_property
    def notifier(self) -> Notifier:
        return Notifier(self.ledger, self.settings, clock=utc_now)

    @cached_property
    def links(self) -> Links:
        """Where a person reads on."""
        return Links(self.settings)
