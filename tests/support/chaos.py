"""What the tests that kill processes do, and what they count."""

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from pipelines.core.rollout.events import Action, Decided, Event, Failed, Intent, Lapsed
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.platform.parts import parts
from pipelines.rollouts.open_rollout import open_rollout
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Supervisor, wait_until
from tests.support.answer_log import logged_answers
from tests.support.light_platform import LightPlatform
from tests.support.open_loop import OpenLoop

MODEL = "chaos"

PATIENCE_S = 150.0

_versions = count(2)


def begin(platform: LightPlatform, **behaviour: Any) -> str:
    """A rollout of a new version at 10 %."""
    take_back_leftover(platform)
    champion = platform.backend.status(MODEL).stable
    assert champion is not None
    artefact = platform.register(MODEL, str(next(_versions)), **behaviour)
    return platform.open(MODEL, artefact, champion=champion.version, min_duration=timedelta(0))


def take_back_leftover(platform: LightPlatform) -> None:
    """A rollout that an earlier test left open must not fail the next one."""
    left = open_rollout(platform.systems.ledger, MODEL)
    if left is not None:
        platform.controller.roll_back_now(left.rollout_id, "left over", by="test", ordered=True)
        platform.controller.drive(left.rollout_id)


def until(platform: LightPlatform, rollout_id: str, reached: Callable[[RolloutState], bool]) -> RolloutState:
    """Wait for it; says what the ledger has where it does not come."""
    there = wait_until(lambda: reached(platform.state(rollout_id)), seconds=PATIENCE_S, every=0.1)
    assert there, "\n".join(map(in_short, platform.systems.ledger.events(rollout_id)))
    return platform.state(rollout_id)


def in_short(event: Event) -> str:
    told = ("action", "action_id", "percent", "message", "order", "decision")
    words = {name: str(getattr(event, name))[:300] for name in told if hasattr(event, name)}
    return f"{event.seq} {event.at:%H:%M:%S.%f} {event.by} {event.kind} {words}"


def pid_of(platform: LightPlatform, victim: str) -> tuple[str, int]:
    """Supervisord's name of the victim, and its process id; of a revision, its first replica."""
    status = platform.backend.status(MODEL)
    revision = {"stable": status.stable, "canary": status.canary}.get(victim)
    name = victim if revision is None else revision.name
    processes = Supervisor(Layout(platform.settings.home).socket).processes()
    found = next(process for known, process in processes.items() if known.partition(".")[0] == name)
    return found.name, found.pid


def signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    """Those that are gone meanwhile were ended by whoever starts them again."""
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def share_of(platform: LightPlatform) -> float:
    """The canary's share as the serving side has it, in percent."""
    canary = platform.backend.status(MODEL).canary
    return 0.0 if canary is None else canary.percent


def lapses_of(platform: LightPlatform, rollout_id: str) -> list[Lapsed]:
    """The lapses that the ledger knows of."""
    return [event for event in platform.systems.ledger.events(rollout_id) if isinstance(event, Lapsed)]


def rules_of(platform: LightPlatform, rollout_id: str) -> list[str]:
    """By which rules was decided, in order."""
    events = platform.systems.ledger.events(rollout_id)
    return [event.decision.rule for event in events if isinstance(event, Decided)]


def works_again(platform: LightPlatform, name: str, pid: int) -> bool:
    """Another process under that name, and it does what it is for; or nobody wants it any more."""
    process = Supervisor(Layout(platform.settings.home).socket).processes().get(name)
    if process is None:
        return True
    if process.pid in (0, pid) or process.state != "RUNNING":
        return False
    part = next((part for part in parts(platform.settings) if part.name == name), None)
    return part is None or part.trouble() is None


def report(test: str, platform: LightPlatform, clients: OpenLoop, **found: Any) -> dict[str, Any]:
    """Lost: answered to a client and not in the log.

    Twice: logged by two predictors, because the gateway asked a second one when the first did not answer in time.
    The lake keeps one of them, and a test below counts that.
    """
    answered = set(clients.answered)
    good = [each.request_id for each in logged_answers(platform.settings, MODEL) if each.status == 200]
    twice = answered & {identity for identity, times in Counter(good).items() if times > 1}
    numbers = {
        "test": test,
        "sent": clients.sent,
        "client_failures": len(clients.failures),
        "lost": len(answered - set(good)),
        "logged_twice": len(twice),
        "slowest_answer_s": round(clients.slowest, 2),
        **found,
        "errors": sorted({failure.error for failure in clients.failures})[:3],
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(numbers))
    return numbers


def judged(name: str, verdict: Verdict) -> Evidence:
    """Evidence that lasts for as long as a test, as looks would renew it."""
    return Evidence(
        name=name,
        source="experiment",
        verdict=verdict,
        reason="the test says so",
        at=datetime.now(UTC),
        on_fail=OnFail.ROLL_BACK,
        valid_for=timedelta(hours=1),
    )


def end_of(platform: LightPlatform, rollout_id: str, phase: str) -> None:
    """Give the evidence on which the platform itself promotes the version, or takes it back."""
    if phase == "promoting":
        evidence = [judged("errors", Verdict.PASS), judged("cost", Verdict.PASS)]
    else:
        evidence = [judged("errors", Verdict.FAIL)]
    platform.controller.record(rollout_id, evidence)


def registration_failed(platform: LightPlatform, state: RolloutState) -> bool:
    events = platform.systems.ledger.events(state.rollout_id)
    wanted = {e.action_id for e in events if isinstance(e, Intent) and e.action is Action.REGISTER}
    return any(isinstance(event, Failed) and event.action_id in wanted for event in events)
