"""Rolls back by itself: watches the serving side's counters inside its tick."""

import time
from collections.abc import Sequence
from datetime import timedelta

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.reports.metadata import decision_metadata
from pipelines.rollouts.canary_watch import POLL, OpenRows, RolledBack, Strays, Watcher
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.naming import key
from resources.configured import LedgerResource, LinksResource, ServingResource
from resources.ledger.ledger import Ledger
from resources.links import Links
from resources.notifier import contained
from sensors.ticks import TICK


def guardrail_sensor(models: Sequence[Model], *, tick: timedelta = TICK) -> dg.SensorDefinition:
    """Watches every model's open rollout and rolls it back inside the tick.

    One sensor for all models: a tick that watches occupies one of the daemon's threads all the time.
    """

    # Kept from tick to tick: reading a long rollout's counters back takes longer than a tick should.
    watchers: list[Watcher] = []
    strays: list[Strays] = []
    rows: list[OpenRows] = []

    @dg.sensor(
        name="guardrail_sensor",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=(
            "Watches every canary while it takes traffic, several times a second, and takes the traffic away from it"
            " the moment a guardrail's evidence crosses its boundary. It acts here, without waiting for a run; the"
            " run that follows restores the spec and tags the registry."
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
            told, drives, backend = ledger.get(), controller.get(), serving.get()
            if not strays or strays[0].controller is not drives:
                watchers[:] = [Watcher(told, backend, drives, model) for model in models]
                rows[:] = [OpenRows(told)]
                strays[:] = [Strays(told, drives, {model.name for model in models})]
        if trouble.words:
            return dg.SkipReason(trouble.words)
        for watcher in watchers:
            watcher.begin(context.log)
        rows[0].begin(context.log)
        until = time.monotonic() + tick.total_seconds()
        while time.monotonic() < until:
            strays[0].poll(context.log)
            row_of = rows[0].by_model()
            polled = (watcher.poll(row_of.get(watcher.model)) for watcher in watchers)
            done = [rolled_back for rolled_back in polled if rolled_back is not None]
            if done:
                return dg.SensorResult(
                    asset_events=[
                        _event(context, ledger.get(), controller.get(), links.get(), each) for each in done
                    ]
                )
            time.sleep(POLL.total_seconds())
        for watcher in watchers:
            watcher.leave()
        said = [watcher.said for watcher in watchers if watcher.said]
        return dg.SkipReason("; ".join(said) or "no canary takes traffic")

    return sensor


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
