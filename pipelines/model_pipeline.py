"""One model's manifest -> its assets, checks and jobs."""

from collections.abc import Mapping

import dagster as dg

from assets.data_quality import data_quality
from assets.drift import drift
from assets.experiment import experiment
from assets.experiment_plan import experiment_plan
from assets.prediction_log import outcomes, prediction_log
from assets.registry import model_version
from assets.rehearsal import rehearsal
from assets.rollout import rollout, start_job
from assets.rollout_report import rollout_report
from pipelines.core.manifest.load import Model
from pipelines.jobs import control_jobs
from pipelines.rollouts.naming import CARRIES_ON_TAG, MODEL_TAG, AssetJob, Turn, job_name, key


def model_jobs(model: Model) -> dict[str, AssetJob]:
    """The model's jobs, by what they do; orders are apart."""
    jobs = {
        "start": start_job(model, {MODEL_TAG: model.name} | _acting(model)),
        "step": _job(
            model,
            "step",
            ["rollout", "rollout_report"],
            "Carry the open rollout on: the next step, the promotion, the rollback.",
        ),
        "plan": _job(model, "plan", ["experiment_plan"], "Plan the experiment from the champion's history."),
        "rehearse": _job(
            model,
            "rehearse",
            ["rehearsal"],
            "Play this manifest on the champion's last weeks: an identical version, and one with harm. Nothing is deployed.",
        ),
        "ingest": _job(
            model, "ingest", ["prediction_log", "outcomes"], "Load predictions and outcomes into the lake."
        ),
        "look": _job(
            model, "look", ["prediction_log", "outcomes", "experiment"], "One look at the experiment."
        ),
        "windows": _job(
            model,
            "windows",
            ["prediction_log", "data_quality", "drift"],
            "Data checks and drift on the latest window.",
        ),
    }
    if model.rollout.training is not None:
        jobs["train"] = _job(model, "train", ["model_version"], "Train and register a version.")
    return jobs


def model_definitions(model: Model, jobs: Mapping[str, AssetJob]) -> dg.Definitions:
    """The model's assets and jobs; sensors are all models' own. Nothing in it is the model's own code."""
    training = model.rollout.training
    assets = [prediction_log(model), outcomes(model), data_quality(model), drift(model)]
    assets += [experiment(model), experiment_plan(model), rehearsal(model)]
    assets += [rollout(model), rollout_report(model)]
    if training is not None:
        assets.append(model_version(model, training.recipe))
    return dg.Definitions(assets=assets, jobs=[*jobs.values(), *control_jobs(model)])


def _job(model: Model, name: str, assets: list[str], description: str) -> AssetJob:
    """One process per run: starting one per step would cost more than most steps do."""
    return dg.define_asset_job(
        job_name(model.name, name),
        selection=dg.AssetSelection.assets(*(key(model.name, asset) for asset in assets)),
        description=description,
        executor_def=dg.in_process_executor,
        tags={MODEL_TAG: model.name} | (_acting(model) if "rollout" in assets else Turn.SCHEDULED.tags),
    )


def _acting(model: Model) -> dict[str, str]:
    """A run that acts on a rollout does not wait behind training and ingestion."""
    return {CARRIES_ON_TAG: model.name, **Turn.ROLLOUT.tags}
