"""The code location: one set of definitions per model folder, and what all models share."""

import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dagster as dg

from pipelines.core.manifest.load import Model, load_models
from pipelines.jobs import maintenance
from pipelines.model_pipeline import model_definitions, model_jobs
from pipelines.reports.configured import ReportsResource
from pipelines.rollouts.configured import ControllerResource, RolloutsResource
from pipelines.rollouts.naming import AssetJob
from pipelines.rollouts.standing_watch import StandingWatch, Watched
from resources.configured import (
    LakeResource,
    LedgerResource,
    LinksResource,
    NotifierResource,
    RegistryResource,
    ServingResource,
    SettingsResource,
)
from resources.settings import RUN_MODEL, WATCH_AT_ONCE, Settings
from sensors.alerts import alert_sensor, failure_sensor
from sensors.challenger import challenger_sensor
from sensors.evidence import evidence_sensor
from sensors.guardrail import await_watch, guardrail_sensor, watch_at_once
from sensors.manifests import manifest_sensor
from sensors.rollout import rollout_sensor
from sensors.routine import routine_sensor

log = logging.getLogger(__name__)


def build(settings: Settings, *, only: str = "", watched: bool = False) -> dg.Definitions:
    """All definitions for these settings. A model whose manifest is wrong is left out, and said so.

    `only`: of this model's. A run of one of its jobs needs no others, and building three hundred takes ten seconds.
    `watched`: its canaries, from now on, whatever becomes of the definitions.
    """
    found = load_models(settings.manifests, only=only)
    for error in found.errors:
        log.error("%s", error)
    models = found.models
    watch, resources = StandingWatch(models), _resources(settings)
    if watched:
        watch_at_once(watch, partial(_watched, resources))
    jobs = {model.name: model_jobs(model) for model in models}
    shared = dg.Definitions(sensors=_sensors(models, jobs, watch), resources=resources)
    each = (model_definitions(model, jobs[model.name]) for model in models)
    merged = dg.Definitions.merge(shared, maintenance(models), *each)
    await_watch(watch)
    return merged


def _watched(resources: Mapping[str, dg.ConfigurableResource[Any]]) -> Watched:
    """As the sensor asks for them in a tick."""
    return Watched(
        ledger=resources["ledger"].get(),
        backend=resources["serving"].get(),
        controller=resources["controller"].get(),
    )


def _resources(settings: Settings) -> dict[str, dg.ConfigurableResource[Any]]:
    """Every system that assets, ops and sensors ask for, by the name that they use."""
    places = SettingsResource.of(settings)
    ledger = LedgerResource(url=places.ledger_url)
    registry = RegistryResource(uri=places.mlflow_uri, cache=str(settings.model_cache))
    serving = ServingResource(mode=settings.serving, settings=places)
    lake = LakeResource(catalog=places.lake_catalog, data=settings.lake_data, home=places.home)
    controller = ControllerResource(ledger=ledger, registry=registry, serving=serving, home=places.home)
    links = LinksResource(settings=places)
    return {
        "settings": places,
        "ledger": ledger,
        "lake": lake,
        "registry": registry,
        "serving": serving,
        "controller": controller,
        "rollouts": RolloutsResource(
            settings=places,
            ledger=ledger,
            lake=lake,
            registry=registry,
            serving=serving,
            controller=controller,
        ),
        "links": links,
        "notifier": NotifierResource(ledger=ledger, settings=places),
        "reports": ReportsResource(ledger=ledger, lake=lake, links=links, settings=places),
    }


def _sensors(
    models: Sequence[Model], jobs: Mapping[str, Mapping[str, AssetJob]], watch: StandingWatch
) -> list[dg.SensorDefinition]:
    """One of a kind for all models: what a sensor costs must not grow with them."""

    def every(*names: str) -> list[AssetJob]:
        return [jobs[model.name][name] for model in models for name in names]

    return [
        challenger_sensor(models, every("start")),
        evidence_sensor(models, every("look", "windows")),
        rollout_sensor(models, every("step")),
        guardrail_sensor(models, watch=watch),
        routine_sensor(models, every("ingest", "windows")),
        alert_sensor(),
        failure_sensor(),
        manifest_sensor(),
    ]


defs = build(
    Settings.from_environment(),
    only=os.environ.get(RUN_MODEL, ""),
    watched=bool(os.environ.pop(WATCH_AT_ONCE, "")),  # what this process starts does not watch as well
)
