"""A version is promoted, and begins to fail at a random time of its bake -> the previous champion has all traffic.

Several models bake at once, each with traffic of its own: 2 % of it is the holdback, and what the new version does not answer
well the previous one is asked for once more. As at the boundary, the harm's boundary is found in the prediction log, with
the bake's part of the error budget; restored is when Envoy has confirmed the routes and the ledger has the outcome.
"""

import argparse
import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.rollback_parts.boundary import (
    P50_LIMIT_S,
    P99_LIMIT_S,
    await_end,
    client_failures,
    crossed,
    gateway_alone,
    live,
    tell_failures,
)
from benchmarks.rollback_parts.rows import NotMeasurable, Row, percentiles, row, seconds
from pipelines.core.rollout.policy import Policy
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.harm_budget import harm_boundary
from resources.serving.embedded.supervisor import wait_until
from tests.support.answer_log import logged_answers
from tests.support.chaos import judged
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop, sent_at

MODELS = ("one", "two", "three")

BAKE = timedelta(minutes=10)

LATEST_S = 90.0
"""Harm begins up to this long after the promotion."""

PATIENCE_S = 240.0


@dataclass(frozen=True, kw_only=True)
class Restored:
    """One bake that harm ended; seconds."""

    rollout: str
    baked: float
    """From the promotion to the harm."""
    harm_to_restored: float
    boundary_to_restored: float
    harmed: int
    """Live requests that the new version did not answer well."""
    answered_after: int
    """Live requests that were sent after the previous champion had all traffic, and reached it."""


def rows(given: argparse.Namespace) -> list[Row]:
    """Of as many bakes as `given.bakes`."""
    draw, measured = random.Random(given.seed), list[Restored]()
    rounds = -(-given.bakes // len(MODELS))
    with light_platform(MODELS, bake=f"{BAKE.seconds}s") as platform, ExitStack() as stack:
        alone = gateway_alone(platform, MODELS[0])
        loops = [OpenLoop(platform.settings, model, given.rate / len(MODELS)) for model in MODELS]
        for loop in loops:
            stack.enter_context(loop.running())
        for number in range(1, rounds + 1):
            measured += one_round(platform, draw, fail_share=1.0)
            for each in measured[-len(MODELS) :]:
                print(f"{number}/{rounds}: {asdict(each)}", flush=True)
    for loop in loops:
        tell_failures(loop)
    return in_rows(measured, alone, loops)


def one_round(platform: LightPlatform, draw: random.Random, *, fail_share: float) -> list[Restored]:
    """Every model's next version, promoted and then harmful."""
    harms = {model: platform.settings.home / f"harm-{model}-{time.time_ns()}" for model in MODELS}
    opened = {
        model: promoted(platform, model, fail_share=fail_share, once=str(harms[model])) for model in MODELS
    }
    timers = [threading.Timer(draw.uniform(0.0, LATEST_S), harm.touch) for harm in harms.values()]
    for timer in timers:
        timer.start()
    for timer in timers:
        timer.join()
    found = [watch(platform, opened[model], harms[model]) for model in MODELS]
    for rollout_id in opened.values():
        await_end(platform, rollout_id)
    return found


def promoted(platform: LightPlatform, model: str, **behaviour: Any) -> str:
    """A rollout whose bake has begun."""
    version = str(int(platform.systems.registry.versions(model)[0].version) + 1)
    artefact = platform.register(model, version, **behaviour)
    policy = Policy.of(platform.systems.catalogue.model(model).rollout)
    rollout_id = platform.open(model, artefact, min_duration=timedelta(0))
    passed = [judged(name, Verdict.PASS) for name in (*policy.required, *policy.required_to_promote)]
    platform.controller.record(rollout_id, passed)
    platform.controller.drive(rollout_id)
    if platform.state(rollout_id).phase is not Phase.BAKING:
        raise NotMeasurable(f"{rollout_id} does not bake: {platform.state(rollout_id).last}")
    return rollout_id


def watch(platform: LightPlatform, rollout_id: str, harm: Path) -> Restored:
    """Wait until the previous champion has all traffic, and read back when what happened."""
    if not wait_until(
        lambda: restored(platform.state(rollout_id)) is not None, seconds=PATIENCE_S, every=0.25
    ):
        raise NotMeasurable(f"{rollout_id}: the previous champion was not restored within {PATIENCE_S:g} s")
    state = platform.state(rollout_id)
    safe = restored(state)
    assert safe is not None
    time.sleep(1)  # whatever still reaches the version is in its log by then
    began = bake_began(state)
    answers = [
        each
        for each in logged_answers(platform.settings, state.model)
        if live(each, state) and each.responded_at >= began
    ]
    new = [each for each in answers if each.version == state.version]
    failed = [each.requested_at for each in new if each.status != 200]
    manifest = platform.systems.catalogue.model(state.model).rollout
    boundary = crossed(state, answers, harm_boundary(manifest, baking=True))
    return Restored(
        rollout=rollout_id,
        baked=seconds(began, datetime.fromtimestamp(harm.stat().st_mtime, UTC)),
        harm_to_restored=seconds(min(failed), safe),
        boundary_to_restored=seconds(boundary, safe),
        harmed=len(failed),
        answered_after=sum(sent_at(each.request_id) > safe.timestamp() for each in new),
    )


def bake_began(state: RolloutState) -> datetime:
    """When the version got all traffic but the holdback."""
    return max(state.weights, key=lambda weight: weight.percent).at


def restored(state: RolloutState) -> datetime | None:
    """When the previous champion had all traffic again."""
    last = state.weights[-1]
    return last.at if last.percent == 0 else None


def in_rows(measured: Sequence[Restored], alone: Sequence[float], loops: Sequence[OpenLoop]) -> list[Row]:
    """Percentiles, and what must not be."""
    size = f"{len(measured)} bakes"
    return [
        *percentiles(
            f"late harm in a bake: boundary crossed -> the previous champion has all traffic, {size}",
            [each.boundary_to_restored for each in measured],
            {50: P50_LIMIT_S, 99: P99_LIMIT_S},
            reference=alone,
        ),
        *percentiles(
            f"late harm in a bake: first harmful answer -> the previous champion has all traffic, {size},"
            f" {loops[0].rate:g} requests a second, holdback 2 %",
            [each.harm_to_restored for each in measured],
            {50: None, 99: None},
            reference=alone,
        ),
        row(
            f"late harm in a bake: live requests at the version after it was taken back, {size}",
            sum(each.answered_after for each in measured),
            limit=0,
            unit="requests",
        ),
        client_failures(loops),
    ]
