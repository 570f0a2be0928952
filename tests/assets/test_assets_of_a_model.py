"""What materializing each asset does, on a lake and a ledger of the test's own."""

import errno
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import duckdb
import pytest

from assets.data_quality import data_quality
from assets.drift import drift
from assets.experiment import experiment
from assets.prediction_log import outcomes, prediction_log
from assets.rollout import rollout, start_job
from pipelines.core.errors import CommandRefused, LakeError, ServingError, VersionFailed
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Order
from pipelines.core.rollout.policy import VALIDATION
from pipelines.core.rollout.state import Phase
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.monitoring.window_reports import comparable_since
from pipelines.reports.metadata import check_result
from pipelines.rollouts import open_rollout
from pipelines.rollouts import start as starting
from pipelines.rollouts.naming import MISFIT_TAG
from pipelines.rollouts.open_rollout import validation_due
from pipelines.rollouts.start import Mode, carry_on, start
from resources.lake import ingest
from resources.lake.connection import Lake
from resources.lake.events import read_events
from resources.lake.maintenance import remove_loaded
from resources.lake.schema import ensure_tables, fields
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import SCHEMA, Log, prediction
from tests.support.memory_systems import MemorySystems, broken_predictor, given, start_rollout
from tests.support.rollouts import MODEL

DAY = timedelta(days=1)

Make = Callable[[Model], dg.AssetsDefinition]


def materialize(
    systems: MemorySystems, make: Make, run_config: dict[str, Any] | None = None, **options: Any
) -> dg.ExecuteInProcessResult:
    return dg.materialize([make(systems.model)], resources=given(systems), run_config=run_config, **options)


def started(
    systems: MemorySystems, version: str = "2", *, instance: dg.DagsterInstance | None = None
) -> dg.ExecuteInProcessResult:
    """A run of the start job."""
    return start_job(systems.model, {}).execute_in_process(
        run_config={"ops": {"start": {"config": {"version": version}}}},
        resources=given(systems),
        raise_on_error=False,
        instance=instance,
    )


def metadata(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """The materialization's metadata, as plain values."""
    (event,) = result.get_asset_materialization_events()
    return {name: value.value for name, value in event.materialization.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, tuple[bool, str]]:
    """(passed, verdict) by check."""
    return {
        check.check_name: (check.passed, str(check.metadata["verdict"].value))
        for check in result.get_asset_check_evaluations()
    }


@pytest.fixture
def log(systems: MemorySystems) -> Log:
    """Where the serving side writes; the lake has the model's tables."""
    log = Log(systems.settings.prediction_log / MODEL, systems.settings.outcomes / MODEL)
    log.predictions.mkdir(parents=True)
    log.outcomes.mkdir(parents=True)
    with systems.lake.connect() as connection:
        ensure_tables(systems.lake, connection, MODEL, SCHEMA)
    return log


def answered(
    systems: MemorySystems,
    log: Log,
    n: int = 60,
    *,
    version: str = "1",
    distance: float = 700.0,
    loaded: bool = True,
) -> None:
    """n recent answers of a version, in the lake; or in the log alone."""
    now = datetime.now(UTC)
    lines: list[str] = []
    for i in range(n):
        lines += prediction(
            f"{version}-{distance}-{i}",
            unit=f"u-{version}-{i}",
            version=version,
            revision=f"{MODEL}-0000{version}",
            at=now - timedelta(milliseconds=10 * (n - i)),
            inputs={"distance": [distance + i], "origin": ["JFK"]},
        )
    log.segment(f"{version}-{distance}", *lines)
    if loaded:
        materialize(systems, prediction_log)


def test_a_segment_that_could_not_be_loaded_is_alerted_once_and_its_file_kept(
    systems: MemorySystems, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = read_events

    def picky(connection: Any, paths: Any, *columns: Any, **more: Any) -> None:
        if any("bad" in path.name for path in paths):
            raise duckdb.OutOfMemoryException("could not allocate block")
        real(connection, paths, *columns, **more)

    monkeypatch.setattr(ingest, "read_events", picky)
    bad, good = log.segment("bad", *prediction("a")), log.segment("good", *prediction("b"))
    found = [metadata(materialize(systems, prediction_log)) for _ in range(2)]
    assert [(each["dagster/row_count"], each["quarantined"]) for each in found] == [(1, 1), (0, 0)]
    (alert,) = systems.ledger.outbox.all()
    assert alert.title == f"{MODEL}: a segment of predictions is in the quarantine"
    assert f"{bad.name}: the whole segment could not be loaded: could not allocate block" in alert.body
    assert (
        remove_loaded(systems.lake, MODEL, "predictions", log.predictions, older_than=timedelta(days=-1)) == 1
    )
    assert (bad.exists(), good.exists()) == (True, False)


def test_the_prediction_log_is_loaded_once(systems: MemorySystems, log: Log) -> None:
    log.segment("1", *prediction("a"), *prediction("b"), "torn\n")
    first = metadata(materialize(systems, prediction_log))
    assert (first["dagster/row_count"], first["segments"], first["quarantined"]) == (2, 1, 1)
    again = metadata(materialize(systems, prediction_log))
    assert (again["dagster/row_count"], again["segments"]) == (0, 0)


def test_before_the_first_answer_there_is_nothing_to_load(systems: MemorySystems) -> None:
    assert metadata(materialize(systems, prediction_log))["dagster/row_count"] == 0
    assert metadata(materialize(systems, outcomes))["dagster/row_count"] == 0


def test_outcomes_are_loaded_and_the_unusable_ones_named(systems: MemorySystems, log: Log) -> None:
    log.segment("1", *prediction("a", unit="u"))
    materialize(systems, prediction_log)
    good = {"id": "1", "key": "u", "at": "2026-01-01T00:01:00Z", "values": {"cost": 4.0}}
    log.outcome_file(
        "1", good, good | {"id": "2", "key": "stranger"}, good | {"id": "3", "values": {"cost": "x"}}
    )
    found = metadata(materialize(systems, outcomes))
    assert (found["dagster/row_count"], found["quarantined"], found["unknown units so far"]) == (2, 1, 1)


def test_good_data_passes_every_check(systems: MemorySystems, log: Log) -> None:
    answered(systems, log)
    result = materialize(systems, data_quality)
    assert len(checks(result)) == 3
    assert set(checks(result).values()) == {(True, "pass")}
    assert metadata(result)["data docs"].startswith("http://127.0.0.1:")


def test_bad_data_fails_its_check_and_is_evidence_in_the_rollout(systems: MemorySystems, log: Log) -> None:
    rollout_id = start_rollout(systems)
    answered(systems, log, distance=9000.0)
    result = materialize(systems, data_quality)
    assert result.success, "a failed check holds the rollout, not the run"
    assert checks(result)["window"] == (False, "fail")
    found = [e for e in systems.controller.state(rollout_id).evidence.values() if e.source == "data_quality"]
    assert [item.verdict for item in found] == [Verdict.FAIL]


def test_a_column_that_not_every_version_in_the_window_has_is_not_missing_from_the_others(
    systems: MemorySystems, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an output that the canary adds, nor one that an earlier version left in the lake."""
    path = systems.model.folder / "rollout.yaml"
    path.write_text(re.sub(r"(?ms)^  checks:.*?(?=^\S)", "", path.read_text()))
    del systems.__dict__["catalogue"]
    rollout_id = start_rollout(systems)
    more = ModelSchema(SCHEMA.inputs, (*SCHEMA.outputs, Column("q", "double")))
    with systems.lake.connect() as connection:
        ensure_tables(systems.lake, connection, MODEL, more)
    answered(systems, log)
    answered(systems, log, n=6, version="2")
    materialize(systems, data_quality)
    assert [e.verdict for e in _data_quality(systems, rollout_id)] == [Verdict.PASS]
    monkeypatch.setattr(systems.registry, "signature", lambda _, version: more if version == "2" else SCHEMA)
    materialize(systems, data_quality)
    assert [e.verdict for e in _data_quality(systems, rollout_id)] == [Verdict.PASS]
    monkeypatch.setattr(systems.registry, "signature", lambda *_: more)
    materialize(systems, data_quality)
    (found,) = _data_quality(systems, rollout_id)
    assert (found.verdict, found.reason.split(":")[0]) == (Verdict.FAIL, "outputs.q"), (
        "both have it, none gives it"
    )


def _data_quality(systems: MemorySystems, rollout_id: str) -> list[Evidence]:
    evidence = systems.controller.state(rollout_id).evidence.values()
    return [item for item in evidence if item.source == "data_quality"]


def test_too_little_data_is_unknown_and_warns(systems: MemorySystems, log: Log) -> None:
    answered(systems, log, n=5)
    result = materialize(systems, data_quality)
    assert checks(result)["window"] == (False, "unknown")
    assert {c.severity for c in result.get_asset_check_evaluations()} == {dg.AssetCheckSeverity.WARN}


def test_unknown_is_never_green_in_any_asset_check(systems: MemorySystems, log: Log) -> None:
    for make in (data_quality, drift, experiment):
        (start_rollout(systems) if make is experiment else None)
        found = materialize(systems, make).get_asset_check_evaluations()
        assert {(c.passed, c.severity) for c in found} == {(False, dg.AssetCheckSeverity.WARN)}
        assert {c.metadata["verdict"].value for c in found} == {"unknown"}


@pytest.mark.parametrize("on_fail", OnFail)
@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_one_colour(verdict: Verdict, on_fail: OnFail) -> None:
    shown = check_result("x", verdict, "why", on_fail=on_fail)
    assert shown.passed is (verdict is Verdict.PASS)
    red = verdict is Verdict.FAIL and on_fail is not OnFail.WARN
    assert shown.severity is (dg.AssetCheckSeverity.ERROR if red else dg.AssetCheckSeverity.WARN)


def test_a_rollout_that_ends_while_data_is_checked_fails_no_run(
    systems: MemorySystems, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_rollout(systems)
    answered(systems, log)

    def ended(*_: object, **__: object) -> None:
        raise CommandRefused("it has ended: rolled_back")

    monkeypatch.setattr(systems.controller, "record", ended)
    assert materialize(systems, data_quality).success


def test_drift_between_canary_and_champion_is_scored_and_is_evidence(
    systems: MemorySystems, log: Log
) -> None:
    rollout_id = start_rollout(systems)
    time.sleep(1)  # what is answered from here on lies within the rollout
    answered(systems, log, 80, version="1")
    answered(systems, log, 80, version="2", distance=5000.0)
    result = materialize(systems, drift)
    found = checks(result)
    assert found["canary_vs_stable"] == (False, "fail")
    assert found["current_vs_reference"][1] == "unknown", "there is no earlier window"
    shown = metadata(result)
    assert any(name.endswith("Evidently report") for name in shown)
    evidence = systems.controller.state(rollout_id).evidence
    assert Verdict.FAIL in {item.verdict for item in evidence.values() if item.source == "drift"}


def test_canary_and_champion_are_compared_under_one_share_only(systems: MemorySystems) -> None:
    """A window across a change of the share holds more late rows of the canary than of the champion."""
    state = systems.controller.state(start_rollout(systems))
    now = datetime.now(UTC)
    changed = replace(state, since=now - timedelta(minutes=5))
    assert comparable_since(changed, timedelta(hours=1), now) == now - timedelta(minutes=5)
    assert comparable_since(changed, timedelta(minutes=1), now) == now - timedelta(minutes=1)


def test_without_a_canary_the_comparison_with_it_is_unknown(systems: MemorySystems, log: Log) -> None:
    assert checks(materialize(systems, drift))["canary_vs_stable"] == (False, "unknown")


def test_no_look_is_taken_without_a_canary(systems: MemorySystems, log: Log) -> None:
    assert metadata(materialize(systems, experiment)) == {"status": "no canary is taking traffic"}


def test_a_look_is_evidence_for_every_metric(systems: MemorySystems, log: Log) -> None:
    rollout_id = start_rollout(systems)
    answered(systems, log)
    answered(systems, log, 30, version="2")
    shown = metadata(materialize(systems, experiment))
    assert shown["rollout"] == rollout_id
    assert "in words" in shown
    evidence = systems.controller.state(rollout_id).evidence
    assert {"errors", "slow", "cost", "cost.harm", "units"} <= set(evidence)


def test_a_lake_that_is_away_makes_the_look_unknown(systems: MemorySystems) -> None:
    rollout_id = start_rollout(systems)
    (systems.settings.home / "lake" / "catalog.db").write_text("not a database")
    systems.__dict__.pop("lake")
    materialize(systems, experiment)
    evidence = systems.controller.state(rollout_id).evidence
    assert evidence["cost.harm"].verdict is Verdict.UNKNOWN


def test_starting_opens_the_rollout_carries_it_on_and_shows_all_of_it_on_the_assets(
    systems: MemorySystems,
) -> None:
    result = started(systems)
    assert [event.step_key for event in result.get_step_success_events()] == ["start", "carry_on", "report"]
    opened, decided, told = (
        (event.materialization.asset_key.path[-1], event.materialization.metadata)
        for event in result.get_asset_materialization_events()
    )
    assert (opened[0], decided[0], told[0]) == ("rollout", "rollout", "rollout_report")
    shown = {name: value.value for name, value in opened[1].items()}
    assert (shown["version"], shown["champion"], shown["digest"]) == ("2", "1", "sha-2")
    assert str(decided[1]["decision"].value).startswith("advance:")
    assert told[1]["verdict"].value
    assert systems.controller.state(shown["rollout"]).percent == 10


def test_a_version_without_signature_is_refused_with_tag_and_alert(systems: MemorySystems) -> None:
    systems.registry.unsigned.add("2")
    result = started(systems)
    assert not result.success
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == "refused"
    assert "no signature" in systems.world.tags[MODEL, "2", "rampgate.reason"]
    assert systems.titles() == [f"{MODEL} version 2: refused before any traffic"]
    assert systems.share == 0


def test_a_version_that_does_not_fit_the_lake_is_refused_with_tag_and_alert(systems: MemorySystems) -> None:
    earlier = ModelSchema((Column("distance", "string"),), SCHEMA.outputs)
    with systems.lake.connect() as connection:
        ensure_tables(systems.lake, connection, MODEL, earlier)
    result = started(systems)
    assert not result.success
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == "refused"
    reason = systems.world.tags[MODEL, "2", "rampgate.reason"]
    assert "features.distance is string (VARCHAR) in the lake" in reason
    assert "double (DOUBLE) in the new version's signature" in reason
    assert systems.titles() == [f"{MODEL} version 2: refused before any traffic"]


def test_a_version_mended_before_it_answered_takes_another_type_unless_a_rollout_is_open(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signed(version: str, kind: str) -> None:
        schema = ModelSchema((*SCHEMA.inputs, Column("wind", kind)), SCHEMA.outputs)
        monkeypatch.setattr(systems.registry, "signature", lambda _, v: schema if v == version else SCHEMA)

    signed("2", "string")
    rollout_id = start_rollout(systems)
    systems.registry.known |= {"3"}
    signed("3", "double")
    with pytest.raises(CommandRefused, match="2"):
        start(systems, systems.model, "3")
    assert (MODEL, "3", "rampgate.status") not in systems.world.tags
    systems.controller.command(rollout_id, Order.ABORT, by="test", reason="mended")
    systems.controller.drive(rollout_id)
    with systems.lake.connect() as connection:
        assert fields(connection, MODEL)[0]["wind"] == "VARCHAR"
    start(systems, systems.model, "3")
    with systems.lake.connect() as connection:
        assert fields(connection, MODEL)[0]["wind"] == "DOUBLE"


@pytest.mark.parametrize("lacks", ["1", "2"])
def test_a_manifest_that_does_not_fit_is_said_once_and_is_no_verdict_on_the_version(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """Whichever of champion and challenger lacks the column: no start, no tag, one alert; mended, it starts."""
    inputs = (Column("distance", "double"), Column("origin_code", "string"))
    other = ModelSchema(inputs, (Column("probability", "double"),))
    with monkeypatch.context() as changed, dg.DagsterInstance.ephemeral() as instance:
        changed.setattr(
            systems.registry, "signature", lambda _, version: other if version == lacks else SCHEMA
        )
        for _ in range(2):
            result = started(systems, instance=instance)
            assert not result.success
            assert instance.get_run_by_id(result.run_id).tags[MISFIT_TAG] == "true"
    (alert,) = systems.ledger.outbox.all()
    assert alert.title == f"{MODEL} version 2: not started, the manifest is wrong"
    assert (
        f"rollout.yaml:19: data_checks.checks[1].column: 'features.origin': version {lacks} has no such"
        in alert.body
    )
    assert "did you mean features.origin_code?" in alert.body
    assert (MODEL, "2", "rampgate.status") not in systems.world.tags
    assert not systems.ledger.rollouts(MODEL)
    assert started(systems).success


def test_a_version_that_does_not_exist_is_named(systems: MemorySystems) -> None:
    result = started(systems, "99")
    failure = result.get_step_failure_events()[0].step_failure_data
    assert "has no version '99'" in str(failure.user_failure_data)


def test_a_champion_that_nothing_serves_is_no_champion_to_compare_with(systems: MemorySystems) -> None:
    systems.world.status.clear()
    result = started(systems)
    failure = result.get_step_failure_events()[0].step_failure_data
    assert "give version 1 the alias `challenger`" in str(failure.user_failure_data)
    assert not systems.ledger.rollouts(MODEL)


def test_the_first_version_becomes_champion_without_a_comparison(systems: MemorySystems) -> None:
    systems.world.status.clear()
    systems.world.aliases.clear()
    systems.challenge("1")
    start(systems, systems.model, "1")
    materialize(systems, rollout)
    assert systems.world.aliases == {(MODEL, "champion"): "1"}


def test_the_rollout_says_what_was_decided_and_on_which_evidence(systems: MemorySystems) -> None:
    start(systems, systems.model, "2")
    shown = metadata(materialize(systems, rollout))
    assert shown["decision"].startswith("advance:")
    assert shown["canary share (%)"] == 10.0
    assert [record.data["evidence"] for record in shown["evidence"].records] == [
        "registered-versions",
        "served-version",
        "validation",
    ]
    assert systems.share == 10


def test_without_a_rollout_there_is_nothing_to_carry_on(systems: MemorySystems) -> None:
    assert metadata(materialize(systems, rollout)) == {"status": "no rollout is open"}


def test_a_version_whose_example_the_predictor_cannot_answer_gets_no_traffic(systems: MemorySystems) -> None:
    start(systems, systems.model, "2")
    systems.backend.predict_with = broken_predictor
    materialize(systems, rollout)
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == "refused"
    assert "cannot read origin" in systems.world.tags[MODEL, "2", "rampgate.reason"]
    assert not [e for e in systems.world.effects if e.version == "2" and e.percent > 0]


def _away(what: str, systems: MemorySystems, patch: pytest.MonkeyPatch) -> None:
    def lake(_: Lake) -> None:
        raise LakeError("the catalogue does not answer")

    def log(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def predictor(request: Any) -> Any:
        raise ServingError("503: no healthy upstream")

    match what:
        case "registry":
            patch.setattr(systems.registry, "down", True)
        case "lake":
            patch.setattr(Lake, "connect", lake)
        case "log":
            patch.setattr(starting, "load_predictions", log)
        case "unforeseen":
            patch.setattr(systems.backend, "predict_with", lambda request: {"outputs": None})
        case _:
            patch.setattr(systems.backend, "predict_with", predictor)


@pytest.mark.parametrize("what", ["registry", "lake", "log", "predictor", "unforeseen"])
def test_what_cannot_be_asked_during_validation_is_unknown_and_asked_again_with_growing_pauses(
    systems: MemorySystems, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    rollout_id = start(systems, systems.model, "2").rollout_id
    first = timedelta(seconds=10)
    with monkeypatch.context() as patch:
        _away(what, systems, patch)
        for pause in (first, 2 * first, 4 * first):
            patch.setattr(open_rollout, "_FIRST_PAUSE", 0 * first)
            assert carry_on(systems, systems.model, rollout_id).rule == "unknown"
            patch.setattr(open_rollout, "_FIRST_PAUSE", first)
            state = systems.controller.state(rollout_id)
            known = state.evidence[VALIDATION]
            assert (known.verdict, known.pending) == (Verdict.UNKNOWN, False)
            assert not validation_due(state, known.at + pause - timedelta(seconds=1))
            assert validation_due(state, known.at + pause)
    assert systems.share == 0
    monkeypatch.setattr(open_rollout, "_FIRST_PAUSE", 0 * first)
    carry_on(systems, systems.model, rollout_id)
    assert systems.share == 10


def test_a_verdict_that_has_grown_old_is_taken_again_before_traffic(systems: MemorySystems) -> None:
    rollout_id = start(systems, systems.model, "2").rollout_id
    systems.controller.drive(rollout_id)
    state = systems.controller.state(rollout_id)
    old = Evidence(
        name=VALIDATION, source=VALIDATION, verdict=Verdict.PASS, reason="", at=state.since, valid_for=DAY
    )
    state = replace(state, evidence={VALIDATION: old})
    assert not validation_due(state, state.since + DAY)
    assert validation_due(state, state.since + DAY + timedelta(seconds=1))


@pytest.mark.parametrize("loaded", [True, False])
def test_a_version_that_refuses_what_callers_send_gets_no_traffic_though_it_answers_its_own_example(
    systems: MemorySystems, log: Log, loaded: bool
) -> None:
    answered(systems, log, loaded=loaded)
    start(systems, systems.model, "2")
    systems.backend.predict_with = _example_only
    materialize(systems, rollout)
    reason = systems.world.tags[MODEL, "2", "rampgate.reason"]
    assert "logged requests that version 1 answered" in reason
    assert "column 'wind' is missing" in reason
    assert not [e for e in systems.world.effects if e.version == "2" and e.percent > 0]


def test_a_manifest_can_leave_the_replay_out(systems: MemorySystems, log: Log) -> None:
    answered(systems, log, loaded=True)
    wanted = systems.model.rollout.validation.model_copy(update={"replay": False})
    without = replace(systems.model, rollout=systems.model.rollout.model_copy(update={"validation": wanted}))
    rollout_id = start(systems, without, "2").rollout_id
    systems.backend.predict_with = _example_only
    carry_on(systems, without, rollout_id)
    evidence = systems.controller.state(rollout_id).evidence[VALIDATION]
    assert (evidence.verdict, "replay" in evidence.reason) == (Verdict.PASS, False), evidence.reason


def _example_only(request: Any) -> dict[str, Any]:
    if request["inputs"][0]["data"] != [719.0]:
        raise VersionFailed("400: column 'wind' is missing")
    return _always_certain(request)


@pytest.mark.parametrize("loaded", [True, False])
def test_a_version_that_is_worse_on_logged_requests_gets_no_traffic(
    systems: MemorySystems, log: Log, loaded: bool
) -> None:
    path = systems.model.folder / "rollout.yaml"
    path.write_text(path.read_text() + "validation: {label: late, metric: mae, max_worse: 0.1}\n")
    del systems.__dict__["catalogue"]
    now = datetime.now(UTC).isoformat()
    answered(systems, log, loaded=loaded)
    log.outcome_file(
        "1", *({"id": f"{i}", "key": f"u-1-{i}", "at": now, "values": {"late": 0.5}} for i in range(60))
    )
    if loaded:
        materialize(systems, outcomes)
    start(systems, systems.model, "2")
    systems.backend.predict_with = _always_certain
    materialize(systems, rollout)
    assert systems.world.tags[MODEL, "2", "rampgate.status"] == "refused"
    assert "mae 0.5 against 0 of version 1" in systems.world.tags[MODEL, "2", "rampgate.reason"]


def _always_certain(request: Any) -> dict[str, Any]:
    rows = request["inputs"][0]["shape"][0]
    return {"outputs": [{"name": "probability", "shape": [rows], "datatype": "FP64", "data": [1.0] * rows}]}


def test_a_person_may_start_against_what_is_served_although_the_champion_was_deleted(
    systems: MemorySystems,
) -> None:
    systems.world.delete(MODEL, "1")
    with pytest.raises(
        CommandRefused, match=r"version 1 is served, but no version has the alias .* `against: 1`"
    ):
        start(systems, systems.model, "2")
    with pytest.raises(CommandRefused, match="against == '7', but version 1 is served"):
        start(systems, systems.model, "2", against="7")
    begun = start(systems, systems.model, "2", against="1")
    assert (begun.champion, begun.phase) == ("1", Phase.STARTING)
    assert "version 1 is served, but" in begun.despite
    systems.controller.drive(begun.rollout_id)
    assert systems.controller.state(begun.rollout_id).phase is Phase.VALIDATING


def test_what_is_served_is_the_other_side_and_is_not_started_against_itself(systems: MemorySystems) -> None:
    assert start(systems, systems.model, "2").champion == "1"
    with pytest.raises(CommandRefused, match="version 1 is the champion already: it is what is served"):
        start(systems, systems.model, "1")


@pytest.mark.parametrize("mode", Mode)
def test_every_mode_is_written_as_the_documentation_writes_it(systems: MemorySystems, mode: Mode) -> None:
    job = start_job(systems.model, {})
    written = {"version": "2", "mode": mode.value}
    assert dg.validate_run_config(job, {"ops": {"start": {"config": written}}})
    with pytest.raises(dg.DagsterInvalidConfigError, match="not in enum type Mode"):
        dg.validate_run_config(job, {"ops": {"start": {"config": written | {"mode": mode.value.upper()}}}})
