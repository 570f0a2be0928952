"""Outcomes: exactly once, in long form, and nothing bad in silence."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from resources.lake import segments
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.schema import counts
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

Rows = Callable[[str], list[tuple[Any, ...]]]

NOW = START + timedelta(days=1)


def outcome(id: str, key: str = "a", after: timedelta = timedelta(hours=1), **values: Any) -> dict[str, Any]:
    return {"id": id, "key": key, "at": (START + after).isoformat(), "values": values or {"late": 1}}


@pytest.fixture(autouse=True)
def exposed(lake: Lake, log: Log) -> None:
    log.segment("1", *prediction("a", unit="u1"), *prediction("b", unit="u2"))
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)


def ingest(lake: Lake, log: Log) -> OutcomeReport:
    return ingest_outcomes(lake, MODEL, log.outcomes, now=NOW)


def test_long_form_and_once(lake: Lake, log: Log, rows: Rows) -> None:
    log.outcome_file("1", outcome("1", late=1, cost=4.25), outcome("2", "b", late=False))
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=3)
    assert ingest(lake, log) == OutcomeReport()
    assert rows('SELECT id, key, metric, value, epoch("at") - epoch(TIMESTAMPTZ \'2026-01-01 00:00:00Z\') FROM outcomes ORDER BY id, metric') == [
        ("1", "a", "cost", 4.25, 3600.0), ("1", "a", "late", 1.0, 3600.0), ("2", "b", "late", 0.0, 3600.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "cost == nan, not finite"),
        (float("inf"), "cost == inf, not finite"),
        ("-Infinity", "cost == -inf, not finite"),
        ("four", "cost == four, not a number"),
        ([4.0], "cost == [4.0], not a number"),
        (None, "cost == null"),
    ],
)
def test_bad_values_are_kept_out_by_name(lake: Lake, log: Log, rows: Rows, value: Any, reason: str) -> None:
    log.outcome_file("1", outcome("1", cost=value, late=1))
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=1, bad=1)
    assert rows("SELECT metric FROM outcomes") == [("late",)]
    assert rows("SELECT source, reason, raw FROM quarantine") == [("outcomes", reason, "outcome 1")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        (outcome("1") | {"id": None}, "no id"),
        ({"id": "1"}, "no key"),
        (outcome("1") | {"at": "soon"}, "at 'soon'"),
        (outcome("1") | {"values": {}}, "values"),
        (outcome("1") | {"values": 3}, "values"),
    ],
)
def test_lines_that_are_no_outcome(lake: Lake, log: Log, rows: Rows, line: Any, reason: str) -> None:
    log.outcome_file("1", outcome("0"), line)
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=1, bad=1)
    ((number, found),) = rows("SELECT line, reason FROM quarantine")
    assert number == 2
    assert found.startswith(reason)


def test_duplicates(lake: Lake, log: Log) -> None:
    log.outcome_file("1", outcome("1", late=1), outcome("1", late=0), outcome("1", cost=2))
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=2, duplicates=1)
    log.outcome_file("2", outcome("1", late=1), outcome("2", late=1))
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=1, duplicates=1)


def test_unknown_keys_wait_for_their_prediction(lake: Lake, log: Log) -> None:
    log.outcome_file("1", outcome("1", "u1"), outcome("2", "nobody"), outcome("3", "nobody", cost=1))
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=3, unknown=1)


def test_before_exposure_and_from_the_future(lake: Lake, log: Log, rows: Rows) -> None:
    log.outcome_file(
        "1",
        outcome("1", after=-timedelta(hours=1)),
        outcome("2", after=-timedelta(minutes=1)),
        outcome("3", after=timedelta(days=1, minutes=4)),
        outcome("4", after=timedelta(days=1, minutes=6)),
    )
    assert ingest(lake, log) == OutcomeReport(segments=1, rows=3, bad=1, before_exposure=1)
    ((reason,),) = rows("SELECT reason FROM quarantine")
    assert reason == "seen at 2026-01-02 00:06:00+00, in the future"


def test_a_failure_leaves_nothing(lake: Lake, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    log.outcome_file("1", outcome("1"))

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(segments, "record", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            ingest(lake, log)
    assert counts(lake, MODEL).outcomes == 0
    assert ingest(lake, log).rows == 1


def test_before_any_prediction_outcomes_are_postponed(lake: Lake, log: Log) -> None:
    log.outcome_file("1", outcome("1"))
    assert ingest_outcomes(lake, "another", log.outcomes, now=NOW) == OutcomeReport(postponed=1)
