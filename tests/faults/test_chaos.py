"""Processes killed, stopped and taken away on the running platform, under load, in each phase of a rollout.

Each test prints what it found as one line of JSON (`pytest -m faults -rP tests/faults`): client failures, records lost
and written twice, seconds until everything worked again. The predictors load no model; Dagster, Envoy, supervisord,
MLflow and the prediction log are the real ones. A full disk for the log is among the predictor's own tests.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.core.rollout.events import End
from pipelines.core.rollout.state import Phase
from resources.lake.ingest import ingest_predictions
from resources.registry.signature import Column, ModelSchema
from resources.serving.contract import LEASE
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.supervisor import Supervisor, wait_until
from tests.platform.test_whole_platform import descendants
from tests.support.chaos import (
    MODEL,
    PATIENCE_S,
    begin,
    end_of,
    lapses_of,
    pid_of,
    registration_failed,
    report,
    rules_of,
    share_of,
    signal_all,
    until,
    works_again,
)
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop

RATE = 30.0

GATEWAY_AWAY_S = 10.0
"""Nothing answers while the only gateway of the machine is away; it must not be away for longer."""

LAPSED_WITHIN_S = LEASE.total_seconds() + 3.0
"""A share that nobody watches is gone by then, looks and a loaded machine included."""

SCHEMA = ModelSchema(inputs=(Column("x", "double"),), outputs=(Column("version", "string"),))

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def platform() -> Iterator[LightPlatform]:
    with light_platform([MODEL], replicas=2) as running:
        yield running


@pytest.fixture
def clients(platform: LightPlatform) -> Iterator[OpenLoop]:
    loop = OpenLoop(platform.settings, MODEL, RATE)
    with loop.running():
        time.sleep(1)
        yield loop


@pytest.mark.parametrize("phase", ["at 10 %", "promoting", "rolling back"])
@pytest.mark.parametrize("victim", ["stable", "canary", "gateway", "code", "runs", "daemon", "mlflow"])
def test_a_killed_process_comes_back_and_the_rollout_ends_as_it_should(
    platform: LightPlatform, clients: OpenLoop, victim: str, phase: str
) -> None:
    rollout_id = begin(platform)
    name, pid = pid_of(platform, victim)
    if phase != "at 10 %":
        end_of(platform, rollout_id, phase)
        until(platform, rollout_id, lambda state: state.winding_up)
    killed = time.time()
    os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: works_again(platform, name, pid), seconds=PATIENCE_S, every=0.1)
    recovered = time.time() - killed
    if phase == "at 10 %":
        if victim not in ("canary", "gateway"):
            until(platform, rollout_id, lambda state: state.percent == 10 and state.pending is None)
        end_of(platform, rollout_id, phase)
    state = until(platform, rollout_id, lambda state: state.phase is Phase.ENDED)
    ended = time.time() - killed
    away = max((failure.at - killed for failure in clients.failures), default=0.0)
    numbers = report(
        f"kill -9 {victim}, {phase}",
        platform,
        clients,
        recovered_s=round(recovered, 2),
        ended_s=round(ended, 2),
        last_failure_s=round(away, 2),
        end=str(state.end),
        lapses=len(lapses_of(platform, rollout_id)),
    )
    assert not numbers["lapses"] or victim == "code", "only whoever holds the watch leaves a share unwatched"
    assert state.end is (End.PROMOTED if phase == "promoting" else End.ROLLED_BACK)
    stable = platform.backend.status(MODEL).stable
    assert stable is not None
    assert (stable.version == state.version) == (state.end is End.PROMOTED)
    assert numbers["lost"] == 0, numbers
    if victim == "gateway":
        assert away < GATEWAY_AWAY_S, numbers
    else:
        assert numbers["client_failures"] == 0, numbers


@pytest.mark.parametrize("victim", ["code", "runs", "daemon"])
def test_harm_that_nobody_watched_is_found_by_the_next_watcher(
    platform: LightPlatform, clients: OpenLoop, victim: str
) -> None:
    rollout_id = begin(platform, fail_share=1.0)
    _, pid = pid_of(platform, victim)
    os.kill(pid, signal.SIGKILL)
    killed = time.time()
    assert wait_until(lambda: share_of(platform) == 0, seconds=PATIENCE_S, every=0.1)
    safe = time.time() - killed
    state = until(platform, rollout_id, lambda state: state.phase is Phase.ENDED)
    numbers = report(
        f"kill -9 {victim} while the canary fails",
        platform,
        clients,
        kill_to_safe_s=round(safe, 2),
        lapses=len(lapses_of(platform, rollout_id)),
    )
    assert state.end is End.ROLLED_BACK
    assert safe < LAPSED_WITHIN_S, numbers
    assert numbers["client_failures"] == 0, numbers


@pytest.mark.parametrize("harm", [False, True])
def test_a_share_whose_watcher_is_frozen_lapses_and_its_gap_is_judged_when_he_is_back(
    platform: LightPlatform, clients: OpenLoop, harm: bool
) -> None:
    """Without harm in the gap it comes back by itself; with harm it does not."""
    rollout_id = begin(platform, obeys=True)
    time.sleep(2)
    frozen, began = descendants(pid_of(platform, "code")[1]), time.time()
    signal_all(frozen, signal.SIGSTOP)
    try:
        clients.please = f"500@{platform.state(rollout_id).version}" if harm else ""
        assert wait_until(lambda: share_of(platform) == 0, seconds=PATIENCE_S, every=0.1)
        lapsed_after = time.time() - began
        time.sleep(3)
        assert (share_of(platform), lapses_of(platform, rollout_id)) == (0, [])
    finally:
        signal_all(frozen, signal.SIGCONT)
    back = time.time()
    state = until(
        platform,
        rollout_id,
        lambda state: state.phase is Phase.ENDED if harm else bool(state.weights[2:]) and state.percent == 10,
    )
    decided_after = time.time() - back
    (lapse,) = lapses_of(platform, rollout_id)
    assert "nobody has watched it for 10 s" in lapse.reason
    rules = rules_of(platform, rollout_id)
    assert (rules.count("watched_again"), state.end) == ((0, End.ROLLED_BACK) if harm else (1, None)), rules
    numbers = report(
        f"SIGSTOP code, {'harm' if harm else 'no harm'} meanwhile",
        platform,
        clients,
        frozen_to_lapse_s=round(lapsed_after, 2),
        back_to_decided_s=round(decided_after, 2),
        rules=rules,
    )
    assert lapsed_after < LAPSED_WITHIN_S, numbers
    assert (numbers["client_failures"], numbers["lost"]) == (0, 0), numbers


@pytest.mark.parametrize("victim", ["stable", "canary"])
def test_a_predictor_that_hangs(platform: LightPlatform, clients: OpenLoop, victim: str) -> None:
    rollout_id = begin(platform)
    _, pid = pid_of(platform, victim)
    stopped = time.time()
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(12)
    finally:
        os.kill(pid, signal.SIGCONT)
    away = max((failure.at - stopped for failure in clients.failures), default=0.0)
    end_of(platform, rollout_id, "rolling back")
    state = until(platform, rollout_id, lambda state: state.phase is Phase.ENDED)
    numbers = report(f"SIGSTOP {victim}", platform, clients, last_failure_s=round(away, 2))
    assert state.end is End.ROLLED_BACK
    assert numbers["lost"] == 0, numbers
    assert numbers["client_failures"] == 0, numbers


def test_a_registry_that_is_down_during_a_promotion(platform: LightPlatform, clients: OpenLoop) -> None:
    rollout_id = begin(platform)
    supervisor = Supervisor(Layout(platform.settings.home).socket)
    supervisor.stop("mlflow", seconds=30)
    try:
        end_of(platform, rollout_id, "promoting")
        state = until(platform, rollout_id, lambda state: registration_failed(platform, state))
        stable = platform.backend.status(MODEL).stable
        assert stable is not None
        assert stable.version == state.version
        assert state.phase is Phase.PROMOTING
    finally:
        supervisor.start("mlflow")
    back = time.time()
    state = until(platform, rollout_id, lambda state: state.phase is Phase.ENDED)
    numbers = report(
        "MLflow down while promoting", platform, clients, started_to_ended_s=round(time.time() - back, 2)
    )
    assert state.end is End.PROMOTED
    champion = platform.systems.registry.version_with_alias(MODEL, "champion")
    assert champion is not None
    assert champion.version == state.version
    assert (numbers["client_failures"], numbers["lost"]) == (0, 0), numbers


def test_ingestion_waits_for_a_lake_that_is_locked(platform: LightPlatform, clients: OpenLoop) -> None:
    lake, folder = platform.systems.lake, platform.settings.prediction_log / MODEL
    ingest_predictions(lake, MODEL, SCHEMA, folder)
    time.sleep(4)  # new segments are closed
    finished: list[float] = []

    def ingest() -> None:
        ingest_predictions(lake, MODEL, SCHEMA, folder)
        finished.append(time.monotonic())

    thread = threading.Thread(target=ingest)
    with lake.location.writing():
        thread.start()
        time.sleep(5)
        assert not finished
        released = time.monotonic()
    thread.join(PATIENCE_S)
    assert finished
    time.sleep(3)
    again = ingest_predictions(lake, MODEL, SCHEMA, folder)
    report("lake locked for 5 s", platform, clients, release_to_loaded_s=round(finished[0] - released, 2))
    with lake.connect() as connection:
        # A champion that answers late is asked again meanwhile: two attempts, each with a record of its own.
        query = f'''SELECT count(*), count(DISTINCT (request_id, revision, requested_at))
            FROM lake."{MODEL}".predictions'''
        row = connection.execute(query).fetchone()
    assert row is not None
    assert row[0] == row[1]
    assert again.rows > 0
