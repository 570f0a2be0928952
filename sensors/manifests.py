"""Says which model folders cannot be read."""

import dagster as dg

from pipelines.manifest.load import load_models
from resources.containment import contained
from resources.platform_alerts import platform_alert
from resources.systems import Systems


def manifest_sensor() -> dg.SensorDefinition:
    """Alerts once about each mistake in a manifest; the models that can be read keep running."""

    @dg.sensor(
        name="manifest_sensor",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Reads every model folder again and alerts about mistakes, with file, line, key, value and what is"
            " allowed. A changed manifest takes effect when the code location is reloaded."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]) -> dg.SkipReason:
        errors = load_models(systems.settings.manifests).errors
        for error in errors:
            with contained(systems.ledger, context.log, where="alerting about a manifest"):
                platform_alert(systems.ledger, topic="manifest", title="a manifest is wrong", body=str(error))
        return dg.SkipReason("; ".join(map(str, errors)) or "every manifest can be read")

    return sensor
