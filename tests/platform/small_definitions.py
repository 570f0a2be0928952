"""The smallest code location, so that the platform's tests do not wait for the real one."""

import os
import time

import dagster as dg


@dg.asset
def something() -> int:
    return 1


class Nap(dg.Config):
    seconds: float


@dg.op
def nap(context: dg.OpExecutionContext, config: Nap) -> None:
    context.log.info(f"niceness {os.nice(0)}")
    time.sleep(config.seconds)


@dg.job(executor_def=dg.in_process_executor)
def napping() -> None:
    nap()


@dg.sensor(
    minimum_interval_seconds=600, default_status=dg.DefaultSensorStatus.RUNNING, description="Watches. Often."
)
def guardrail_sensor() -> dg.SkipReason:
    return dg.SkipReason("nothing to watch")


@dg.sensor(minimum_interval_seconds=600, default_status=dg.DefaultSensorStatus.RUNNING)
def alert_sensor() -> dg.SkipReason:
    return dg.SkipReason("nothing to tell")


@dg.sensor(minimum_interval_seconds=600, job=napping)
def optional_sensor() -> dg.SkipReason:
    """As its author ships it, it is off."""
    return dg.SkipReason("nothing to do")


hourly = dg.ScheduleDefinition(
    name="nap_schedule",
    job=napping,
    cron_schedule="0 0 1 1 *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

defs = dg.Definitions(
    assets=[something],
    jobs=[napping],
    sensors=[guardrail_sensor, alert_sensor, optional_sensor],
    schedules=[hourly],
)
