"""What a person can do to a rollout from the Dagster UI."""

from collections.abc import Sequence

import dagster as dg

from pipelines.core.errors import CommandRefused, RampgateError, StillInTraffic
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Order
from pipelines.core.rollout.state import RolloutState
from pipelines.rollouts.configured import ControllerResource, RolloutsResource
from pipelines.rollouts.emergency import UNRECORDED
from pipelines.rollouts.naming import MODEL_TAG, Turn, job_name
from pipelines.rollouts.open_rollout import open_rollout
from pipelines.rollouts.undo import undo
from resources.configured import LakeResource, LedgerResource, ServingResource, SettingsResource
from resources.lake.maintenance import expire_unpaired, maintain, remove_loaded
from resources.ledger.ledger import Ledger
from resources.serving.contract import ServingBackend

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
    """One job for each order: pause, resume, approve, abort, roll back now, force-promote; and undo."""
    return [*(_job(model, order) for order in Order), _undo_job(model)]


def _job(model: Model, order: Order) -> dg.JobDefinition:
    name = job_name(model.name, str(order))

    @dg.op(name=f"{name}_order", description=_WORDS[order])
    def give(
        context: dg.OpExecutionContext,
        config: OrderConfig,
        ledger: LedgerResource,
        serving: ServingResource,
        controller: ControllerResource,
    ) -> None:
        state = _open(ledger.get(), serving, model, order)
        if state is None:
            raise dg.Failure(description=f"{model.name} has no open rollout to {order}", allow_retries=False)
        try:
            decision = controller.get().command(state.rollout_id, order, by=config.by, reason=config.reason)
        except (CommandRefused, StillInTraffic) as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        if decision.rule == UNRECORDED:
            raise dg.Failure(
                description=f"the traffic is away, but nothing could be written: order it again when it can. {decision.reason}",
                allow_retries=False,
            )
        context.log.info(f"{state.rollout_id}: {decision.kind}: {decision.reason}")

    @dg.job(
        name=name,
        description=f"{_WORDS[order]} Model: {model.name}.",
        executor_def=dg.in_process_executor,
        # A person who wants the traffic away does not wait behind looks and training.
        tags={MODEL_TAG: model.name, **Turn.ORDER.tags},
    )
    def order_job() -> None:
        give()

    return order_job


def _undo_job(model: Model) -> dg.JobDefinition:
    name, words = (
        job_name(model.name, "undo"),
        "Serve the previous champion again: within the bake at once, later as soon as it has come up and answered.",
    )

    @dg.op(name=f"{name}_order", description=words)
    def restore(context: dg.OpExecutionContext, config: OrderConfig, rollouts: RolloutsResource) -> None:
        try:
            done = undo(rollouts.get(), model, by=config.by, reason=config.reason)
        except (CommandRefused, StillInTraffic) as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        context.log.info(f"{done.rollout_id}: version {done.version} is served instead of {done.instead_of}")

    @dg.job(
        name=name,
        description=f"{words} Model: {model.name}.",
        executor_def=dg.in_process_executor,
        tags={MODEL_TAG: model.name, **Turn.ORDER.tags},
    )
    def undo_job() -> None:
        restore()

    return undo_job


def _open(ledger: Ledger, serving: ServingResource, model: Model, order: Order) -> RolloutState | None:
    """The open rollout. An order to roll back takes the traffic away even where the ledger cannot say which it is."""
    try:
        return open_rollout(ledger, model.name)
    except RampgateError as error:
        if order is not Order.ROLL_BACK_NOW:
            raise
        away = _take_away(serving.get(), model)
        raise dg.Failure(
            description=f"{away}; the rollout cannot be read, order it again when it can: {error}",
            allow_retries=False,
        ) from error


def _take_away(backend: ServingBackend, model: Model) -> str:
    canary = backend.status(model.name).canary
    if canary is None:
        return f"{model.name} has no canary"
    backend.set_canary_percent(model.name, canary.version, 0.0)
    return f"the traffic was taken away from version {canary.version}"


# Housekeeping of the lake, once a day.


def maintenance(models: Sequence[Model]) -> dg.Definitions:
    """The job `lake_maintenance` and its schedule."""

    @dg.op(description="Compact small files, expire old snapshots, forget halves that will never be paired.")
    def tidy_lake(context: dg.OpExecutionContext, lake: LakeResource, settings: SettingsResource) -> None:
        held, places = lake.get(), settings.get()
        for model in models:
            expired = expire_unpaired(held, model.name)
            removed = [
                remove_loaded(held, model.name, source, folder / model.name)
                for source, folder in (
                    ("predictions", places.prediction_log),
                    ("outcomes", places.outcomes),
                )
            ]
            context.log.info(
                f"{model.name}: {expired} halves expired, {sum(removed)} loaded segments removed"
            )
        context.log.info(str(maintain(held)))

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
