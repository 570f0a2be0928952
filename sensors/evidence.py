"""Keeps open rollouts supplied with evidence."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.monitoring.windows import first_whole, latest_whole, rhythm
from pipelines.rollouts.naming import UNFINISHED, AssetJob, Turn, job_name
from resources.configured import LedgerResource
from resources.ledger.ledger import Ledger
from sensors.rollout import EVERY, ROLLOUT_TAG
from sensors.ticks import TICK, Found, all_found, look_at_all, look_at_one, looked

NAME = "evidence sensor"

_TAKING_TRAFFIC = (Phase.SHADOW, Phase.STEPPING, Phase.BAKING)


def evidence_sensor(
    models: Sequence[Model],
    jobs: Sequence[AssetJob] = (),
    *,
    tick: timedelta = TICK,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dg.SensorDefinition:
    """Asks for a look every `look_every`, and for data checks and drift once a window; `jobs` are all models' own.

    The first windows of a step are due when the step may end, not when it begins and there is nothing in them;
    while one of them is unknown, for whatever reason, they are due four times as often: a single one that could not be
    carried out must not last until `max_unknown`. Both go before what comes round for every model.
    """
    by_name = {model.name: model for model in models}

    @dg.sensor(
        name="evidence_sensor",
        jobs=jobs,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "While a rollout takes traffic: a look at the experiment every `look_every`, data checks and drift"
            " once a window, more often while one is unknown."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, ledger: LedgerResource
    ) -> dg.SkipReason | dg.SensorResult:
        return looked(
            lambda: _look(context, ledger.get(), by_name, clock()),
            every=EVERY,
            tick=tick,
            otherwise="no canary is taking traffic",
        )

    return sensor


def _look(
    context: dg.SensorEvaluationContext, ledger: Ledger, models: Mapping[str, Model], now: datetime
) -> Found:
    """One query of the ledger; more only for rollouts that are open. The cursor holds those alone."""

    def look() -> Found:
        rows = ledger.rollouts(open_only=True)
        asked = _asked(context, {row.rollout_id for row in rows})

        def supplied(state: RolloutState) -> Found:
            return _supplied(context, models[state.model], state, asked, now)

        ours = (row for row in rows if row.model in models)
        found = all_found(look_at_one(context, ledger, NAME, row, supplied) for row in ours)
        times = asked | dict.fromkeys(map(_key, found.requests), now)
        return found._replace(cursor=json.dumps({each: at.isoformat() for each, at in times.items()}))

    return look_at_all(context, ledger, NAME, look)


def _supplied(
    context: dg.SensorEvaluationContext,
    model: Model,
    state: RolloutState,
    asked: Mapping[str, datetime],
    now: datetime,
) -> Found:
    """What one rollout needs now."""
    if state.champion is None or state.phase not in _TAKING_TRAFFIC:
        return Found()
    times = _times(model, state, asked, now)
    due = [job for job, at in times.items() if at <= now and not _running(context, job)]
    if not due:
        return Found(said=(f"{state.rollout_id}: the evidence is fresh, or on its way",))
    return Found(tuple(_request(model, state.rollout_id, job, now) for job in due))


def _times(
    model: Model, state: RolloutState, asked: Mapping[str, datetime], now: datetime
) -> dict[str, datetime]:
    """When each of the model's two jobs is due."""
    look, windows = job_name(model.name, "look"), job_name(model.name, "windows")
    looked_at, checked_at = (asked.get(f"{state.rollout_id}:{job}") for job in (look, windows))
    return {
        look: _look_due(looked_at, model.rollout.experiment.look_every, now),
        windows: _windows_due(checked_at, model.rollout, state),
    }


def _request(model: Model, rollout_id: str, job: str, now: datetime) -> dg.RunRequest:
    windows = job == job_name(model.name, "windows")
    return dg.RunRequest(
        run_key=f"{rollout_id}:{job}:{now.isoformat()}",
        job_name=job,
        partition_key=latest_whole(model.rollout, now) if windows else None,
        tags={ROLLOUT_TAG: rollout_id, **Turn.EVIDENCE.tags},
    )


def _key(request: dg.RunRequest) -> str:
    """Under which the cursor keeps when this was asked for."""
    return f"{request.tags[ROLLOUT_TAG]}:{request.job_name}"


def _asked(context: dg.SensorEvaluationContext, rollouts: Collection[str]) -> dict[str, datetime]:
    """When each job was last asked for, for these rollouts: `<rollout>:<job>` -> time."""
    cursor: dict[str, str] = json.loads(context.cursor or "{}")
    return {
        each: datetime.fromisoformat(at) for each, at in cursor.items() if each.rpartition(":")[0] in rollouts
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
