"""One platform, a small model for every mode of the manifest, callers and outcomes: what a team and its users do."""

import asyncio
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from pipelines.core.rollout.alerts import Alert
from pipelines.core.rollout.events import End
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.state import RolloutState
from pipelines.demo.dagster_api import DagsterApi
from pipelines.platform.control import down, up
from pipelines.platform.parts import parts
from pipelines.platform.systems import Systems
from pipelines.rollouts.naming import START_OP, slug
from resources.serving.embedded.supervisor import wait_until
from resources.settings import HOST, ROOT, Settings
from tests.support.ports import free_base

PATIENCE_SECONDS = 420.0

RATE = 6.0
"""Requests a second to each model."""

_ENDED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass
class Callers:
    """Ask each model on a schedule fixed in advance, and tell the outcome of every answer a moment later."""

    settings: Settings
    models: set[str] = field(default_factory=set[str])
    """Those that are asked."""
    plans: dict[str, str] = field(default_factory=dict[str, str])
    """What callers send as `plan`; `old` by default."""
    failures: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    _due: list[tuple[float, str, str]] = field(default_factory=list[tuple[float, str, str]])
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Generator[None]:
        """In a thread of its own."""
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="callers")
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    async def _run(self) -> None:
        pending: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
            start, number = time.time(), 0
            while not self._stop.is_set():
                number += 1
                await asyncio.sleep(max(0.0, start + number / RATE - time.time()))
                for model in sorted(self.models):
                    task = asyncio.create_task(self._ask(client, model))
                    pending.add(task)
                    task.add_done_callback(pending.discard)
                if number % round(RATE) == 0:
                    self._tell()
            await asyncio.gather(*pending)

    async def _ask(self, client: httpx.AsyncClient, model: str) -> None:
        unit = f"u{random.randrange(2000)}"
        x, plan = random.uniform(0.5, 1.5), self.plans.get(model, "old")
        inputs = [
            {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]},
            {"name": "plan", "shape": [1], "datatype": "BYTES", "data": [plan]},
        ]
        headers = {"x-request-id": str(uuid.uuid4()), "x-unit-id": unit}
        url = f"http://{HOST}:{self.settings.ports.gateway}/v2/models/{model}/infer"
        try:
            answer = await client.post(url, json={"inputs": inputs}, headers=headers)
            cost = answer.raise_for_status().json()["outputs"][0]["data"][0]
        except httpx.HTTPError as error:
            self.failures.setdefault(model, []).append(repr(error))
            return
        values = {"cost": cost * random.uniform(0.9, 1.1), "visits": 1.0}
        told = {"id": str(uuid.uuid4()), "key": unit, "at": datetime.now(UTC).isoformat(), "values": values}
        self._due.append((time.time() + 0.5, model, json.dumps(told)))

    def _tell(self) -> None:
        """Closed files, one a second for each model."""
        now, due = time.time(), self._due
        self._due = [item for item in due if item[0] > now]
        ready = [item for item in due if item[0] <= now]
        for model in {model for _, model, _ in ready}:
            folder = self.settings.outcomes / model
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f"{uuid.uuid4()}.tmp"
            unfinished.write_text("".join(f"{line}\n" for _, name, line in ready if name == model))
            unfinished.rename(unfinished.with_suffix(".jsonl"))


@dataclass(frozen=True)
class Stage:
    """The running platform, and what a person would do on it."""

    settings: Settings
    systems: Systems
    callers: Callers

    def register(self, versions: Iterable[Mapping[str, Any]]) -> list[str]:
        """Register versions (`model`, `slope`, `strict`); returns their numbers."""
        told = "".join(f"{json.dumps(version)}\n" for version in versions)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "tests.support.mode_versions"],
            cwd=ROOT,
            env=self._environment(),
            input=told,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.split()

    def _environment(self) -> dict[str, str]:
        return {
            "MLFLOW_TRACKING_URI": self.settings.mlflow_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.settings.home),
        }

    def serve(self, models: Iterable[str]) -> None:
        """Version 1 of each becomes the champion, as if it had been for long."""
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self._serve, models))

    def _serve(self, model: str) -> None:
        artefact = self.systems.registry.artefact(model, "1", local=True)
        self.systems.backend.deploy_canary(model, artefact, percent=0, salt="first")
        self.systems.backend.promote(model, "1")
        self.systems.registry.set_alias(model, "champion", "1")

    def challenge(self, *models: str, version: str = "2") -> None:
        """What a team does: give the version the alias."""
        for model in models:
            self.systems.registry.set_alias(model, "challenger", version)

    def launch(self, model: str, job: str, config: Mapping[str, Any]) -> str:
        """Launch one of the model's jobs as Dagster's UI does; returns the run."""
        with closing(DagsterApi(self.systems.links.dagster)) as api:
            return api.launch(f"{slug(model)}_{job}", dict(config))

    def start_test(self, model: str, version: str = "2") -> None:
        """Launch an A/B test as the documentation says."""
        config = {"version": version, "mode": "ab_test"}
        self.launch(model, "start", {"ops": {START_OP: {"config": config}}})

    def order(self, model: str, order: str) -> str:
        """Give an order and wait for its run; returns how it ended."""
        config = {"ops": {f"{slug(model)}_{order}_order": {"config": {"by": "anna", "reason": "a test"}}}}
        return self.ends(self.launch(model, order, config))

    def ends(self, run: str) -> str:
        """How the run ended."""
        with closing(DagsterApi(self.systems.links.dagster)) as api:
            assert wait_until(lambda: api.run_status(run) in _ENDED, seconds=PATIENCE_SECONDS, every=0.5)
            return api.run_status(run)

    def state(self, model: str) -> RolloutState | None:
        """The model's latest rollout."""
        row = self.systems.ledger.latest(model)
        return None if row is None else fold(self.systems.ledger.events(row.rollout_id))

    def until(self, model: str, reached: Callable[[RolloutState], bool], version: str = "2") -> RolloutState:
        """Wait for the rollout of `version` to be there; says what the ledger has where it does not come."""
        found: list[RolloutState] = []

        def there() -> bool:
            state = self.state(model)
            if state is None or state.version != version or not reached(state):
                return False
            found.append(state)
            return True

        assert wait_until(there, seconds=PATIENCE_SECONDS, every=0.5), self.told(model)
        return found[-1]

    def until_ended(self, model: str, end: End, version: str = "2") -> RolloutState:
        """Wait for the end, which must be this one."""
        state = self.until(model, lambda state: state.end is not None, version)
        assert state.end is end, self.told(model)
        return state

    def told(self, model: str) -> str:
        """The model's latest rollout in words, and the alerts about runs."""
        row = self.systems.ledger.latest(model)
        events = () if row is None else self.systems.ledger.events(row.rollout_id)
        lines = [
            f"{e.seq} {e.at:%H:%M:%S} {e.kind} {str(e.model_dump(exclude_none=True))[:700]}" for e in events
        ]
        return "\n".join([*lines[-12:], *(f"{a.title}: {a.body}" for a in self.alerts("run of "))])

    def alerts(self, words: str) -> list[Alert]:
        """Alerts whose title has these words."""
        return [alert for alert in self.systems.ledger.outbox.all() if words in alert.title]

    def champion(self, model: str) -> str | None:
        """The version that has the alias."""
        found = self.systems.registry.version_with_alias(model, "champion")
        return None if found is None else found.version


@contextmanager
def stage(manifests: Mapping[str, Mapping[str, Any]], service: str) -> Generator[Stage]:
    """The platform with these models, every part up; stopped and removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="rg-", dir="/tmp"))
    for model, manifest in manifests.items():
        folder = home / "manifests" / model
        folder.mkdir(parents=True)
        (folder / "rollout.yaml").write_text(json.dumps({"model": model, **manifest}, indent=1))
        (folder / "inferenceservice.yaml").write_text(service.format(model=model))
    base = {"RAMPGATE_HOME": str(home), "RAMPGATE_PORT_BASE": str(free_base())}
    settings = Settings.from_environment(base | {"RAMPGATE_MANIFESTS": str(home / "manifests")})
    systems = Systems(settings)
    errors: Sequence[object] = systems.catalogue.errors
    assert not errors, errors
    callers = Callers(settings)
    try:
        up(settings, parts(settings), say=lambda _: None)
        with callers.running():
            yield Stage(settings, systems, callers)
    finally:
        down(settings, say=lambda _: None, seconds=180)
        shutil.rmtree(home)
