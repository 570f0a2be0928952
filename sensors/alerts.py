"""Delivers alerts, and turns failed runs into alerts."""

import dagster as dg

from pipelines.errors import LedgerError, RampgateError
from pipelines.rollout.alerts import Alert
from resources.platform_alerts import platform_alert
from resources.reports import report_name, write_report
from resources.systems import Systems


def alert_sensor() -> dg.SensorDefinition:
    """Sends what is waiting in the ledger's outbox; at least once, to each channel."""

    @dg.sensor(
        name="alert_sensor",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Delivers alerts from the ledger's outbox to the channels of `RAMPGATE_ALERT_URLS` and of each model's"
            " manifest. A channel that fails is tried again later and delays nothing else."
        ),
    )
    def sensor(context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]) -> dg.SkipReason:
        try:
            _write_reports(context, systems)
            delivered = systems.notifier.deliver()
        except LedgerError as error:
            return dg.SkipReason(f"the outbox cannot be read: {error}")
        return dg.SkipReason(f"sent {delivered.sent}, failed {delivered.failed}, waiting {delivered.waiting}")

    return sensor


def _write_reports(context: dg.SensorEvaluationContext, systems: Systems) -> None:
    """An alert's link opens a report that knows of it; a report that cannot be written holds no alert up."""
    for alert in systems.ledger.outbox.waiting():
        if not alert.rollout_id or _knows_of(systems, alert):
            continue
        try:
            write_report(systems, alert.rollout_id)
        except (RampgateError, OSError) as error:
            context.log.warning(f"{alert.rollout_id}: no report: {error}")


def _knows_of(systems: Systems, alert: Alert) -> bool:
    page = systems.settings.home / "reports" / report_name(alert.rollout_id)
    return page.exists() and page.stat().st_mtime >= alert.at.timestamp()


def failure_sensor() -> dg.SensorDefinition:
    """Every failed run becomes an alert."""

    @dg.run_failure_sensor(
        name="failure_sensor",
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Puts every failed run into the alerts' outbox, with the error.",
    )
    def sensor(context: dg.RunFailureSensorContext, systems: dg.ResourceParam[Systems]) -> None:
        run = context.dagster_run
        message = context.failure_event.message or "no message"
        platform_alert(
            systems.ledger,
            topic=f"run:{run.run_id}",
            title=f"run of {run.job_name} failed",
            body=f"{message}\n{systems.dagster_url}/runs/{run.run_id}",
        )

    return sensor
