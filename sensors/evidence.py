"""Keeps an open rollout supplied with evidence."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from pipelines.errors import RampgateError
from pipelines.manifest.load import Model
from pipelines.manifest.model import RolloutManifest
from pipelines.rollout.evidence import OnFail, Verdict
from pipelines.rollout.state import Phase, RolloutState
from resources.containment import contained
from resources.monitoring.windows import first_whole, latest_whole, rhythm
from resources.naming import UNFINISHED, Turn, slug
from resources.rollouts import open_rollout
from resources.systems import Systems

AssetJob = Any
"""What `dg.define_asset_job` gives; Dagster does not export its type."""
_TAKING_TRAFFIC = (Phase.SHADOW, Phase.STEPPING)


def evidence_sensor(
    model: Model,
    look_job: AssetJob,
    windows_job: AssetJob,
    *,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """Asks for a look every `look_every`, and for data checks and drift once a window.

    The first windows of a step are due when the step may end, not when it begins and there is nothing in them;
    while one of them is unknown, for whatever reason, they are due four times as often: a single one that could not be
    carried out must not last until `max_unknown`. Both go before what schedules ask for: those of many models come
    round at the same minute.
    """
    look_every = model.rollout.experiment.look_every
    window = rhythm(model.rollout)

    @dg.sensor(
        name=f"{slug(model.name)}_evidence_sensor",
        jobs=[look_job, windows_job],
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"While a rollout of {model.name} takes traffic: a look at the experiment every {look_every}, data"
            f" checks and drift every {window}, more often while one is unknown."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]
    ) -> dg.SkipReason | dg.SensorResult:
        where = f"{model.name}'s evidence sensor"
        with contained(systems.ledger, context.log, where=where, model=model.name) as trouble:
            return evaluated(context, systems)
        return dg.SkipReason(trouble.words)

    def evaluated(context: dg.SensorEvaluationContext, systems: Systems) -> dg.SkipReason | dg.SensorResult:
        try:
            state = open_rollout(systems.ledger, model.name)
        except RampgateError as error:
            return dg.SkipReason(f"cannot tell: {error}")
        if state is None or state.champion is None or state.phase not in _TAKING_TRAFFIC:
            return dg.SkipReason("no canary is taking traffic")
        asked = _asked(context, state)
        now = clock()
        at = {
            look_job.name: _look_due(asked.get(look_job.name), look_every, now),
            windows_job.name: _windows_due(asked.get(windows_job.name), model.rollout, state),
        }
        due = [job for job, when in at.items() if when <= now and not _running(context, job)]
        if not due:
            return dg.SkipReason("the evidence is fresh, or on its way")
        cursor = {
            f"{state.rollout_id}:{job}": when.isoformat()
            for job, when in (asked | dict.fromkeys(due, now)).items()
        }
        requests = [
            dg.RunRequest(
                run_key=f"{state.rollout_id}:{job}:{now.isoformat()}",
                job_name=job,
                tags=Turn.EVIDENCE.tags,
                partition_key=latest_whole(model.rollout, now) if job == windows_job.name else None,
            )
            for job in due
        ]
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(cursor))

    return sensor


def _asked(context: dg.SensorEvaluationContext, state: RolloutState) -> dict[str, datetime]:
    """When each job was last asked for, for this rollout."""
    cursor: dict[str, str] = json.loads(context.cursor or "{}")
    mine = f"{state.rollout_id}:"
    return {
        key.removeprefix(mine): datetime.fromisoformat(at)
        for key, at in cursor.items()
        if key.startswith(mine)
    }


def _look_due(last: datetime | None, every: timedelta, now: datetime) -> datetime:
    return now if last is None else last + every


def _windows_due(last: datetime | None, manifest: RolloutManifest, state: RolloutState) -> datetime:
    window = rhythm(manifest)
    if last is None or last < state.since:
        may_end = state.since + min(window, state.policy.min_duration)
        return max(may_end, first_whole(manifest, state.since))
    return last + (window / 4 if _is_unknown(state) else window)


def _is_unknown(state: RolloutState) -> bool:
    """A window of this step could not be judged yet, and the step waits for it."""
    return any(
        item.source in ("data_quality", "drift")
        and item.verdict is Verdict.UNKNOWN
        and item.on_fail is not OnFail.WARN
        and item.at >= state.since
        for item in state.evidence.values()
    )


def _running(context: dg.SensorEvaluationContext, job: str) -> bool:
    return bool(context.instance.get_run_ids(dg.RunsFilter(job_name=job, statuses=list(UNFINISHED)), limit=1))
