"""Carries open rollouts on when a decision or an unfinished action is due."""

import time
from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import DecisionKind
from pipelines.core.rollout.state import RolloutState
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.naming import CARRIES_ON_TAG, UNFINISHED, AssetJob, job_name
from pipelines.rollouts.open_rollout import validation_due
from resources.configured import LedgerResource
from resources.ledger.ledger import Ledger
from sensors.ticks import TICK, Found, all_found, look_at_all, look_at_one, looked

ROLLOUT_TAG = "rampgate/rollout"

NAME = "rollout sensor"

FIRST_PAUSE, LONGEST_PAUSE, MOST_FAILURES = 10.0, 300.0, 8

EVERY = timedelta(seconds=2)
"""How often the ledger is asked for open rollouts."""

_WAITING = (DecisionKind.CONTINUE, DecisionKind.HOLD)


def rollout_sensor(
    models: Sequence[Model], jobs: Sequence[AssetJob] = (), *, tick: timedelta = TICK
) -> dg.SensorDefinition:
    """Asks for a run of a model's step job, one of `jobs`, when there is something to do."""
    names = {model.name for model in models}

    @dg.sensor(
        name="rollout_sensor",
        jobs=jobs,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Advances, promotes or winds up open rollouts: asks for a run when the evidence allows the next step,"
            " and when an action was begun and not finished."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, ledger: LedgerResource, controller: ControllerResource
    ) -> dg.SkipReason | dg.SensorResult:
        return looked(
            lambda: _look(context, ledger.get(), controller, names),
            every=EVERY,
            tick=tick,
            otherwise="no rollout is open",
        )

    return sensor


def _look(
    context: dg.SensorEvaluationContext,
    ledger: Ledger,
    controller: ControllerResource,
    models: Collection[str],
) -> Found:
    """One query of the ledger; more only for rollouts that are open."""

    def carried_on(state: RolloutState) -> Found:
        return _carried_on(context, controller.get(), state)

    def look() -> Found:
        ours = [row for row in ledger.rollouts(open_only=True) if row.model in models]
        return all_found(look_at_one(context, ledger, NAME, row, carried_on) for row in ours)

    return look_at_all(context, ledger, NAME, look)


def _carried_on(context: dg.SensorEvaluationContext, controller: Controller, state: RolloutState) -> Found:
    """A run to be asked for, or why there is none."""
    why = _due(controller, state)
    if why is None:
        return Found(said=(f"{state.rollout_id}: waiting; see its last decision",))
    context.log.info(f"{state.rollout_id}: {why}")
    wanted = _request(context, state)
    return Found(said=(wanted,)) if isinstance(wanted, str) else Found((wanted,))


def _due(controller: Controller, state: RolloutState) -> str | None:
    """What is due, in words; None where the rollout waits for time, data or a person."""
    if controller.owes(state.rollout_id):
        return "an action is unfinished"
    if validation_due(state, datetime.now(UTC)):
        return "the version has to answer through the real predictor"
    decision = controller.assess(state.rollout_id)
    return None if decision.kind in _WAITING else decision.reason


def _request(context: dg.SensorEvaluationContext, state: RolloutState) -> dg.RunRequest | str:
    """One run at a time; a run that failed is asked for again, with a new key."""
    unfinished = dg.RunsFilter(tags={CARRIES_ON_TAG: state.model}, statuses=list(UNFINISHED))
    if context.instance.get_run_ids(unfinished, limit=1):
        return f"{state.rollout_id}: waiting: a run is carrying the rollout on"
    job = job_name(state.model, "step")
    mine = dg.RunsFilter(job_name=job, tags={ROLLOUT_TAG: state.rollout_id})
    wait = pause_after_failures(context.instance.get_run_records(mine, limit=MOST_FAILURES), time.time())
    if wait > 0:
        return f"{state.rollout_id}: waiting: the last run failed; the next one in {wait:.0f} s"
    number = context.instance.get_runs_count(mine)
    return dg.RunRequest(
        job_name=job, run_key=f"{state.rollout_id}:{number}", tags={ROLLOUT_TAG: state.rollout_id}
    )


def pause_after_failures(newest_first: Sequence[dg.RunRecord], now: float) -> float:
    """Seconds to wait: none after a success, after failures 10 s, 20 s, 40 s, up to five minutes."""
    failures = 0
    for record in newest_first:
        if record.dagster_run.status is not dg.DagsterRunStatus.FAILURE:
            break
        failures += 1
    if not failures:
        return 0.0
    ended = newest_first[0].end_time or newest_first[0].update_timestamp.timestamp()
    return ended + min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) - now
