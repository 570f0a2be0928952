"""The external systems as Dagster resources: what each is configured with shows in the UI, and no secret does.

Assets, ops and sensors ask for those that they use by name, and get the plain object: `ledger.get()`. There is one for
each configuration in a process, for connections are kept, and sensors keep what they follow from tick to tick.
"""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, wraps
from pathlib import Path
from threading import RLock
from typing import ParamSpec, TypeVar

import dagster as dg

from pipelines.core.errors import ManifestError, RampgateError
from pipelines.core.manifest.load import Catalogue, load_models
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.notifier import Notifier
from resources.registry.registry import Registry
from resources.serving.contract import ServingBackend
from resources.settings import HIDDEN, RUN_MODEL, Ports, Settings, shown

Given = ParamSpec("Given")

Made = TypeVar("Made")


def once(make: Callable[Given, Made]) -> Callable[Given, Made]:
    """Made once per process for the same arguments, whichever threads ask; what could not be made is tried again."""
    lock, kept = RLock(), cache(make)

    @wraps(make)
    def made(*args: Given.args, **kwargs: Given.kwargs) -> Made:
        with lock:
            return kept(*args, **kwargs)  # pyright: ignore[reportArgumentType] -- `cache` asks for hashable ones

    return made


# Secrets stay in the environment: an address is shown without its password.

LEDGER, LAKE, MLFLOW, ALERTS = (
    "RAMPGATE_LEDGER_URL",
    "RAMPGATE_LAKE_CATALOG",
    "MLFLOW_TRACKING_URI",
    "RAMPGATE_ALERT_URLS",
)
"""Environment variables whose values may hold secrets."""


def whole(address: str, variable: str) -> str:
    """The address with the passwords that the environment variable has for it; as it is, where none is hidden.

    Raises RampgateError where the variable holds another address.
    """
    if HIDDEN not in address:
        return address
    found = os.environ.get(variable, "")
    if shown(found) != address:
        raise RampgateError(f"{variable} == {shown(found)!r}, must be {address!r} with its password")
    return found


class SettingsResource(dg.ConfigurableResource[Settings]):
    """Where everything is (docs/settings.md)."""

    home: str
    manifests: str
    serving: str
    ports: dict[str, int]
    mlflow_uri: str
    ledger_url: str
    lake_catalog: str
    lake_data: str
    prediction_log: str
    log_store: str
    log_blobs: str
    outcomes: str
    hosts: list[str]

    @classmethod
    def of(cls, settings: Settings) -> "SettingsResource":
        """These settings, fit to be shown. The channels' URLs are secrets as a whole, and are left out."""
        return cls(
            home=str(settings.home),
            manifests=str(settings.manifests),
            serving=settings.serving,
            ports=vars(settings.ports),
            mlflow_uri=shown(settings.mlflow_uri),
            ledger_url=shown(settings.ledger_url),
            lake_catalog=shown(settings.lake_catalog),
            lake_data=settings.lake_data,
            prediction_log=str(settings.prediction_log),
            log_store=settings.log_store,
            log_blobs=settings.log_blobs,
            outcomes=str(settings.outcomes),
            hosts=list(settings.hosts),
        )

    def get(self) -> Settings:
        return Settings(
            home=Path(self.home),
            manifests=Path(self.manifests),
            serving=self.serving,
            ports=Ports(**self.ports),
            mlflow_uri=whole(self.mlflow_uri, MLFLOW),
            ledger_url=whole(self.ledger_url, LEDGER),
            lake_catalog=whole(self.lake_catalog, LAKE),
            lake_data=self.lake_data,
            prediction_log=Path(self.prediction_log),
            log_store=self.log_store,
            log_blobs=self.log_blobs,
            outcomes=Path(self.outcomes),
            alert_urls=tuple(os.environ.get(ALERTS, "").split()),
            hosts=tuple(self.hosts),
        )


class LedgerResource(dg.ConfigurableResource[Ledger]):
    """What happened in every rollout, and the alerts that wait (docs/kubernetes.md: on Postgres)."""

    url: str

    def get(self) -> Ledger:
        return _ledger(whole(self.url, LEDGER))


_ledger = once(Ledger)


class LakeResource(dg.ConfigurableResource[Lake]):
    """Predictions and outcomes (docs/lake.md)."""

    catalog: str
    data: str
    home: str
    """What DuckDB spills and installs goes to `<home>/duckdb`."""

    def get(self) -> Lake:
        return Lake(whole(self.catalog, LAKE), self.data, Path(self.home))


class RegistryResource(dg.ConfigurableResource[Registry]):
    """MLflow."""

    uri: str
    cache: str
    """Where artefacts are kept once they have been downloaded."""

    def get(self) -> Registry:
        return _registry(whole(self.uri, MLFLOW), Path(self.cache))


@once
def _registry(uri: str, kept: Path) -> Registry:
    return Registry(uri, cache=kept)


class LinksResource(dg.ConfigurableResource[Links]):
    """Where a person reads on."""

    settings: dg.ResourceDependency[SettingsResource]

    def get(self) -> Links:
        return Links(self.settings.get())


class NotifierResource(dg.ConfigurableResource[Notifier]):
    """Delivers alerts to `<home>/alerts.jsonl`, and to the channels that the environment names."""

    ledger: dg.ResourceDependency[LedgerResource]
    settings: dg.ResourceDependency[SettingsResource]

    def get(self) -> Notifier:
        return _notifier(self.ledger.get(), self.settings.get())


@once
def _notifier(ledger: Ledger, settings: Settings) -> Notifier:
    return Notifier(ledger, settings, clock=lambda: datetime.now(UTC))


class ServingResource(dg.ConfigurableResource[ServingBackend]):
    """Serves the models of `serving_manifests/` and splits their traffic."""

    mode: str
    """`embedded` or `kserve`."""
    settings: dg.ResourceDependency[SettingsResource]

    def get(self) -> ServingBackend:
        """Raises ManifestError for another mode, ServingError where the cluster cannot be reached."""
        return serving_backend(self.mode, self.settings.get())


@once
def catalogue(manifests: Path) -> Catalogue:
    """The models of the folder, and the mistakes in those that could not be read, as this process found them.

    In a run of one model, that model alone: reading three hundred takes seconds.
    """
    return load_models(manifests, only=os.environ.get(RUN_MODEL, ""))


@once
def serving_backend(mode: str, settings: Settings) -> ServingBackend:
    """Embedded or KServe, with every model of the catalogue."""
    models = catalogue(settings.manifests).models
    services = {model.name: model.service for model in models}
    allow = {model.name: model.rollout.artefact.allow for model in models}
    if mode == "embedded":
        from resources.serving.embedded.backend import EmbeddedBackend

        durability = {model.name: model.rollout.durability for model in models}
        limits = {model.name: model.rollout.prediction_log for model in models}
        return EmbeddedBackend(settings, services, durability=durability, allow=allow, limits=limits)
    if mode == "kserve":
        from resources.serving.kserve.connect import connect

        return connect(services, allow=allow)
    raise ManifestError(f"RAMPGATE_SERVING == {mode!r}, must be embedded or kserve")
