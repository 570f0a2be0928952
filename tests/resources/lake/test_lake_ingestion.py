"""What ends up in the lake, of good and of bad segments."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipelines.core.errors import LakeError
from resources.lake.connection import Lake
from resources.lake.ingest import IngestReport, ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.schema import counts
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction, predictions

Rows = Callable[[str], list[tuple[Any, ...]]]


def ingest(lake: Lake, log: Log, **options: Any) -> IngestReport:
    return ingest_predictions(lake, MODEL, SCHEMA, log.predictions, **options)


def test_a_prediction_is_typed_and_keeps_its_identity(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment("1", *prediction("a", unit="u1", version="2", inputs={"origin": ["it's"], "distance": [7]}))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1)
    assert rows(
        """SELECT request_id, "row", unit_id, revision, version, assignment, status, latency_ms,
            features.distance, features.origin, outputs.probability, segment,
            epoch_ms(responded_at) - epoch_ms(requested_at), typeof(requested_at) FROM predictions"""
    ) == [
        ("a", 0, "u1", f"{MODEL}-00001", "2", "weighted", 200, 3.25, 7.0, "it's", 0.5,
         f"{MODEL}-00001.writer.1.jsonl", 3, "TIMESTAMP WITH TIME ZONE")
    ]  # fmt: skip


def test_segments_are_loaded_once(lake: Lake, log: Log) -> None:
    log.segment("1", *predictions("a", 3))
    assert ingest(lake, log).rows == 3
    assert ingest(lake, log) == IngestReport()
    log.segment("2", *predictions("b", 2))
    assert ingest(lake, log) == IngestReport(segments=1, rows=2)
    assert counts(lake, MODEL)[:3] == (5, 5, 0)


def test_a_batch_becomes_rows(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment(
        "1",
        *prediction(
            "batch",
            inputs={"origin": ["JFK", "LGA", "EWR"], "distance": [1.0, 2.0, 3.0]},
            outputs={"probability": [0.1, 0.2, 0.3]},
        ),
        *prediction("single"),
    )
    assert ingest(lake, log).rows == 4
    assert rows(
        """SELECT "row", features.distance, features.origin, outputs.probability
            FROM predictions WHERE request_id = 'batch' ORDER BY "row" """
    ) == [(0, 1.0, "JFK", 0.1), (1, 2.0, "LGA", 0.2), (2, 3.0, "EWR", 0.3)]


def test_a_failed_prediction_has_no_outputs(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment("1", *prediction("a", status=500))
    ingest(lake, log)
    assert rows("SELECT status, outputs, features.distance FROM predictions") == [(500, None, 719.0)]


def test_an_output_with_several_values_is_a_list(lake: Lake, log: Log, rows: Rows) -> None:
    schema = ModelSchema(SCHEMA.inputs, (Column("scores", "double", shape=(-1,)),))
    log.segment(
        "1",
        *prediction(
            "a",
            inputs={"distance": [1.0, 2.0], "origin": ["JFK", "LGA"]},
            outputs={"scores": [[0.1, 0.9], [0.2, 0.8]]},
        ),
    )
    ingest_predictions(lake, MODEL, schema, log.predictions)
    assert rows('SELECT outputs.scores FROM predictions ORDER BY "row"') == [([0.1, 0.9],), ([0.2, 0.8],)]


def test_every_type_of_a_signature(lake: Lake, log: Log, rows: Rows) -> None:
    values = {
        "double": 1.5, "float": 0.5, "long": 2**53 + 1, "integer": 7, "boolean": True, "string": "JFK",
        "datetime": "2026-01-02T03:04:05",
    }  # fmt: skip
    schema = ModelSchema(tuple(Column(name, name) for name in values), (Column("probability", "double"),))
    log.segment("1", *prediction("a", inputs={name: [value] for name, value in values.items()}))
    assert ingest_predictions(lake, MODEL, schema, log.predictions).bad == 0
    ((struct,),) = rows("SELECT features FROM predictions")
    assert struct.pop("datetime").isoformat() == values.pop("datetime")
    assert struct == values


def test_halves_are_paired_whatever_their_order_and_segment(lake: Lake, log: Log) -> None:
    asked, answered = prediction("late")
    log.segment("1", answered, *predictions("whole", 2))
    assert ingest(lake, log) == IngestReport(segments=1, rows=2, unpaired=1)
    log.segment("2", *predictions("more", 1))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, unpaired=1)
    log.segment("3", asked)
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, unpaired=0)
    assert counts(lake, MODEL)[:3] == (4, 4, 0)


def test_a_batch_whose_halves_come_apart(lake: Lake, log: Log, rows: Rows) -> None:
    asked, answered = prediction(
        "batch", inputs={"distance": [1.0, 2.0], "origin": ["a", "b"]}, outputs={"probability": [0.1, 0.2]}
    )
    log.segment("1", asked)
    ingest(lake, log)
    log.segment("2", answered)
    assert ingest(lake, log).rows == 2
    found = rows(
        'SELECT features.distance, features.origin, outputs.probability FROM predictions ORDER BY "row"'
    )
    assert found == [(1.0, "a", 0.1), (2.0, "b", 0.2)]


def test_every_answer_is_a_row_whatever_callers_name_their_requests(lake: Lake, log: Log, rows: Rows) -> None:
    lines = [prediction(f"record-{i}", call=f"call-{i}", caller="batch-17") for i in range(20)]
    log.segment("1", *(line for pair in lines for line in pair))
    assert ingest(lake, log) == IngestReport(segments=1, rows=20)
    assert rows("SELECT count(DISTINCT request_id), min(caller_id), max(caller_id) FROM predictions") == [
        (20, "batch-17", "batch-17")
    ]


def test_two_attempts_at_one_revision_are_two_answers_of_one_request(
    lake: Lake, log: Log, rows: Rows
) -> None:
    second = prediction("b", call="call", at=timedelta(milliseconds=7))
    log.segment("1", *prediction("a", call="call", status=500), *second)
    assert ingest(lake, log) == IngestReport(segments=1, rows=2)
    assert rows("SELECT request_id, status FROM predictions ORDER BY requested_at") == [
        ("call", 500), ("call", 200),
    ]  # fmt: skip
    assert counts(lake, MODEL)[:3] == (1, 2, 0)


@pytest.mark.parametrize("unit", ["Zoë, Ångström", "李雷", "a,b", "x" * 256])
def test_a_unit_id_of_any_characters_is_kept_and_a_blank_one_is_none(
    lake: Lake, log: Log, rows: Rows, unit: str
) -> None:
    log.segment("1", *prediction("a", unit=unit), *prediction("b", unit="  ", call=" ", caller=" "))
    ingest(lake, log)
    assert rows("SELECT request_id, caller_id, unit_id FROM predictions ORDER BY request_id") == [
        ("a", None, unit), ("b", None, None),
    ]  # fmt: skip


def test_an_id_that_was_used_again_pairs_by_time_and_loses_nothing(lake: Lake, log: Log, rows: Rows) -> None:
    """KServe's payload logger takes a caller's Ce-Id, and logs no response that is not 200."""
    second = timedelta(seconds=1)

    def used(n: int) -> tuple[str, str]:
        return prediction(
            "same",
            at=n * second,
            inputs={"distance": [float(n)], "origin": ["JFK"]},
            outputs={"probability": [n / 10]},
        )

    log.segment("1", *used(1), used(2)[0], *used(3)[::-1])
    assert ingest(lake, log) == IngestReport(segments=1, rows=2, unpaired=1)
    log.segment("2", *used(3), *used(4))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, duplicates=2, unpaired=1)
    found = rows("SELECT features.distance, outputs.probability FROM predictions ORDER BY requested_at")
    assert found == [(1.0, 0.1), (3.0, 0.3), (4.0, 0.4)]


@pytest.mark.parametrize(("schema", "outcome_first"), [(SCHEMA, False), (None, False), (None, True)])
def test_tables_of_an_earlier_release_are_grown_and_their_halves_still_pair(
    lake: Lake, log: Log, rows: Rows, schema: ModelSchema | None, outcome_first: bool
) -> None:
    asked, answered = prediction("half")
    log.segment("1", *prediction("a"), asked)
    ingest(lake, log)
    with lake.connect() as connection:
        for name, column in (
            ("predictions", "caller_id"),
            ("unpaired", "caller_id"),
            ("unpaired", "record_id"),
        ):
            connection.execute(f'ALTER TABLE lake."{MODEL}".{name} DROP COLUMN {column}')
    if outcome_first:
        log.outcome_file("1", {"id": "1", "key": "a", "at": START.isoformat(), "values": {"late": 1}})
        assert ingest_outcomes(lake, MODEL, log.outcomes) == OutcomeReport(segments=1, rows=1)
    log.segment("2", *prediction("a"), answered, *prediction("b", caller="mine"))
    assert ingest_predictions(lake, MODEL, schema, log.predictions) == IngestReport(
        segments=1, rows=2, duplicates=2
    )
    assert rows("SELECT request_id, caller_id FROM predictions ORDER BY request_id") == [
        ("a", None), ("b", "mine"), ("half", None),
    ]  # fmt: skip


def test_duplicates_are_left_out_and_counted(lake: Lake, log: Log) -> None:
    log.segment("1", *prediction("a"), *prediction("a"))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, duplicates=2)
    log.segment("2", *prediction("a"), *prediction("b", at=timedelta(hours=2)))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, duplicates=2)
    log.segment("3", prediction("a")[0])
    assert ingest(lake, log) == IngestReport(segments=1, duplicates=1)


def test_the_same_request_on_two_revisions_is_two_predictions(lake: Lake, log: Log) -> None:
    log.segment("1", *prediction("a", status=500), *prediction("a", revision=f"{MODEL}-00002"))
    assert ingest(lake, log).rows == 2


def test_torn_and_malformed_lines_are_kept_with_their_reason(lake: Lake, log: Log, rows: Rows) -> None:
    path = log.segment("1", *prediction("a"), "not json\n", "[1]\n", '{"id": "b"}\n', "\n", *prediction("c"))
    with path.open("ab") as file:
        file.write(b'{"id": "\xff\xfe"}\n{"id": "tor')
    assert ingest(lake, log) == IngestReport(segments=1, rows=2, bad=5)
    found = rows("SELECT line, reason, raw FROM quarantine ORDER BY line")
    assert [line for line, _, _ in found] == [3, 4, 5, 9, 10]
    for (_, reason, _), expected in zip(
        found, ["not JSON", "not a JSON object", "type None", "", "torn"], strict=True
    ):
        assert reason.startswith(expected)
    assert found[-1][2] == '{"id": "tor'
    assert rows("SELECT rows, bad FROM segments") == [(2, 5)]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({"id": None}, "no id"),
        ({"type": "org.kubeflow.serving.inference.reqest"}, "type"),
        ({"time": "noon"}, "time 'noon'"),
        ({"time": None}, "time None"),
        ({"source": None, "annotations": {}}, "no revision"),
    ],
)
def test_an_event_without_what_it_needs(
    lake: Lake, log: Log, rows: Rows, damage: dict[str, Any], expected: str
) -> None:
    line = json.dumps(json.loads(prediction("a")[0]) | damage) + "\n"
    log.segment("1", line)
    assert ingest(lake, log) == IngestReport(segments=1, bad=1)
    ((number, reason),) = rows("SELECT line, reason FROM quarantine")
    assert number == 1
    assert reason.startswith(expected)


def test_a_value_that_does_not_fit_is_null_and_noted(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment(
        "1",
        *prediction("a", inputs={"distance": ["far"], "origin": ["JFK"]}),
        *prediction("b", inputs={"distance": [1.0, "x"], "origin": ["JFK", "LGA"]}),
    )
    assert ingest(lake, log) == IngestReport(segments=1, rows=3, bad=2)
    assert rows('SELECT features.distance FROM predictions ORDER BY request_id, "row"') == [
        (None,),
        (1.0,),
        (None,),
    ]
    assert rows("SELECT reason, raw FROM quarantine ORDER BY raw") == [
        ("features.distance == far is not DOUBLE", "request a"),
        ("features.distance == x is not DOUBLE", "request b"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        {"instances": [[1, 2]]},
        {"inputs": [{"name": "distance", "shape": [10**12], "datatype": "FP64", "data": [1.0]}]},
        {"inputs": [{"name": "distance", "shape": [], "datatype": "FP64", "data": []}]},
        {"inputs": [{"name": "distance", "shape": [-1], "datatype": "FP64", "data": None}]},
        {"inputs": "nothing"},
    ],
)
def test_odd_payloads_are_rows_without_the_value(
    lake: Lake, log: Log, rows: Rows, data: dict[str, Any]
) -> None:
    log.segment("1", *prediction("a", data=data), *prediction("b"))
    assert ingest(lake, log).rows == 2
    assert rows("SELECT status FROM predictions WHERE request_id = 'a'") == [(200,)]


def test_an_abandoned_segment_is_sealed_and_loaded(lake: Lake, log: Log) -> None:
    path = log.segment("1", *predictions("a", 2))
    path.rename(path.with_suffix(".open"))
    assert ingest(lake, log) == IngestReport(segments=1, rows=2)


def test_portions_bound_what_is_held_at_once(lake: Lake, log: Log, rows: Rows) -> None:
    for name in "123":
        log.segment(name, *predictions(name, 4))
    assert ingest(lake, log, portion_bytes=1) == IngestReport(segments=3, rows=12)
    assert rows("SELECT count(DISTINCT loaded_at) FROM segments") == [(3,)]


def test_an_empty_log_is_nothing_to_do(lake: Lake, log: Log) -> None:
    assert ingest(lake, log) == IngestReport()
    log.segment("1")
    assert ingest(lake, log) == IngestReport(segments=1)
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions / "none") == IngestReport()


def test_a_lake_that_cannot_be_opened_says_why(log: Log, tmp_path: Any) -> None:
    (tmp_path / "occupied").write_text("not a database, but long enough to be looked at as one " * 20)
    lake = Lake(f"sqlite:{tmp_path}/occupied", str(tmp_path / "data"), tmp_path)
    with pytest.raises(LakeError, match="not a database"):
        ingest(lake, log)


def test_a_segment_of_rubbish_is_counted_whole_and_kept_in_part(lake: Lake, log: Log, rows: Rows) -> None:
    log.segment("1", *["[" * 20_000 + "\n"], *["rubbish\n"] * 1500, *prediction("a"))
    assert ingest(lake, log) == IngestReport(segments=1, rows=1, bad=1501)
    assert rows("SELECT count(*), max(reason) FILTER (line IS NULL) FROM quarantine") == [
        (1001, "501 more lines that are not readable")
    ]
    assert rows("SELECT rows, bad FROM segments") == [(1, 1501)]
