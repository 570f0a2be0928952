"""One model's manifest -> its assets, checks, jobs, schedules and sensors."""

import dagster as dg

from assets.data_quality import data_quality
from assets.drift import drift
from assets.experiment import experiment
from assets.experiment_plan import experiment_plan
from assets.prediction_log import outcomes, prediction_log
from assets.registry import model_version
from assets.rollout import rollout, start_job
from assets.rollout_report import rollout_report
from pipelines.control_jobs import control_jobs
from pipelines.manifest.load import Model
from resources.monitoring.windows import SETTLES, latest_whole, window_partitions
from resources.naming import CARRIES_ON_TAG, Turn, key, slug
from sensors.challenger import challenger_sensor
from sensors.evidence import AssetJob, evidence_sensor
from sensors.rollout import rollout_sensor

_INGEST_CRON = {"low": "*/15 * * * *", "standard": "*/5 * * * *", "high": "* * * * *"}
_MONITOR_CRON = {"low": "0 6 * * *", "standard": "0 * * * *", "high": "*/15 * * * *"}
"""How often the tiers load the prediction log, and check data and drift, when no rollout asks for it."""


def model_definitions(model: Model) -> dg.Definitions:
    """Everything that Dagster knows about one model; nothing in it is the model's own code."""
    training = model.rollout.training
    assets = [prediction_log(model), outcomes(model), data_quality(model), drift(model)]
    assets += [experiment(model), experiment_plan(model), rollout(model), rollout_report(model)]
    jobs = [
        start_job(model, {"rampgate/model": model.name} | _acting(model)),
        _job(
            model,
            "step",
            ["rollout", "rollout_report"],
            "Carry the open rollout on: the next step, the promotion, the rollback.",
        ),
        _job(model, "plan", ["experiment_plan"], "Plan the experiment from the champion's history."),
        _job(model, "ingest", ["prediction_log", "outcomes"], "Load predictions and outcomes into the lake."),
    ]
    look = _job(model, "look", ["prediction_log", "outcomes", "experiment"], "One look at the experiment.")
    windows = _job(
        model,
        "windows",
        ["prediction_log", "data_quality", "drift"],
        "Data checks and drift on the latest window.",
    )
    if training is not None:
        assets.append(model_version(model, training.recipe))
        jobs.append(_job(model, "train", ["model_version"], "Train and register a version."))
    return dg.Definitions(
        assets=assets,
        jobs=[*jobs, look, windows, *control_jobs(model)],
        schedules=[
            _schedule(
                model, "ingest", _INGEST_CRON[model.rollout.tier], "Loads what was logged into the lake"
            ),
            _windows_schedule(model),
        ],
        sensors=[
            challenger_sensor(model, f"{slug(model.name)}_start"),
            evidence_sensor(model, look, windows),
            rollout_sensor(model, f"{slug(model.name)}_step"),
        ],
    )


def _job(model: Model, name: str, assets: list[str], description: str) -> AssetJob:
    """One process per run: starting one per step would cost more than most steps do."""
    return dg.define_asset_job(
        f"{slug(model.name)}_{name}",
        selection=dg.AssetSelection.assets(*(key(model.name, asset) for asset in assets)),
        description=description,
        executor_def=dg.in_process_executor,
        tags={"rampgate/model": model.name}
        | (_acting(model) if "rollout" in assets else Turn.SCHEDULED.tags),
    )


def _acting(model: Model) -> dict[str, str]:
    """A run that acts on a rollout does not wait behind training and ingestion."""
    return {CARRIES_ON_TAG: model.name, **Turn.ROLLOUT.tags}


def _schedule(model: Model, job: str, cron: str, does: str) -> dg.ScheduleDefinition:
    name = f"{slug(model.name)}_{job}"
    return dg.ScheduleDefinition(
        name=f"{name}_schedule",
        job_name=name,
        cron_schedule=cron,
        description=f"{does}, for {model.name}.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )


def _windows_schedule(model: Model) -> dg.ScheduleDefinition:
    """Where windows have partitions, it asks for the latest whole one, when it has settled."""
    cron, does = _MONITOR_CRON[model.rollout.tier], "Looks for bad data and drift"
    if window_partitions(model.rollout) is None:
        return _schedule(model, "windows", cron, does)
    name = f"{slug(model.name)}_windows"
    hours = cron.partition(" ")[2]

    @dg.schedule(
        name=f"{name}_schedule",
        job_name=name,
        cron_schedule=f"{SETTLES.seconds // 60} {hours}",
        description=f"{does} in the latest whole window, for {model.name}.",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def latest(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        return dg.RunRequest(partition_key=latest_whole(model.rollout, context.scheduled_execution_time))

    return latest
