"""Undo by hand, through the job `<model>_undo` that a person launches in Dagster.

Warm: the version is promoted and bakes; predictors that load no model. From the first line of the job's op, and from the click,
which is the call of Dagster's API that the launchpad makes; between them a run is queued, and forked from the host of runs.

Cold: the version was promoted without a bake, so that the previous champion does not run any more. Real model versions on real
model servers: the job deploys the previous champion from the registry, asks it for its input example, and promotes it. The
reference is a plain `deploy_canary` and `promote` of the same artefact in the same run.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import httpx

from benchmarks.rollback_parts.bake import BAKE, promoted, restored
from benchmarks.rollback_parts.boundary import await_end, gateway_alone
from benchmarks.rollback_parts.logged import logged
from benchmarks.rollback_parts.rows import NotMeasurable, Row, percentile, percentiles, seconds
from pipelines.core.rollout.events import Action, Done, Intent, Order
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase
from pipelines.demo.dagster_api import DagsterApi
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.naming import job_name
from resources.serving.embedded.backend import EmbeddedBackend
from resources.serving.embedded.supervisor import wait_until
from tests.support.light_platform import LightPlatform, light_platform

WARM, COLD, PLAIN = "warm", "cold", "plain"
"""Models: undone in the bake, undone after it, deployed without an undo."""

LIMIT_S = 2.0

PATIENCE_S = 240.0

_RUN = """query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status stepStats { startTime }
  eventConnection { events { ... on ExecutionStepFailureEvent {
    error { message } failureMetadata { description } } } } } } }"""


class Clicked(NamedTuple):
    """One run of the job."""

    at: datetime
    first_line: datetime


def rows(given: argparse.Namespace) -> list[Row]:
    """Of as many undos of each kind as `given.undos`."""
    with light_platform([WARM], idle=[COLD, PLAIN], bake=f"{BAKE.seconds}s") as platform:
        alone = gateway_alone(platform, WARM)
        api = DagsterApi(platform.systems.links.dagster)
        warm = [warm_undo(platform, api) for _ in range(given.undos)]
        real = RealModels(platform)
        cold = [real.cold_undo(api) for _ in range(given.undos)]
        plain = [real.plain_deploy(number) for number in range(given.undos)]
    return in_rows(warm, alone, cold, plain)


class Undone(NamedTuple):
    """Seconds until the previous champion had all traffic."""

    from_line: float
    from_click: float


def warm_undo(platform: LightPlatform, api: DagsterApi) -> Undone:
    """Promote the next version, and undo that within its bake."""
    rollout_id = promoted(platform, WARM)
    clicked = click_undo(platform, api, WARM)
    safe = restored(platform.state(rollout_id))
    if safe is None:
        raise NotMeasurable(f"{rollout_id} is not undone: {platform.state(rollout_id).last}")
    await_end(platform, rollout_id)
    return told("warm", Undone(seconds(clicked.first_line, safe), seconds(clicked.at, safe)))


def click_undo(platform: LightPlatform, api: DagsterApi, model: str) -> Clicked:
    """Launch the job and wait for its success."""
    at = datetime.now(UTC)
    run = api.launch(job_name(model, "undo"), _config(model))
    ended = ("SUCCESS", "FAILURE", "CANCELED")
    if not wait_until(lambda: api.run_status(run) in ended, seconds=PATIENCE_S, every=0.2):
        raise NotMeasurable(f"{model}_undo did not end within {PATIENCE_S:g} s")
    url = f"{platform.systems.links.dagster}/graphql"
    answer = httpx.post(url, json={"query": _RUN, "variables": {"id": run}}, trust_env=False, timeout=30)
    found = answer.json()["data"]["runOrError"]
    if found["status"] != "SUCCESS":
        failures = [event for event in found["eventConnection"]["events"] if event]
        raise NotMeasurable(f"{model}_undo: {found['status']}: {failures}")
    return Clicked(at, datetime.fromtimestamp(found["stepStats"][0]["startTime"], UTC))


def _config(model: str) -> dict[str, Any]:
    op = f"{job_name(model, 'undo')}_order"
    return {"ops": {op: {"config": {"by": "bench", "reason": "the benchmark goes back"}}}}


class RealModels:
    """What is served by model servers as the platform itself starts them."""

    def __init__(self, platform: LightPlatform) -> None:
        self._platform, self._registry = platform, platform.systems.registry
        services = {model.name: model.service for model in platform.systems.catalogue.models}
        self._backend = EmbeddedBackend(platform.settings, services)
        home = platform.settings.home
        self._controller = Controller(
            platform.systems.ledger, self._backend, self._registry, home=home, by="bench"
        )
        self._logged = logged(platform.settings.mlflow_uri)
        for model in (COLD, PLAIN):
            platform.register_logged(model, **self._logged)
            self._deployed(model, "1")
            self._registry.set_alias(model, "champion", "1")
        self._next_version(PLAIN)

    def _deployed(self, model: str, version: str) -> None:
        artefact = self._registry.artefact(model, version)
        self._backend.deploy_canary(model, artefact, percent=0.0, salt="bench")
        self._backend.promote(model, version)

    def _next_version(self, model: str) -> str:
        return self._platform.register_next(model, **self._logged)

    def plain_deploy(self, number: int) -> float:
        """Seconds of a deployment and promotion of the same artefact, for which nobody asks the ledger or Dagster."""
        version = "2" if number % 2 == 0 else "1"
        self._registry.artefact(PLAIN, version)
        begun = time.perf_counter()
        self._deployed(PLAIN, version)
        return told("plain", round(time.perf_counter() - begun, 3))

    def cold_undo(self, api: DagsterApi) -> Undone:
        """Promote the next version without a bake, and undo that when the previous one has stopped."""
        champion = self._champion()
        artefact = self._registry.artefact(COLD, self._next_version(COLD))
        manifest = self._platform.systems.catalogue.model(COLD).rollout
        policy = replace(Policy.of(manifest), validate=False, bake=timedelta(0))
        rollout_id = self._controller.start(manifest, artefact.version, champion, artefact, policy=policy)
        self._controller.drive(rollout_id)
        self._controller.command(rollout_id, Order.FORCE_PROMOTE, by="bench", reason="to be undone")
        self._controller.drive(rollout_id)
        # A run of the platform may be the one that carries it out.
        ended = wait_until(lambda: self._ended(rollout_id), seconds=PATIENCE_S, every=0.2)
        if not ended or self._champion() == champion:
            raise NotMeasurable(f"{rollout_id} is not promoted: {self._controller.state(rollout_id).last}")
        clicked = click_undo(self._platform, api, COLD)
        safe = self._promoted_at()
        return told("cold", Undone(seconds(clicked.first_line, safe), seconds(clicked.at, safe)))

    def _ended(self, rollout_id: str) -> bool:
        return self._controller.state(rollout_id).phase is Phase.ENDED

    def _champion(self) -> str:
        stable = self._backend.status(COLD).stable
        assert stable is not None
        return stable.version

    def _promoted_at(self) -> datetime:
        """When the last rollout's promotion was in force, by the ledger."""
        ledger = self._platform.systems.ledger
        events = ledger.events(ledger.rollouts(COLD)[-1].rollout_id)
        wanted = {e.action_id for e in events if isinstance(e, Intent) and e.action is Action.PROMOTE}
        return next(e.at for e in events if isinstance(e, Done) and e.action_id in wanted)


def told(what: str, found: Any) -> Any:
    """Itself, said."""
    print(f"{what}: {found}", flush=True)
    return found


def in_rows(
    warm: Sequence[Undone], alone: Sequence[float], cold: Sequence[Undone], plain: Sequence[float]
) -> list[Row]:
    """Percentiles."""
    free, deploy = (
        {50: None, 99: None},
        "a plain deploy_canary and promote of the same artefact, same percentile",
    )
    above = {p: round(percentile(plain, p) + LIMIT_S, 3) for p in (50, 99)}
    size = f"{len(warm)} undos"
    return [
        *percentiles(
            f"undo by hand in the bake: the op's first line -> previous champion has all traffic, {size}",
            [each.from_line for each in warm],
            {50: LIMIT_S, 99: LIMIT_S},
            reference=alone,
        ),
        *percentiles(
            f"undo by hand in the bake: the click in Dagster -> previous champion has all traffic, {size}",
            [each.from_click for each in warm],
            free,
            reference=alone,
        ),
        *percentiles(
            f"undo by hand after the bake: the op's first line -> previous champion serves, {size}",
            [each.from_line for each in cold],
            above,
            reference=plain,
            reference_is=deploy,
        ),
        *percentiles(
            f"undo by hand after the bake: the click in Dagster -> previous champion serves, {size}",
            [each.from_click for each in cold],
            free,
            reference=plain,
            reference_is=deploy,
        ),
    ]
