"""Keeps an open rollout supplied with evidence."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from pipelines.errors import RampgateError
from pipelines.manifest.load import Model
from pipelines.rollout.state import Phase
from resources.naming import UNFINISHED, slug
from resources.rollouts import open_rollout
from resources.systems import Systems

AssetJob = Any
"""What `dg.define_asset_job` gives; Dagster does not export its type."""
_TAKING_TRAFFIC = (Phase.SHADOW, Phase.STEPPING)


def evidence_sensor(model: Model, look_job: AssetJob, windows_job: AssetJob) -> dg.SensorDefinition:
    """Asks for a look every `look_every`, and for data checks and drift once a window."""
    every = {
        look_job.name: model.rollout.experiment.look_every,
        windows_job.name: min(model.rollout.data_checks.window, model.rollout.drift.window),
    }

    @dg.sensor(
        name=f"{slug(model.name)}_evidence_sensor",
        jobs=[look_job, windows_job],
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"While a rollout of {model.name} takes traffic: a look at the experiment every"
            f" {every[look_job.name]}, data checks and drift every {every[windows_job.name]}."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]
    ) -> dg.SkipReason | dg.SensorResult:
        try:
            state = open_rollout(systems.ledger, model.name)
        except RampgateError as error:
            return dg.SkipReason(f"cannot tell: {error}")
        if state is None or state.champion is None or state.phase not in _TAKING_TRAFFIC:
            return dg.SkipReason("no canary is taking traffic")
        asked: dict[str, str] = json.loads(context.cursor or "{}")
        now = datetime.now(UTC)
        due = [
            job
            for job, interval in every.items()
            if _passed(asked.get(f"{state.rollout_id}:{job}"), interval, now) and not _running(context, job)
        ]
        if not due:
            return dg.SkipReason("the evidence is fresh, or on its way")
        others = {key: at for key, at in asked.items() if key.startswith(f"{state.rollout_id}:")}
        cursor = others | {f"{state.rollout_id}:{job}": now.isoformat() for job in due}
        requests = [
            dg.RunRequest(run_key=f"{state.rollout_id}:{job}:{now.isoformat()}", job_name=job) for job in due
        ]
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(cursor))

    return sensor


def _passed(last: str | None, interval: timedelta, now: datetime) -> bool:
    return last is None or now - datetime.fromisoformat(last) >= interval


def _running(context: dg.SensorEvaluationContext, job: str) -> bool:
    return bool(context.instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=list(UNFINISHED)), limit=1))
