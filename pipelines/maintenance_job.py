"""Housekeeping of the lake, once a day."""

from collections.abc import Sequence

import dagster as dg

from pipelines.manifest.load import Model
from resources.lake.maintenance import expire_unpaired, maintain, remove_loaded
from resources.systems import Systems


def maintenance(models: Sequence[Model]) -> dg.Definitions:
    """The job `lake_maintenance` and its schedule."""

    @dg.op(description="Compact small files, expire old snapshots, forget halves that will never be paired.")
    def tidy_lake(context: dg.OpExecutionContext, systems: dg.ResourceParam[Systems]) -> None:
        for model in models:
            expired = expire_unpaired(systems.lake, model.name)
            removed = [
                remove_loaded(systems.lake, model.name, source, folder / model.name)
                for source, folder in (
                    ("predictions", systems.settings.prediction_log),
                    ("outcomes", systems.settings.outcomes),
                )
            ]
            context.log.info(
                f"{model.name}: {expired} halves expired, {sum(removed)} loaded segments removed"
            )
        context.log.info(str(maintain(systems.lake)))

    @dg.job(
        name="lake_maintenance",
        description="Compacts the lake and removes prediction log segments that were loaded a week ago.",
        executor_def=dg.in_process_executor,
    )
    def lake_maintenance() -> None:
        tidy_lake()

    schedule = dg.ScheduleDefinition(
        name="lake_maintenance_schedule",
        job=lake_maintenance,
        cron_schedule="30 3 * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return dg.Definitions(jobs=[lake_maintenance], schedules=[schedule])
