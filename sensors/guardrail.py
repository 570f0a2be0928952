"""Rolls back by itself: watches the serving side's counters inside its tick, and where a process takes over from another."""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorStatus

from pipelines.core.manifest.load import Model
from pipelines.reports.metadata import decision_metadata
from pipelines.rollouts.canary_watch import POLL, RolledBack
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.naming import key
from pipelines.rollouts.standing_watch import GRACE, StandingWatch, Watched
from resources.configured import LedgerResource, LinksResource, ServingResource
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.notifier import contained, in_words, say
from resources.serving.contract import LEASE
from sensors.ticks import TICK

log = logging.getLogger(__name__)

NAME = "guardrail_sensor"


def watch_at_once(watch: StandingWatch, connect: Callable[[], Watched]) -> None:
    """Watch as from a first tick on, before there is one: whoever watched until now is about to end.

    Not where somebody has turned the sensor off: a process that is started again and again must not go on in its place.
    """
    if _is_off():
        say(log, logging.WARNING, f"{NAME} is off: no canary is watched")
        return
    watch.keep(connect, TICK + GRACE)


def await_watch(watch: StandingWatch) -> None:
    """Until it has looked once. Before that the definitions are not there, and whoever watched until now goes on; a system
    that does not answer holds them up no longer than a lease."""
    watch.await_look(LEASE)


def _is_off() -> bool:
    try:
        with dg.DagsterInstance.get() as instance:
            states = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    except Exception as error:  # noqa: BLE001 -- whatever it is: not known to be off, it is on
        say(log, logging.WARNING, f"Dagster does not say whether {NAME} is on: {in_words(error)}")
        return False
    return any(each.instigator_name == NAME and each.status is InstigatorStatus.STOPPED for each in states)


def guardrail_sensor(
    models: Sequence[Model],
    *,
    watch: StandingWatch | None = None,
    tick: timedelta = TICK,
    grace: timedelta = GRACE,
) -> dg.SensorDefinition:
    """Watches every model's open rollout and rolls it back at once.

    One sensor for all models. The watch stands on a thread of its own, so that it has no gap between two ticks: a tick
    keeps it on for `grace` after its end, and tells what was rolled back since the last one. `watch`: one that may be on
    already.
    """
    standing = watch or StandingWatch(models)

    @dg.sensor(
        name=NAME,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Watches every canary while it takes traffic, several times a second, and takes the traffic away from it"
            " the moment a guardrail's evidence crosses its boundary. It acts here, without waiting for a run; the"
            " run that follows restores the spec and tags the registry. Switched off, it stops watching within two minutes,"
            " and every canary loses its share soon after."
        ),
    )
    def sensor(
        context: dg.SensorEvaluationContext,
        ledger: LedgerResource,
        serving: ServingResource,
        controller: ControllerResource,
        links: LinksResource,
    ) -> dg.SkipReason | dg.SensorResult:
        with contained(ledger.get(), context.log, where="the guardrail sensor") as trouble:
            of = Watched(ledger=ledger.get(), backend=serving.get(), controller=controller.get())
            standing.keep(lambda: of, tick + grace, context.log)
            done = _watched(standing, tick)
            if not done:
                return dg.SkipReason(standing.said or "no canary takes traffic")
            events = [_event(context, of.ledger, of.controller, links.get(), each) for each in done]
            return dg.SensorResult(asset_events=events)
        return dg.SkipReason(trouble.words)

    return sensor


def _watched(watch: StandingWatch, tick: timedelta) -> list[RolledBack]:
    """What was rolled back, as soon as there is something; nothing at the end of the tick."""
    until = time.monotonic() + tick.total_seconds()
    try:
        while not (done := watch.news()) and time.monotonic() < until:
            time.sleep(POLL.total_seconds())
    finally:
        watch.rest()
    return done


def _event(
    context: dg.SensorEvaluationContext,
    ledger: Ledger,
    controller: Controller,
    links: Links,
    done: RolledBack,
) -> dg.AssetMaterialization:
    """Told in any case: what cannot be read of the rollout now is missing beside it."""
    metadata: dict[str, dg.MetadataValue] = {}
    with contained(ledger, context.log, where=f"telling of {done.rollout_id}", model=done.model):
        metadata = decision_metadata(links, controller.state(done.rollout_id), done.decision)
    return dg.AssetMaterialization(
        asset_key=key(done.model, "rollout"), description=done.decision.reason, metadata=metadata
    )
