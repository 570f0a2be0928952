"""The code location: one set of definitions per model folder, and what all models share."""

import logging

import dagster as dg

from pipelines.maintenance_job import maintenance
from pipelines.model_pipeline import model_definitions
from resources.settings import Settings
from resources.systems import Systems
from sensors.alerts import alert_sensor, failure_sensor
from sensors.guardrail import guardrail_sensor
from sensors.manifests import manifest_sensor

log = logging.getLogger(__name__)


def build(settings: Settings) -> dg.Definitions:
    """All definitions for these settings. A model whose manifest is wrong is left out, and said so."""
    systems = Systems(settings)
    for error in systems.catalogue.errors:
        log.error("%s", error)
    models = systems.catalogue.models
    shared = dg.Definitions(
        sensors=[guardrail_sensor(models), alert_sensor(), failure_sensor(), manifest_sensor()],
        resources={"systems": systems},
    )
    return dg.Definitions.merge(shared, maintenance(models), *(model_definitions(model) for model in models))


defs = build(Settings.from_environment())
