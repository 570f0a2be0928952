"""Delivers alerts, and turns failed runs into alerts."""

import logging
import time
from collections.abc import Iterator
from datetime import timedelta

import dagster as dg
from dagster._core.scheduler.instigation import InstigatorStatus

from pipelines.core.errors import LedgerError, RampgateError
from pipelines.core.rollout.alerts import Alert
from pipelines.reports.configured import ReportsResource
from pipelines.reports.report import Reports, report_name, write_report
from pipelines.rollouts.naming import ROLLOUTS_TAG, VERSION_TAG
from resources.configured import LedgerResource, LinksResource, NotifierResource
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.notifier import MOST_WORDS, Notifier, alert_switched_off, contained, platform_alert, say
from sensors.ticks import TICK, Found, looked

_TO_RUN = (dg.DefaultSensorStatus.RUNNING, dg.DefaultScheduleStatus.RUNNING)

SWITCHES_SECONDS = 60.0
"""How often it is looked whether a sensor or schedule is off."""

EVERY = timedelta(seconds=3)
"""How often it is looked whether an alert is waiting."""


def alert_sensor(*, tick: timedelta = TICK) -> dg.SensorDefinition:
    """Sends what is waiting in the ledger's outbox; at least once, to each channel."""
    switches_at: list[float] = []

    @dg.sensor(
        name="alert_sensor",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Delivers alerts from the ledger's outbox to the channels of `RAMPGATE_ALERT_URLS` and of each model's"
            " manifest. A channel that fails is tried again later and delays nothing else."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        ledger: LedgerResource,
        notifier: NotifierResource,
        reports: ReportsResource,
        links: LinksResource,
    ) -> dg.SkipReason | dg.SensorResult:
        if not switches_at or time.monotonic() - switches_at[0] > SWITCHES_SECONDS:
            switches_at[:] = [time.monotonic()]
            with contained(ledger.get(), context.log, where="looking for sensors that are off"):
                _tell_of_those_off(context, ledger.get(), links.get())

        def deliver() -> Found:
            return Found(said=(_deliver(context, notifier.get(), reports.get()),))

        return looked(deliver, every=EVERY, tick=tick, otherwise="nothing is waiting")

    return sensor


def _deliver(context: dg.SensorEvaluationContext, notifier: Notifier, reports: Reports) -> str:
    """What was sent, in words."""
    with contained(reports.ledger, context.log, where="writing reports"):
        _write_reports(context, reports)
    try:
        delivered = notifier.deliver()
    except LedgerError as error:
        return f"the outbox cannot be read: {error}"
    return f"sent {delivered.sent}, failed {delivered.failed}, waiting {delivered.waiting}"


def _tell_of_those_off(context: dg.SensorEvaluationContext, ledger: Ledger, links: Links) -> None:
    """The watch of `make up` does the same, even where this sensor is off; on a cluster there is no watch."""
    for name, does in _switched_off(context):
        alert_switched_off(ledger, name, does, links.automation)


def _switched_off(context: dg.SensorEvaluationContext) -> Iterator[tuple[str, str]]:
    """Name and description of what is to run, as its definition says, and was turned off."""
    repository = context.repository_def
    if repository is None:
        return
    states = {state.instigator_name: state for state in context.instance.all_instigator_state()}
    for each in (*repository.sensor_defs, *repository.schedule_defs):
        state = states.get(each.name)
        if state is not None and state.status is InstigatorStatus.STOPPED and each.default_status in _TO_RUN:
            yield each.name, each.description or ""


def _write_reports(context: dg.SensorEvaluationContext, reports: Reports) -> None:
    """An alert's link opens a report that knows of it; a report that cannot be written holds no alert up."""
    try:
        waiting = reports.ledger.outbox.waiting()
    except LedgerError:
        return  # the delivery that follows says so
    for alert in waiting:
        where = f"the report of {alert.rollout_id}"
        with contained(reports.ledger, context.log, where=where, model=alert.model):
            if alert.rollout_id and not _knows_of(reports, alert):
                _write_report(context, reports, alert.rollout_id)


def _write_report(context: dg.SensorEvaluationContext, reports: Reports, rollout_id: str) -> None:
    try:
        write_report(reports, rollout_id)
    except (RampgateError, OSError) as error:
        say(context.log, logging.WARNING, f"{rollout_id}: no report: {error}")


def _knows_of(reports: Reports, alert: Alert) -> bool:
    page = reports.folder / report_name(alert.rollout_id)
    return page.exists() and page.stat().st_mtime >= alert.at.timestamp()


def failure_sensor() -> dg.SensorDefinition:
    """Every failed run becomes an alert."""

    @dg.run_failure_sensor(
        name="failure_sensor",
        minimum_interval_seconds=15,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Puts every failed run into the alerts' outbox, with the error; of the runs that try to start a"
            " challenger, the first."
        ),
    )
    def sensor(context: dg.RunFailureSensorContext, ledger: LedgerResource, links: LinksResource) -> None:
        run = context.dagster_run
        body = f"{_reasons(context)}\n{links.get().run(run.run_id)}"
        version = run.tags.get(VERSION_TAG)
        if version is None:
            title, topic, once = f"run of {run.job_name} failed", f"run:{run.run_id}", None
        else:
            # It is asked for again and again, for as long as the version is the challenger.
            title = f"version {version} is not started yet: run of {run.job_name} failed, and is tried again"
            topic, once = f"start:{run.job_name}", f"{version}:{run.tags.get(ROLLOUTS_TAG)}"
        platform_alert(ledger.get(), topic=topic, title=title, body=body, once=once)

    return sensor


def _reasons(context: dg.RunFailureSensorContext) -> str:
    """Why its steps failed, in their own words (a refused order's reason); else what Dagster says of the run.

    A library's words may quote rows: of those the alert has the error's kind, and the run its text.
    """
    found = [_reason(event) for event in context.get_step_failure_events()]
    return "\n".join(filter(None, found)) or (context.failure_event.message or "no message")[:MOST_WORDS]


def _reason(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    told = failure.user_failure_data
    if told is not None and told.description:
        return told.description[:MOST_WORDS]
    error = failure.error
    if error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
        error = error.cause  # what the step raised; Dagster only wraps it
    if error is None:
        return ""
    if error.cls_name in _known():
        return error.message.strip()[:MOST_WORDS]
    return f"{error.cls_name} in step {event.step_key}; the run's log has its text"


def _known() -> set[str]:
    """Errors whose words we or the system wrote. (Dagster tells an error's class by its name alone.)"""
    found: set[str] = set()
    waiting: list[type[BaseException]] = [RampgateError, OSError]
    while waiting:
        one = waiting.pop()
        found.add(one.__name__)
        waiting += [
            each for each in one.__subclasses__() if one is not OSError or each.__module__ == "builtins"
        ]
    return found
