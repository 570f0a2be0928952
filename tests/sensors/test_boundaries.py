"""An error that nobody foresaw, in one model or one alert, stops no other, and is said once."""

from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

import sensors.alerts
from pipelines.core.errors import LedgerError, ServingError
from pipelines.core.rollout.events import Order, named
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.jobs import control_jobs
from pipelines.rollouts.open_rollout import read_rollout
from resources.ledger.ledger import Ledger
from sensors.alerts import alert_sensor
from sensors.challenger import challenger_sensor
from sensors.evidence import evidence_sensor
from sensors.guardrail import guardrail_sensor
from sensors.rollout import rollout_sensor
from tests.resources.lake.segments_by_hand import MODEL
from tests.support.memory_systems import Given, MemorySystems, counters, given, start_rollout, write_model

NOTHING = counters(v1=(0, 0), v2=(0, 0))

HARM = counters(v1=(900, 0), v2=(100, 30))

OTHER = "churn"


def broken_for(model: str, call: Any) -> Any:
    """`call`, but for this model's rollout it raises what no list of types has."""

    def given(ledger: Ledger, rollout_id: str) -> Any:
        if named(rollout_id).model == model:
            raise KeyError("compared")
        return call(ledger, rollout_id)

    return given


def failures(systems: MemorySystems) -> list[str]:
    return [title for title in systems.titles() if title.endswith(" failed")]


def context(systems: MemorySystems, instance: dg.DagsterInstance) -> dg.SensorEvaluationContext:
    return dg.build_sensor_context(instance=instance, resources=given(systems))


def test_an_unforeseen_error_in_one_model_does_not_end_the_watch_over_another(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(systems.settings.manifests, OTHER)
    assert [model.name for model in systems.catalogue.models][0] == OTHER
    start_rollout(systems)
    systems.world.serving(OTHER, "1")
    start_rollout(systems, systems.catalogue.model(OTHER))
    monkeypatch.setattr("pipelines.rollouts.canary_watch.read_rollout", broken_for(OTHER, read_rollout))
    systems.backend.show(NOTHING, NOTHING, HARM)
    sensor = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=1.5))
    assert isinstance(sensor(context(systems, instance)), dg.SensorResult)
    assert systems.share == 0
    assert failures(systems) == [f"the guardrails of {OTHER} failed"]


def test_traffic_that_would_not_go_is_taken_away_by_the_watch_as_soon_as_it_does(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = start_rollout(systems)
    systems.backend.show(NOTHING, HARM)
    brake, refused = systems.backend.set_canary_percent, iter([True, True])

    def reluctant(*given: Any, **named: Any) -> Any:
        if next(refused, False):
            raise ServingError("the gateway does not answer")
        return brake(*given, **named)

    monkeypatch.setattr(systems.backend, "set_canary_percent", reluctant)
    sensor = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=30))
    assert isinstance(sensor(context(systems, instance)), dg.SensorResult)
    assert systems.share == 0
    assert systems.controller.state(rollout).phase is Phase.ROLLING_BACK
    assert any("traffic_off failed" in title for title in systems.titles())


def test_a_report_that_cannot_be_written_silences_no_alert_of_any_model(
    systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = start_rollout(systems)

    def broken(given: Any, rollout_id: str) -> Any:
        raise KeyError("compared")

    monkeypatch.setattr(sensors.alerts, "write_report", broken)
    for _ in range(3):
        alert_sensor(tick=timedelta(0))(context(systems, instance))
    assert systems.ledger.outbox.waiting() == ()
    assert failures(systems) == [f"the report of {rollout} failed"]


def test_an_alert_that_cannot_be_read_silences_no_other(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    start_rollout(systems)
    waiting = systems.ledger.outbox.waiting()
    with systems.ledger.database.writing("damage") as connection:
        connection.exec_driver_sql(
            'UPDATE alerts SET body = \'{"severity": "grave"}\' WHERE key = ?', (waiting[0].key,)
        )
    result = alert_sensor(tick=timedelta(0))(context(systems, instance))
    assert result.skip_message == f"sent {len(waiting)}, failed 0, waiting 0"
    assert any("an alert cannot be read" in title for title in systems.titles())


SHARED = {"rollout": rollout_sensor, "evidence": evidence_sensor, "challenger": challenger_sensor}
"""The sensors that serve all models, and ask for runs."""


@pytest.mark.parametrize("name", SHARED)
def test_an_unforeseen_error_in_the_query_of_a_shared_sensor_is_alerted_once(
    name: str, systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensor = SHARED[name]([systems.model], tick=timedelta(0))

    def broken(*_: Any, **__: Any) -> Any:
        raise KeyError("compared")

    monkeypatch.setattr(Ledger, "rollouts", broken)
    for _ in range(2):
        result = sensor(context(systems, instance))
        assert isinstance(result, dg.SkipReason)
        assert "KeyError at tests/sensors/test_boundaries.py" in str(result.skip_message)
    assert failures(systems) == [f"the {name} sensor failed"]


@pytest.mark.parametrize("name", SHARED)
def test_an_error_in_one_model_keeps_no_shared_sensor_from_the_others(
    name: str, systems: MemorySystems, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(systems.settings.manifests, OTHER)
    systems.world.serving(OTHER, "1")
    models = systems.catalogue.models
    assert [model.name for model in models] == [OTHER, MODEL]
    if name == "challenger":
        systems.challenge()
        systems.world.aliases[OTHER, "challenger"] = "2"
        monkeypatch.setattr(systems.registry, "version", broken_version(systems.registry.version))
    else:
        for model in models:
            start_rollout(systems, model)
        harm = [seen("errors", Verdict.FAIL)]
        for row in systems.ledger.rollouts(open_only=True):
            systems.controller.record(row.rollout_id, harm)
        monkeypatch.setattr("sensors.ticks.read_rollout", broken_for(OTHER, read_rollout))
    result = SHARED[name](models, tick=timedelta(0))(context(systems, instance))
    assert isinstance(result, dg.SensorResult)
    assert {str(request.job_name).rpartition("_")[0] for request in result.run_requests or ()} == {
        "flight_delay"
    }
    assert failures(systems) == [f"{OTHER}'s {name} sensor failed"]


def broken_version(call: Any) -> Any:
    """Whatever MLflow gives for a version of the other model cannot be read."""

    def given(model: str, version: str) -> Any:
        if model == OTHER:
            raise KeyError("tags")
        return call(model, version)

    return given


def seen(name: str, verdict: Verdict) -> Evidence:
    return Evidence(
        name=name,
        source="serving",
        verdict=verdict,
        reason="30 of 100",
        at=datetime.now(UTC),
        on_fail=OnFail.ROLL_BACK,
    )


@pytest.mark.parametrize("away", [True, False])
def test_a_person_who_orders_a_rollback_gets_the_traffic_away_or_is_told_that_it_is_not(
    away: bool, systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`away`: the ledger cannot say which rollout is open. Otherwise it is the serving side that does not answer."""
    start_rollout(systems)

    def gone(*_: Any, **__: Any) -> Any:
        raise LedgerError("database or disk is full") if away else ServingError("the gateway does not answer")

    monkeypatch.setattr(*((Ledger, "rollouts") if away else (systems.backend, "set_canary_percent")), gone)
    (job,) = [j for j in control_jobs(systems.model) if j.name.endswith(str(Order.ROLL_BACK_NOW))]
    order = {"roll_back_now_order": {"config": {"by": "ada", "reason": "harm"}}}
    (op,) = job.graph.node_names()
    done = job.execute_in_process(
        run_config={"ops": {op: order["roll_back_now_order"]}},
        resources=given(systems),
        raise_on_error=False,
    )
    assert not done.success
    said = str(done.get_run_failure_event()) + "".join(
        str(event.event_specific_data) for event in done.all_node_events if event.is_failure
    )
    expected = "the traffic was taken away from version 2" if away else "could NOT be taken away"
    assert (systems.share, expected in said) == ((0 if away else 10), True)


def test_a_serving_side_that_cannot_be_had_is_said_once_and_watched_when_it_is_back(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    def away() -> Any:
        raise ServingError("no cluster: connection refused")

    start_rollout(systems)
    watch = guardrail_sensor(systems.catalogue.models, tick=timedelta(seconds=1.5))
    carry_on = rollout_sensor(systems.catalogue.models, tick=timedelta(0))
    resources = given(systems) | {"serving": Given(away), "controller": Given(away)}
    for _ in range(2):
        for sensor in (watch, carry_on):
            skipped = sensor(dg.build_sensor_context(instance=instance, resources=resources))
            assert isinstance(skipped, dg.SkipReason)
            assert "no cluster: connection refused" in str(skipped.skip_message)
    assert failures(systems) == ["the guardrail sensor failed"]
    systems.backend.show(NOTHING, NOTHING, HARM)
    assert isinstance(watch(context(systems, instance)), dg.SensorResult)
    assert systems.share == 0
