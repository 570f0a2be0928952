"""Carries the open rollout on when a decision or an unfinished action is due."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import dagster as dg

from pipelines.errors import RampgateError
from pipelines.manifest.load import Model
from pipelines.rollout.decision import DecisionKind
from pipelines.rollout.state import RolloutState
from resources.containment import contained
from resources.naming import CARRIES_ON_TAG, UNFINISHED, slug
from resources.rollouts import open_rollout, validation_due
from resources.systems import Systems

ROLLOUT_TAG = "rampgate/rollout"
FIRST_PAUSE, LONGEST_PAUSE, MOST_FAILURES = 10.0, 300.0, 8
_WAITING = (DecisionKind.CONTINUE, DecisionKind.HOLD)


def rollout_sensor(model: Model, job_name: str) -> dg.SensorDefinition:
    """Asks for a run of the step job when there is something to do."""

    @dg.sensor(
        name=f"{slug(model.name)}_rollout_sensor",
        job_name=job_name,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            f"Advances, promotes or winds up {model.name}'s open rollout: asks for a run when the evidence allows the"
            " next step, and when an action was begun and not finished."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext, systems: dg.ResourceParam[Systems]
    ) -> dg.SkipReason | dg.RunRequest:
        where = f"{model.name}'s rollout sensor"
        with contained(systems.ledger, context.log, where=where, model=model.name) as trouble:
            return _evaluated(context, systems, model, job_name)
        return dg.SkipReason(trouble.words)

    return sensor


def _evaluated(
    context: dg.SensorEvaluationContext, systems: Systems, model: Model, job_name: str
) -> dg.SkipReason | dg.RunRequest:
    try:
        state = open_rollout(systems.ledger, model.name)
        why = None if state is None else _due(systems, state)
    except RampgateError as error:
        return dg.SkipReason(f"cannot tell: {error}")
    if state is None or why is None:
        return dg.SkipReason(
            "no rollout is open" if state is None else "waiting; see the rollout's last decision"
        )
    context.log.info(why)
    return _request(context, job_name, state)


def _due(systems: Systems, state: RolloutState) -> str | None:
    """What is due, in words; None where the rollout waits for time, data or a person."""
    if systems.controller.owes(state.rollout_id):
        return "an action is unfinished"
    if validation_due(state, datetime.now(UTC)):
        return "the version has to answer through the real predictor"
    decision = systems.controller.assess(state.rollout_id)
    return None if decision.kind in _WAITING else decision.reason


def _request(
    context: dg.SensorEvaluationContext, job_name: str, state: RolloutState
) -> dg.SkipReason | dg.RunRequest:
    """One run at a time; a run that failed is asked for again, with a new key."""
    unfinished = dg.RunsFilter(tags={CARRIES_ON_TAG: state.model}, statuses=list(UNFINISHED))
    if context.instance.get_run_ids(unfinished, limit=1):
        return dg.SkipReason("waiting: a run is carrying the rollout on")
    mine = dg.RunsFilter(job_name=job_name, tags={ROLLOUT_TAG: state.rollout_id})
    wait = pause_after_failures(context.instance.get_run_records(mine, limit=MOST_FAILURES), time.time())
    if wait > 0:
        return dg.SkipReason(f"waiting: the last run failed; the next one in {wait:.0f} s")
    number = context.instance.get_runs_count(mine)
    return dg.RunRequest(run_key=f"{state.rollout_id}:{number}", tags={ROLLOUT_TAG: state.rollout_id})


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
