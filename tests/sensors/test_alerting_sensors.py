"""Alerts, failed runs and manifests that cannot be read."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteInstigatorOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    ScheduleInstigatorData,
    SensorInstigatorData,
)

from pipelines.core.errors import LedgerError
from pipelines.core.rollout.events import Order
from pipelines.jobs import control_jobs
from pipelines.rollouts.naming import ROLLOUTS_TAG, VERSION_TAG
from sensors.alerts import alert_sensor, failure_sensor
from sensors.guardrail import guardrail_sensor
from sensors.manifests import manifest_sensor
from tests.support.memory_systems import MemorySystems, given, start_rollout, write_model
from tests.support.rollouts import MODEL


def tick(sensor: dg.SensorDefinition, systems: MemorySystems) -> str:
    result = sensor(dg.build_sensor_context(resources=given(systems)))
    return str(result.skip_message)


def test_what_waits_in_the_outbox_is_delivered_once(systems: MemorySystems) -> None:
    start_rollout(systems)
    first = tick(alert_sensor(tick=timedelta(0)), systems)
    assert first.startswith("sent ")
    assert first != "sent 0, failed 0, waiting 0"
    assert tick(alert_sensor(tick=timedelta(0)), systems) == "sent 0, failed 0, waiting 0"
    lines = (systems.settings.home / "alerts.jsonl").read_text().splitlines()
    assert "rollout started" in json.loads(lines[0])["title"]


def test_a_manifest_that_is_wrong_is_alerted_once_and_again_when_it_is_wrong_in_another_way(
    systems: MemorySystems,
) -> None:
    assert tick(manifest_sensor(), systems) == "every manifest can be read"
    folder = write_model(systems.settings.manifests, "churn", "stepps: [10, 100]\n")
    said = tick(manifest_sensor(), systems)
    tick(manifest_sensor(), systems)
    assert "stepps" in said
    assert systems.titles() == ["a manifest is wrong"]
    path = folder / "rollout.yaml"
    path.write_text(path.read_text().replace("stepps", "tiers"))
    tick(manifest_sensor(), systems)
    assert len(systems.titles()) == 2


def test_a_failed_run_is_alerted_with_its_error_and_link(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def fails() -> None:
        raise dg.Failure(description="the lake is away")

    @dg.job
    def job() -> None:
        fails()

    run = failed(systems, instance, job)
    (alert,) = systems.ledger.outbox.all()
    assert alert.title == "run of job failed"
    assert alert.body.startswith("the lake is away\n"), "in its own words, not Dagster's"
    assert f"/runs/{run}" in alert.body


def test_starts_that_keep_failing_are_one_alert_for_each_version(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError("the artefact store is away")

    @dg.job
    def job() -> None:
        fails()

    for version in ("2", "2", "3"):
        failed(systems, instance, job, tags={VERSION_TAG: version, ROLLOUTS_TAG: "1"})
    said = "is not started yet: run of job failed, and is tried again"
    assert sorted(systems.titles()) == [f"version 2 {said}", f"version 3 {said}"]


def test_a_run_that_failed_with_an_error_is_alerted_with_the_error(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def fails() -> None:
        try:
            raise OSError("no space left")
        except OSError as error:
            raise LedgerError("the disk of the ledger is full") from error

    @dg.job
    def job() -> None:
        fails()

    assert "the disk of the ledger is full" in alerted(systems, instance, job, {})


@pytest.mark.parametrize("order", Order)
def test_a_refused_order_is_alerted_with_its_reason(
    systems: MemorySystems, instance: dg.DagsterInstance, order: Order
) -> None:
    (job,) = [job for job in control_jobs(systems.model) if job.name == f"flight_delay_{order}"]
    config = {"ops": {f"{job.name}_order": {"config": {"by": "anna", "reason": "campaign"}}}}
    body = alerted(systems, instance, job, config)
    assert body.startswith(f"{MODEL} has no open rollout to {order}\n")


def failed(systems: MemorySystems, instance: dg.DagsterInstance, job: dg.JobDefinition, **run: Any) -> str:
    """Run the job, which fails, and tell the sensor; returns the run's id."""
    result = job.execute_in_process(instance=instance, raise_on_error=False, resources=given(systems), **run)
    context = dg.build_run_status_sensor_context(
        sensor_name="failure_sensor",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=result.dagster_run,
        resources=given(systems),
    ).for_run_failure()
    failure_sensor()(context)
    return result.run_id


def alerted(systems: MemorySystems, instance: dg.DagsterInstance, job: dg.JobDefinition, config: Any) -> str:
    """The text of the alert that a run which fails causes."""
    failed(systems, instance, job, run_config=config)
    (alert,) = systems.ledger.outbox.all()
    return alert.body


def off(instance: dg.DagsterInstance, name: str, kind: InstigatorType) -> None:
    """What Dagster remembers when somebody turns it off."""
    location = RegisteredCodeLocationOrigin("rampgate")
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "__repository__"), name)
    data = ScheduleInstigatorData("0 0 * * *") if kind is InstigatorType.SCHEDULE else SensorInstigatorData()
    instance.add_instigator_state(InstigatorState(origin, kind, InstigatorStatus.STOPPED, data))


def test_sensors_and_schedules_that_are_off_are_alerted_once_a_day_and_those_meant_to_be_off_are_not(
    systems: MemorySystems, tmp_path: Path
) -> None:
    instance = dg.DagsterInstance.local_temp(str(tmp_path))
    job = dg.define_asset_job("job")
    running = {"default_status": dg.DefaultScheduleStatus.RUNNING}
    definitions = dg.Definitions(
        jobs=[job],
        sensors=[guardrail_sensor([]), manifest_sensor(), alert_sensor(tick=timedelta(0))],
        schedules=[
            dg.ScheduleDefinition(name="nightly", job=job, cron_schedule="0 0 * * *", **running),
            dg.ScheduleDefinition(name="optional", job=job, cron_schedule="0 0 * * *"),
        ],
    )
    off(instance, "guardrail_sensor", InstigatorType.SENSOR)
    off(instance, "forgotten_sensor", InstigatorType.SENSOR)
    for name in ("nightly", "optional"):
        off(instance, name, InstigatorType.SCHEDULE)
    for _ in range(2):
        context = dg.build_sensor_context(
            instance=instance, definitions=definitions, resources=given(systems)
        )
        alert_sensor(tick=timedelta(0))(context)
    assert sorted(systems.titles()) == ["guardrail_sensor is off", "nightly is off"]
    told = {alert.title: alert.body for alert in systems.ledger.outbox.all()}
    assert "nobody does this: Watches every canary while it takes traffic" in told["guardrail_sensor is off"]
