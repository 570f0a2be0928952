"""The sensor that has an open rollout carried on."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from pipelines.core.errors import LedgerError
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict
from pipelines.rollouts.naming import CARRIES_ON_TAG
from pipelines.rollouts.start import carry_on, start
from resources.ledger.ledger import Ledger
from sensors.rollout import ROLLOUT_TAG, rollout_sensor
from tests.support.memory_systems import MemorySystems, given, start_rollout
from tests.support.rollouts import MODEL

JOB = "flight_delay_step"


@pytest.fixture
def tick(systems: MemorySystems, instance: dg.DagsterInstance):
    sensor = rollout_sensor([systems.model], tick=timedelta(0))

    def tick() -> dg.RunRequest | str:
        context = dg.build_sensor_context(instance=instance, resources=given(systems))
        result = sensor(context)
        if isinstance(result, dg.SkipReason):
            return str(result.skip_message)
        (request,) = result.run_requests or ()
        assert request.job_name == JOB
        return request

    return tick


def all_good() -> list[Evidence]:
    """What the rollout needs for its next move, the promotion."""
    names = {"errors": OnFail.ROLL_BACK, "slow": OnFail.ROLL_BACK, "units": OnFail.HOLD, "cost": OnFail.HOLD}
    return [
        Evidence(
            name=name,
            source="experiment",
            verdict=Verdict.PASS,
            reason="good",
            at=datetime.now(UTC),
            on_fail=on_fail,
            needed_for=NeededFor.PROMOTE if name == "cost" else NeededFor.ADVANCE,
        )
        for name, on_fail in names.items()
    ]


def test_without_a_rollout_nothing_is_asked_for(tick) -> None:
    assert tick() == "no rollout is open"


def test_a_deployment_that_was_begun_is_finished(systems: MemorySystems, tick) -> None:
    rollout = start(systems, systems.model, "2").rollout_id
    assert tick().run_key == f"{rollout}:0"


def test_a_rollout_that_waits_for_data_waits(systems: MemorySystems, tick) -> None:
    start_rollout(systems)
    assert "waiting" in tick()


def test_evidence_for_the_next_move_asks_for_it(systems: MemorySystems, tick) -> None:
    rollout = start_rollout(systems)
    systems.controller.record(rollout, all_good())
    assert isinstance(tick(), dg.RunRequest)
    carry_on(systems, systems.model, rollout)
    assert systems.world.aliases[MODEL, "champion"] == "2"
    assert tick() == "no rollout is open"


def test_a_rollback_that_was_begun_is_wound_up(systems: MemorySystems, tick) -> None:
    rollout = start_rollout(systems)
    harm = Evidence(
        name="errors",
        source="serving",
        verdict=Verdict.FAIL,
        reason="30 of 100",
        at=datetime.now(UTC),
        on_fail=OnFail.ROLL_BACK,
    )
    systems.controller.roll_back_now(rollout, "errors", [harm])
    assert isinstance(tick(), dg.RunRequest)


def test_one_run_at_a_time_acts_on_a_rollout(
    systems: MemorySystems, instance: dg.DagsterInstance, tick
) -> None:
    start(systems, systems.model, "2")
    instance.add_run(
        dg.DagsterRun(
            job_name="flight_delay_start",
            run_id="run",
            status=dg.DagsterRunStatus.STARTED,
            tags={CARRIES_ON_TAG: MODEL},
        )
    )
    assert tick().endswith(": waiting: a run is carrying the rollout on")


def test_a_run_that_failed_is_asked_for_again_with_another_key(
    systems: MemorySystems, instance: dg.DagsterInstance, tick, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(systems, systems.model, "2")
    first = tick()
    instance.add_run(
        dg.DagsterRun(
            job_name=JOB,
            run_id="run",
            status=dg.DagsterRunStatus.FAILURE,
            tags={CARRIES_ON_TAG: MODEL, ROLLOUT_TAG: first.tags[ROLLOUT_TAG]},
        )
    )
    later = datetime.now(UTC).timestamp() + 60
    monkeypatch.setattr("sensors.rollout.time.time", lambda: later)
    assert tick().run_key != first.run_key


def test_a_ledger_that_is_down_is_said(systems: MemorySystems, tick, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise LedgerError("database is locked")

    monkeypatch.setattr(Ledger, "rollouts", away)
    assert tick() == "cannot tell: database is locked"


def test_a_floor_that_has_not_passed_is_waited_for(systems: MemorySystems, tick) -> None:
    path = systems.model.folder / "rollout.yaml"
    path.write_text(path.read_text().replace("min_duration: 0s", "min_duration: 1h"))
    del systems.__dict__["catalogue"]
    rollout = start_rollout(systems)
    systems.controller.record(rollout, all_good())
    assert "waiting" in tick()
    assert systems.controller.state(rollout).policy.min_duration == timedelta(hours=1)


def test_a_run_that_keeps_failing_is_asked_for_less_and_less_often(
    systems: MemorySystems, tick, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = start(systems, systems.model, "2").rollout_id
    now = datetime.now(UTC).timestamp()
    for _ in range(2):
        failed_run(instance, rollout)
    monkeypatch.setattr("sensors.rollout.time.time", lambda: now + 15)
    assert "waiting: the last run failed" in tick()
    monkeypatch.setattr("sensors.rollout.time.time", lambda: now + 25)
    assert tick().run_key == f"{rollout}:2"


def failed_run(instance: dg.DagsterInstance, rollout: str) -> None:
    @dg.op
    def fails() -> None:
        raise ValueError("the lake is away")

    @dg.job(name=JOB)
    def job() -> None:
        fails()

    job.execute_in_process(instance=instance, tags={ROLLOUT_TAG: rollout}, raise_on_error=False)
