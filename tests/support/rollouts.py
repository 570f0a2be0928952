"""A controller on a ledger file and a world in memory, with a clock that tests move."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.decide import decide
from pipelines.core.rollout.events import Decided, Event
from pipelines.core.rollout.fold import fold
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict
from pipelines.rollouts.controller import Controller
from resources.ledger.ledger import Ledger
from resources.serving.contract import ModelArtefact
from tests.support.memory_backend import Hook, MemoryBackend, MemoryRegistry, World

MODEL = "flight-delay"

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)

MINUTE = timedelta(minutes=1)


@dataclass
class Clock:
    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def tick(self, duration: timedelta = MINUTE) -> None:
        self.now += duration


def manifest(**changes: Any) -> RolloutManifest:
    """A manifest with one guardrail; `changes` replace its top-level keys."""
    return RolloutManifest.model_validate(
        {
            "model": MODEL,
            "steps": [10, 50, 100],
            "experiment": {
                "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"}
            },
            "guardrails": [
                {"name": "errors", "type": "proportion", "source": "serving.errors", "margin": "0.5pp"}
            ],
            "step": {"min_duration": "0s", "min_units": 0},
            "bake": "0s",
        }
        | changes
    )


def artefact(version: str) -> ModelArtefact:
    return ModelArtefact(model=MODEL, version=version, uri=f"models/{version}", digest=f"sha-{version}")


def evidence(name: str, verdict: Verdict, at: datetime, **fields: Any) -> Evidence:
    """Guardrail `errors` rolls back, `cost` is needed to promote, anything else holds."""
    defaults: dict[str, Any] = {"source": "experiment", "reason": f"{name} is {verdict}"}
    if name == "errors":
        defaults |= {"source": "serving", "on_fail": OnFail.ROLL_BACK}
    if name == "cost":
        defaults |= {"needed_for": NeededFor.PROMOTE, "on_fail": OnFail.ROLL_BACK}
    if name == "validation":
        defaults |= {"source": "validation"}
    return Evidence(name=name, verdict=verdict, at=at, **(defaults | fields))


def good(at: datetime) -> tuple[Evidence, ...]:
    return tuple(evidence(name, Verdict.PASS, at) for name in ("errors", "cost", "validation"))


def harmful(at: datetime) -> tuple[Evidence, ...]:
    return (evidence("errors", Verdict.FAIL, at),)


@dataclass
class Rig:
    """Everything one test needs."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    world: World = field(default_factory=World)

    def controller(self, hook: Hook | None = None, ledger: Ledger | None = None) -> Controller:
        """A fresh controller on the same ledger, serving side and registry."""
        kwargs = {} if hook is None else {"hook": hook}
        return Controller(
            ledger or self.ledger,
            MemoryBackend(self.world, **kwargs),
            MemoryRegistry(self.world, **kwargs),
            home=self.folder,
            clock=self.clock,
        )

    @property
    def ledger(self) -> Ledger:
        return Ledger(f"sqlite:///{self.folder / 'ledger.db'}")

    def start(self, version: str = "2", champion: str | None = "1", **changes: Any) -> str:
        """Open a rollout of this version beside a serving champion."""
        if champion is not None and self.world.of(MODEL).stable is None:
            self.world.serving(MODEL, champion)
        self.world.aliases[MODEL, "challenger"] = version
        return self.controller().start(manifest(**changes), version, champion, artefact(version))

    def share(self, version: str = "2") -> float:
        return self.world.share(MODEL, version)


def replay(events: tuple[Event, ...]) -> int:
    """Take every decision again from what was known before it; returns how many there were."""
    count = 0
    for index, event in enumerate(events):
        if isinstance(event, Decided):
            again = decide(fold(events[:index]), event.evidence, event.at)
            assert repr(again) == repr(event.decision), f"seq {event.seq} is decided differently"
            count += 1
    return count


def until(
    controller: Controller, rollout_id: str, clock: Clock, give: Callable[[datetime], tuple[Evidence, ...]]
):
    """Drive minute by minute, with this evidence, until the rollout ends; returns the state."""
    for _ in range(60):
        controller.drive(rollout_id, give(clock.now))
        state = controller.state(rollout_id)
        if state.end is not None:
            return state
        clock.tick()
    raise AssertionError(f"{rollout_id} does not end: {controller.state(rollout_id)}")
