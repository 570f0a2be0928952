"""`make demo`: the whole platform on this machine, and a story of four model versions."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipelines.core.errors import ManifestError, RampgateError
from pipelines.core.manifest.load import Model
from pipelines.demo.console import Console
from pipelines.demo.measurements import answered_in_lake, code_location_cpu_seconds, rollout_record
from pipelines.demo.story import ACTS, DemoStory
from pipelines.platform.control import down, up
from pipelines.platform.parts import parts
from pipelines.platform.systems import Systems
from resources.files import write_whole
from resources.lake.schema import RowCounts, counts
from resources.settings import ROOT, Settings

RATE = 40.0
"""Requests a second: what two cores serve beside the platform itself."""

OUTCOME_DELAY = 3.0

STEPS = len(ACTS) + 2

LAKE_PATIENCE_SECONDS = 150.0


def main() -> int:
    """Run the story; 0 when everything ended as it should, and the platform is left running to look at."""
    os.umask(0o077)
    os.environ["RAMPGATE_HOME"] = str(Path(os.environ.get("RAMPGATE_HOME", ROOT / "var")).resolve() / "demo")
    settings = Settings.from_environment()
    console = Console(steps=STEPS)
    try:
        return _run(settings, console)
    except RampgateError as error:
        console.event(f"the demo stopped: {error}")
        return 1
    except KeyboardInterrupt:
        console.event("interrupted; what is still running stops with: make down")
        return 130
    finally:
        console.close()


def _run(settings: Settings, console: Console) -> int:
    systems = _fresh_platform(settings, console)
    model = _model(systems)
    tally = settings.home / "tally.json"
    story = DemoStory(systems, model, console)
    traffic: list[subprocess.Popen[bytes]] = []

    def begin_traffic() -> None:
        traffic.append(_start_traffic(model, tally))
        console.event(f"flights are asked about {RATE:g} times a second, through {systems.links.gateway}")

    try:
        _acts(console, story, begin_traffic)
    finally:
        for process in traffic:
            process.terminate()
            process.wait(timeout=60)
    report = _report(systems, model, console, json.loads(tally.read_text()))
    return _conclude(systems, report, console)


def _fresh_platform(settings: Settings, console: Console) -> Systems:
    """A clean story each time: the demo's own home is emptied, nothing else is touched."""
    console.act("The platform comes up")
    down(settings, say=lambda line: None)
    if settings.home.exists():
        shutil.rmtree(settings.home)
    settings.home.mkdir(parents=True)
    up(settings, parts(settings), say=console.event)
    console.done()
    systems = Systems(settings)
    console.event(f"watch it in Dagster: {systems.links.dagster}")
    return systems


def _model(systems: Systems) -> Model:
    for model in systems.catalogue.models:
        if model.rollout.training is not None:
            return model
    raise ManifestError(f"no model with a training recipe in {systems.settings.manifests}")


def _acts(console: Console, story: DemoStory, begin_traffic: Callable[[], None]) -> None:
    """One act after the other; the next version is trained while the present one is rolled out."""
    with ThreadPoolExecutor(max_workers=1) as trainer:
        trained = [trainer.submit(story.train, act) for act in ACTS[:1]]
        for number, act in enumerate(ACTS):
            console.act(act.title)
            version = trained[number].result()
            story.challenge(version)
            trained += [trainer.submit(story.train, following) for following in ACTS[number + 1 : number + 2]]
            story.until_ended(version, act)
            if number == 0:
                begin_traffic()
            console.done()


def _start_traffic(model: Model, tally: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipelines.demo.traffic", "--model", model.name, "--tally", str(tally)]
    command += ["--rate", str(RATE), "--outcome-delay", str(OUTCOME_DELAY)]
    with (tally.parent / "traffic.log").open("wb") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)


def _report(systems: Systems, model: Model, console: Console, tally: dict[str, Any]) -> dict[str, Any]:
    console.act("The books are balanced")
    held = _await_lake(systems, model, tally, console)
    alerts = (systems.settings.home / "alerts.jsonl").read_text().splitlines()
    report: dict[str, Any] = {
        "rollouts": [rollout_record(systems, row) for row in systems.ledger.rollouts(model.name)],
        "client_failures": len(tally["failures"]),
        "sent": tally["sent"],
        "answered": tally["answered"],
        "in_lake": answered_in_lake(systems, model.name),
        "duplicates": held.duplicates,
        "quarantined": held.quarantined,
        "outcome_values_delivered": tally["outcome_values"],
        "outcome_values_in_lake": held.outcomes,
        "slowest_answer_ms": round(tally["slowest_ms"], 1),
        "alerts": len(alerts),
        "alert_titles": [json.loads(line)["title"] for line in alerts],
        "seconds_total": round(console.seconds, 1),
        "code_location_cpu_seconds": code_location_cpu_seconds(),
    }
    write_whole(systems.settings.home / "report.json", json.dumps(report, indent=2) + "\n")
    console.done()
    return report


def _await_lake(systems: Systems, model: Model, tally: dict[str, Any], console: Console) -> RowCounts:
    """The schedule loads the last segments; the demo only waits for it."""
    deadline = time.monotonic() + LAKE_PATIENCE_SECONDS
    while True:
        held = counts(systems.lake, model.name)
        complete = held.requests >= tally["answered"] and held.outcomes >= tally["outcome_values"]
        if complete or time.monotonic() > deadline:
            return held
        console.wait()
        time.sleep(2)


def _conclude(systems: Systems, report: dict[str, Any], console: Console) -> int:
    for rollout in report["rollouts"]:
        console.event(f"v{rollout['version']}: {rollout['end'].replace('_', ' ')}: {rollout['reason']}")
        if rollout["seconds_boundary_to_safe"] is not None:
            console.event(
                f"    first harm to 0 % traffic {rollout['seconds_first_harm_to_safe']} s,"
                f" evidence over the boundary to 0 % {rollout['seconds_boundary_to_safe']} s"
            )
    whole = report["answered"] == report["in_lake"] and not report["duplicates"]
    console.event(
        f"{report['answered']} answered, {report['in_lake']} in the lake, {report['duplicates']} duplicates,"
        f" {report['client_failures']} failed at clients, {report['alerts']} alerts"
    )
    console.event(f"written to {systems.settings.home / 'report.json'}")
    console.event(f"still running, to look at: {systems.links.dagster}; stop it with: make down")
    return 0 if whole and report["client_failures"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
