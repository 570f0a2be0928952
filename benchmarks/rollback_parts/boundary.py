"""The boundary is crossed -> 0 %: over rollbacks that the daemon's guardrail sensor is left to find.

For each rollback a rollout is opened and a canary that fails a share of its requests gets 10 % of an open loop's traffic.
The reference is the gateway alone: how long `set_canary_percent(0)` takes when there is nothing to find out.

The boundary is where the answers in the prediction log, in buckets of 0.2 s, carry the guardrail's own e-process across
it; 0 % is where Envoy has confirmed the routes and the ledger has the outcome.
"""

import argparse
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby

from benchmarks.rollback_parts.rows import NotMeasurable, Row, percentiles, row, seconds
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.demo.measurements import BUCKET_SECONDS
from pipelines.rollouts.harm_budget import harm_boundary
from resources.serving.embedded.supervisor import wait_until
from tests.support.answer_log import Logged, logged_answers
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop, sent_at

P50_LIMIT_S, P99_LIMIT_S = 0.5, 2.0

MODELS = ["one", "two", "three"]
"""Taken in turn: the run that restores one model's spec goes on while the next rollout is under way."""

PHASES = 10

LONGEST_PAUSE_S = 4.0
"""Rollouts begin at any moment between two polls, renewals and looks at the ledger."""

PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """One measured rollback; seconds."""

    rollout: str
    harm_to_safe: float
    boundary_to_safe: float
    decided_to_safe: float
    boundary_to_last_answer: float
    """To the canary's last answer to live traffic; negative where the boundary was crossed by the answers in flight."""
    answered_after: int
    """Live requests that were sent after 0 % was confirmed, and reached the canary."""


def rows(given: argparse.Namespace) -> list[Row]:
    """Of as many rollbacks as `given.rollbacks`."""
    models = MODELS[: given.rollbacks]
    with light_platform(models) as platform:
        reference = gateway_alone(platform, models[0])
        clients = OpenLoop(platform.settings, models[0], given.rate)
        with clients.running():
            measured = measure(platform, models, clients, given)
    tell_failures(clients)
    return in_rows(measured, reference, clients)


def tell_failures(clients: OpenLoop) -> None:
    """What callers noticed."""
    for failure in clients.failures:
        print(f"client failure at {datetime.fromtimestamp(failure.at, UTC):%H:%M:%S.%f}: {failure.error}")


def measure(
    platform: LightPlatform, models: Sequence[str], clients: OpenLoop, given: argparse.Namespace
) -> list[Rollback]:
    """One rollback after the other."""
    draw = random.Random(given.seed)
    opened = dict.fromkeys(models, "")
    measured: list[Rollback] = []
    for number in range(given.rollbacks):
        model = models[number % len(models)]
        await_end(platform, opened[model])
        version = str(int(platform.systems.registry.versions(model)[0].version) + 1)
        artefact = platform.register(model, version, fail_share=given.fail_share)
        clients.model = model
        time.sleep(draw.uniform(1.0, LONGEST_PAUSE_S))
        opened[model] = platform.open(model, artefact)
        measured.append(watch(platform, opened[model]))
        print(
            f"{number + 1}/{given.rollbacks}, {len(clients.failures)} client failures: {asdict(measured[-1])}",
            flush=True,
        )
    for rollout_id in opened.values():
        await_end(platform, rollout_id)
    return measured


def watch(platform: LightPlatform, rollout_id: str) -> Rollback:
    """Wait until the daemon's sensor has taken the traffic away, and read back when what happened."""
    if not wait_until(lambda: off(platform.state(rollout_id)) is not None, seconds=PATIENCE_S, every=0.25):
        raise NotMeasurable(f"{rollout_id} was not rolled back within {PATIENCE_S:g} s")
    state = platform.state(rollout_id)
    safe = off(state)
    decided = state.ending
    assert safe is not None and decided is not None
    time.sleep(1)  # whatever still reaches the canary is in its log by then
    answers = [each for each in logged_answers(platform.settings, state.model) if live(each, state)]
    canary = [each for each in answers if each.version == state.version]
    harm = min(each.requested_at for each in canary if each.status != 200)
    boundary = crossed(state, answers, harm_boundary(platform.systems.catalogue.model(state.model).rollout))
    return Rollback(
        rollout=rollout_id,
        harm_to_safe=seconds(harm, safe),
        boundary_to_safe=seconds(boundary, safe),
        decided_to_safe=seconds(decided.at, safe),
        boundary_to_last_answer=seconds(boundary, canary[-1].responded_at),
        answered_after=sum(sent_at(each.request_id) > safe.timestamp() for each in canary),
    )


def off(state: RolloutState) -> datetime | None:
    """When 0 % was confirmed after the canary had had traffic."""
    shares = [weight.percent for weight in state.weights]
    return state.weights[-1].at if any(shares) and shares[-1] == 0 else None


def live(answer: Logged, state: RolloutState) -> bool:
    return answer.assignment == "weighted" and answer.requested_at >= state.started_at


def crossed(state: RolloutState, answers: Sequence[Logged], boundary: float) -> datetime:
    """When the guardrail's e-process, fed with the logged answers, reaches its boundary.

    The watch's polls cut the answers into buckets at moments that no log tells, and an e-value depends a little on them: of
    several ways to cut, the earliest crossing counts, which makes the delay the longest; where none crosses, the last failure. What the champion answered in the
    canary's place is the canary's request, here as in the gateway's counters.
    """
    asked = {each.request_id for each in answers if each.version == state.version}
    first = [each for each in answers if each.version == state.version or each.request_id not in asked]
    found = [_crossed(state, first, boundary, phase=phase / PHASES) for phase in range(PHASES)]
    harmful = [each.responded_at for each in first if each.version == state.version and each.status != 200]
    return min((time for time in found if time is not None), default=harmful[-1])


def _crossed(
    state: RolloutState, answers: Sequence[Logged], boundary: float, *, phase: float
) -> datetime | None:
    process = ConditionalBinomial()
    for _, group in groupby(
        answers, key=lambda each: (each.responded_at.timestamp() / BUCKET_SECONDS + phase) // 1
    ):
        bucket = list(group)
        process = process.observe(counted(bucket, state))
        if process.log_e >= boundary:
            return bucket[-1].responded_at
    return None


def counted(bucket: Sequence[Logged], state: RolloutState) -> Counts:
    canary = [each.status != 200 for each in bucket if each.version == state.version]
    champion = [each.status != 200 for each in bucket if each.version == state.champion]
    return Counts(len(canary), sum(canary), len(champion), sum(champion))


def await_end(platform: LightPlatform, rollout_id: str) -> None:
    """The run that follows restores the spec, tags the version and ends the rollout."""
    if rollout_id and not wait_until(
        lambda: platform.state(rollout_id).phase is Phase.ENDED, seconds=PATIENCE_S, every=0.5
    ):
        raise NotMeasurable(f"{rollout_id} was not restored within {PATIENCE_S:g} s")


def gateway_alone(platform: LightPlatform, model: str, *, times: int = 20) -> list[float]:
    """Seconds of `set_canary_percent(0)` on its own."""
    artefact = platform.register(model, "2")
    platform.backend.deploy_canary(model, artefact, percent=0, salt="reference")
    found: list[float] = []
    for _ in range(times):
        platform.backend.set_canary_percent(model, "2", 10)
        begun = time.perf_counter()
        platform.backend.set_canary_percent(model, "2", 0)
        found.append(time.perf_counter() - begun)
    platform.backend.roll_back(model, "2")
    return found


def in_rows(measured: Sequence[Rollback], alone: Sequence[float], clients: OpenLoop) -> list[Row]:
    """Percentiles, and what must not be."""
    size = f"{len(measured)} rollbacks"
    boundary = [each.boundary_to_safe for each in measured]
    last = [each.boundary_to_last_answer for each in measured]
    harm = [each.harm_to_safe for each in measured]
    free = {50: None, 90: None, 99: None}
    what = "evidence boundary crossed -> 0 % confirmed by Envoy"
    return [
        *percentiles(
            f"{what}, {size}", boundary, {**free, 50: P50_LIMIT_S, 99: P99_LIMIT_S}, reference=alone
        ),
        *percentiles(f"evidence boundary crossed -> last canary answer, {size}", last, free, reference=alone),
        *percentiles(f"first harmful answer -> 0 % confirmed by Envoy, {size}", harm, free, reference=alone),
        row(
            f"live requests at the canary after 0 % was confirmed, {size}",
            sum(each.answered_after for each in measured),
            limit=0,
            unit="requests",
        ),
        client_failures([clients]),
    ]


def client_failures(loops: Sequence[OpenLoop]) -> Row:
    """What callers noticed, in a row."""
    sent, failed = sum(each.sent for each in loops), sum(len(each.failures) for each in loops)
    return row(f"client failures of {sent} requests", failed, limit=0, unit="requests")
