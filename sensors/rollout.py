"""Carries the open rollout on when a decision or an unfinished action is due."""

import dagster as dg

from pipelines.errors import RampgateError
from pipelines.manifest.load import Model
from pipelines.rollout.decision import DecisionKind
from pipelines.rollout.policy import VALIDATION
from pipelines.rollout.state import Phase, RolloutState
from resources.naming import CARRIES_ON_TAG, UNFINISHED, slug
from resources.rollouts import open_rollout
from resources.systems import Systems

ROLLOUT_TAG = "rampgate/rollout"
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

    return sensor


def _due(systems: Systems, state: RolloutState) -> str | None:
    """What is due, in words; None where the rollout waits for time, data or a person."""
    if systems.controller.owes(state.rollout_id):
        return "an action is unfinished"
    if state.phase is Phase.VALIDATING and VALIDATION not in state.evidence:
        return "the version has not answered through the real predictor yet"
    decision = systems.controller.assess(state.rollout_id)
    return None if decision.kind in _WAITING else decision.reason


def _request(
    context: dg.SensorEvaluationContext, job_name: str, state: RolloutState
) -> dg.SkipReason | dg.RunRequest:
    """One run at a time; a run that failed is asked for again, with a new key."""
    unfinished = dg.RunsFilter(tags={CARRIES_ON_TAG: state.model}, statuses=list(UNFINISHED))
    if context.instance.get_run_ids(unfinished, limit=1):
        return dg.SkipReason("waiting: a run is carrying the rollout on")
    runs = context.instance.get_run_ids(
        dg.RunsFilter(job_name=job_name, tags={ROLLOUT_TAG: state.rollout_id})
    )
    return dg.RunRequest(run_key=f"{state.rollout_id}:{len(runs)}", tags={ROLLOUT_TAG: state.rollout_id})
