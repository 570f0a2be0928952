"""What happens in the demo, act by act. The acts do what an ML team does; the platform does the rest by itself."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.core.errors import RampgateError
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Event
from pipelines.demo.console import Console
from pipelines.demo.dagster_api import DagsterApi
from pipelines.platform.systems import Systems
from pipelines.rollouts.naming import slug

POLL_SECONDS = 0.5

_OVER = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True, kw_only=True)
class Act:
    """One version's part in the story."""

    title: str
    params: Mapping[str, Any]
    """What it is trained with."""
    end: str
    """How its rollout should end."""
    patience_seconds: float


ACTS = (
    Act(
        title="v1, trained on January to March, becomes the first champion",
        params={"months": [1, 2, 3]},
        end="promoted",
        patience_seconds=300,
    ),
    Act(
        title="v2, trained on January to May, is good: ramped up, promoted, and watched while v1 stays warm",
        params={"months": [1, 2, 3, 4, 5], "seed": 1},
        end="promoted",
        patience_seconds=900,
    ),
    Act(
        title="v3 knows one airport's destinations only: it fails on part of what it is asked",
        params={"months": [1, 2, 3, 4, 5], "origin": "LGA", "unknown_categories": "error"},
        end="rolled_back",
        patience_seconds=600,
    ),
    Act(
        title="v4 answers everything, but cries wolf: the business pays for it",
        params={"months": [1, 2, 3, 4, 5], "late_weight": 30},
        end="rolled_back",
        patience_seconds=900,
    ),
)


class DemoStory:
    """Tells the acts one after the other. Everything it does, a person could do in Dagster's or MLflow's UI."""

    def __init__(self, systems: Systems, model: Model, console: Console) -> None:
        self._systems, self._model, self._console = systems, model, console
        self._dagster = DagsterApi(systems.links.dagster)

    def train(self, act: Act) -> str:
        """Launch the training job and wait for it; returns the new version."""
        before = {info.version for info in self._systems.registry.versions(self._model.name)}
        op = f"{slug(self._model.name)}__model_version"
        config = {"ops": {op: {"config": {"params": dict(act.params), "challenger": False}}}}
        run_id = self._dagster.launch(f"{slug(self._model.name)}_train", config)
        self._await_run(run_id)
        new = [
            i.version for i in self._systems.registry.versions(self._model.name) if i.version not in before
        ]
        if len(new) != 1:
            raise RampgateError(f"training {act.title!r} registered {new or 'no version'}, expected one")
        self._console.event(f"v{new[0]} is registered in MLflow, trained with {dict(act.params)}")
        return new[0]

    def challenge(self, version: str) -> None:
        """Give the version the alias that starts its rollout: what the ML team does, and all that it does."""
        self._systems.registry.set_alias(self._model.name, "challenger", version)
        self._console.event(f"v{version} is given the alias `challenger`")

    def until_ended(self, version: str, act: Act) -> None:
        """Say what the ledger says until the version's rollout has ended as it should."""
        deadline = time.monotonic() + act.patience_seconds
        told = 0
        while time.monotonic() < deadline:
            row = self._systems.ledger.latest(self._model.name)
            if row is not None and row.version == version:
                events = self._systems.ledger.events(row.rollout_id)
                self._tell(events[told:])
                told = len(events)
                if row.ended_at is not None:
                    return self._check(act, version, str(row.end))
            self._console.wait()
            time.sleep(POLL_SECONDS)
        raise RampgateError(
            f"v{version} has not ended after {act.patience_seconds:g} s: {self._where(version)}"
        )

    def _check(self, act: Act, version: str, end: str) -> None:
        if end != act.end:
            raise RampgateError(f"v{version} ended {end}, the story has it {act.end}: {self._where(version)}")

    def _where(self, version: str) -> str:
        row = self._systems.ledger.latest(self._model.name)
        if row is None or row.version != version:
            return "its rollout has not started; see the challenger sensor in the Dagster UI"
        last = self._systems.controller.state(row.rollout_id).last
        return "nothing was decided yet" if last is None else f"{last.decision.kind}: {last.decision.reason}"

    def _await_run(self, run_id: str) -> None:
        while (status := self._dagster.run_status(run_id)) not in _OVER:
            self._console.wait()
            time.sleep(POLL_SECONDS)
        if status != "SUCCESS":
            raise RampgateError(f"the run {self._systems.links.run(run_id)} ended {status}")

    def _tell(self, events: Sequence[Event]) -> None:
        for line in in_words(events):
            self._console.event(line)


def in_words(events: Sequence[Event]) -> Iterator[str]:
    """One line for each event that a person wants to see."""
    for event in events:
        match event.kind:
            case "started":
                yield f"v{event.version}: rollout {event.rollout_id} started"
            case "refused":
                yield f"v{event.version}: refused before any traffic: {event.reason}"
            case "intent" if event.action == "bake":
                yield f"  about to promote it: {event.percent:g} % of the traffic, and the alias `champion`"
            case "intent":
                share = "" if event.percent is None else f" {event.percent:g} %"
                yield f"  about to {event.action.replace('_', ' ')}{share}"
            case "lapsed":
                what = "copy of the traffic" if event.mirror else f"share of {event.percent:g} %"
                yield f"  its {what} was taken away: {event.reason}"
            case "decided" if event.decision.rule == "baking":
                yield f"  baking: {event.decision.reason}"
            case "decided" if event.decision.kind not in ("continue", "hold"):
                yield f"  DECIDED {event.decision.kind.replace('_', ' ')}: {event.decision.reason}"
            case "decided" if event.decision.kind == "hold":
                yield f"  holding: {event.decision.reason}"
            case "failed":
                yield f"  failed, will be tried again: {event.message}"
            case "ended":
                yield f"  ENDED {event.end.replace('_', ' ')}"
            case _:
                continue
