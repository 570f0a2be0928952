"""What a person can do to a rollout from the Dagster UI."""

import dagster as dg

from pipelines.errors import CommandRefused
from pipelines.manifest.load import Model
from pipelines.rollout.events import Order
from resources.naming import slug
from resources.rollouts import open_rollout
from resources.systems import Systems

_WORDS = {
    Order.PAUSE: "Stop advancing until somebody resumes. Guardrails still roll back.",
    Order.RESUME: "Go on after a pause.",
    Order.APPROVE: "Approve leaving the current step (manifest: `approval`).",
    Order.ABORT: "End the rollout and give all traffic back to the champion.",
    Order.ROLL_BACK_NOW: "Take all traffic from the canary before this job ends, then wind the rollout up.",
    Order.FORCE_PROMOTE: "Promote without the evidence; the reason is kept in the ledger and in the alert.",
}


class OrderConfig(dg.Config):
    """Who asks for it, and why; both are kept in the ledger."""

    by: str
    reason: str


def control_jobs(model: Model) -> list[dg.JobDefinition]:
    """One job for each order: pause, resume, approve, abort, roll back now, force-promote."""
    return [_job(model, order) for order in Order]


def _job(model: Model, order: Order) -> dg.JobDefinition:
    name = f"{slug(model.name)}_{order}"

    @dg.op(name=f"{name}_order", description=_WORDS[order])
    def give(context: dg.OpExecutionContext, config: OrderConfig, systems: dg.ResourceParam[Systems]) -> None:
        state = open_rollout(systems.ledger, model.name)
        if state is None:
            raise dg.Failure(description=f"{model.name} has no open rollout to {order}", allow_retries=False)
        try:
            decision = systems.controller.command(state.rollout_id, order, by=config.by, reason=config.reason)
        except CommandRefused as refused:
            raise dg.Failure(description=str(refused), allow_retries=False) from refused
        context.log.info(f"{state.rollout_id}: {decision.kind}: {decision.reason}")

    @dg.job(
        name=name,
        description=f"{_WORDS[order]} Model: {model.name}.",
        executor_def=dg.in_process_executor,
        tags={"rampgate/model": model.name},
    )
    def order_job() -> None:
        give()

    return order_job
