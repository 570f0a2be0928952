"""Whoever may send a request, or write a line of the log, must not stop the lake."""

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines.core.errors import LakeError
from pipelines.core.manifest.model import PredictionLog
from resources.lake import ingest, segments
from resources.lake.connection import Lake, identifier
from resources.lake.ingest import IngestReport, ingest_predictions
from resources.lake.outcomes import OutcomeReport, ingest_outcomes
from resources.lake.segments import is_about_content
from resources.lake.windows import complete_until, longest_latency
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import (
    MODEL,
    SCHEMA,
    START,
    Log,
    lake_below,
    prediction,
    predictions,
)

Rows = Callable[[str], list[tuple[Any, ...]]]

WIDE = ModelSchema(
    (
        *(Column(f"f{i}", "double") for i in range(6)),
        Column("name", "string"),
        Column("pair", "float", shape=(-1, 2)),
    ),
    (Column("probability", "double"),),
)


def batch(request_id: str, rows: int, **options: Any) -> tuple[str, str]:
    """One request of so many rows, wide enough to hurt."""
    inputs: dict[str, list[Any]] = {f"f{i}": [i + row / 8 for row in range(rows)] for i in range(6)}
    inputs |= {"name": [f"row {row}" for row in range(rows)], "pair": [[row, -row] for row in range(rows)]}
    return prediction(
        request_id, inputs=inputs, outputs={"probability": [row / rows for row in range(rows)]}, **options
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_below(tmp_path, threads=2)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.below(tmp_path)


@pytest.fixture
def rows(lake: Lake) -> Rows:
    def read(query: str) -> list[tuple[Any, ...]]:
        with lake.connect() as connection:
            connection.execute(f'USE lake."{MODEL}"')
            return connection.execute(query).fetchall()

    return read


@pytest.fixture
def small(lake: Lake) -> Lake:
    """With a quarter of the memory that a lake has."""
    return Lake(lake.catalog, lake.data_path, lake.home, memory_limit="256MB")


def test_a_batch_of_5_000_rows_is_loaded_and_does_not_stop_the_lake(
    small: Lake, log: Log, rows: Rows
) -> None:
    log.segment("1", *batch("large", 5_000))
    log.segment("2", *batch("after", 2))
    report = ingest_predictions(small, MODEL, WIDE, log.predictions)
    assert report == IngestReport(segments=2, rows=5_002)
    found = rows(
        """SELECT count(*), count(DISTINCT "row"), bool_and(features.f3 = 3 + "row" / 8),
            bool_and(features.name = 'row ' || "row"), bool_and(features.pair = ["row", -"row"]::FLOAT[]),
            bool_and(outputs.probability = "row" / 5000) FROM predictions WHERE request_id = 'large'"""
    )
    assert found == [(5_000, 5_000, True, True, True, True)]


def test_a_request_of_more_rows_than_the_manifest_allows_is_in_the_quarantine_alone(
    lake: Lake, log: Log, rows: Rows
) -> None:
    log.segment("1", *prediction("before"), *batch("large", 11), *prediction("after"))
    report = ingest_predictions(lake, MODEL, WIDE, log.predictions, limits=PredictionLog(max_rows=10))
    assert report == IngestReport(segments=1, rows=2, bad=2)
    assert rows("SELECT line, reason FROM quarantine WHERE line IS NOT NULL ORDER BY line") == [
        (3, "11 rows in one request; prediction_log.max_rows allows 10"),
        (4, "11 rows in one request; prediction_log.max_rows allows 10"),
    ]


def test_a_segment_that_breaks_the_loading_alone_is_in_the_quarantine_and_the_rest_is_loaded(
    lake: Lake, log: Log, rows: Rows
) -> None:
    """Requests of a megabyte each, for a lake that has 80 MB of memory."""
    poor = Lake(lake.catalog, lake.data_path, lake.home, memory_limit="80MB", threads=1)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.segment("1", *prediction("before"))
    fat = ["x" * 300] * 4_000
    large = log.segment(
        "2", *(line for i in range(12) for line in prediction(f"fat-{i}", inputs={"origin": fat}))
    )
    log.segment("3", *prediction("after"))
    assert ingest_predictions(poor, MODEL, SCHEMA, log.predictions) == IngestReport(segments=3, rows=2, bad=1)
    assert rows("SELECT request_id FROM predictions ORDER BY request_id") == [("after",), ("before",)]
    ((segment, reason),) = rows("SELECT segment, reason FROM quarantine")
    assert segment == large.name
    assert reason.startswith("the whole segment could not be loaded: Out of Memory")
    assert ingest_predictions(poor, MODEL, SCHEMA, log.predictions) == IngestReport()


def test_a_line_longer_than_any_reader_holds_costs_that_line(
    lake: Lake, log: Log, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "LONGEST_LINE", 1 << 20)
    limits = PredictionLog(max_bytes=1024)
    long = json.dumps({"id": "x" * (3 << 20)}) + "\n"
    path = log.segment("1", *prediction("a"), long, *prediction("b"), long.strip())
    log.outcome_file(
        "1", long.strip(), {"id": "1", "key": "a", "at": START.isoformat(), "values": {"late": 1}}
    )
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions, limits=limits) == IngestReport(
        segments=1, rows=2, bad=2
    )
    assert ingest_outcomes(lake, MODEL, log.outcomes) == OutcomeReport(segments=1, rows=1, bad=1)
    assert rows("SELECT source, line, reason FROM quarantine ORDER BY ALL") == [
        ("outcomes", 1, "a line of 3,145,739 bytes; at most 1,048,576 are read"),
        ("predictions", 3, "a line of 3,145,739 bytes; at most 1,048,576 are read"),
        ("predictions", 6, "a line of 3,145,738 bytes; at most 1,048,576 are read"),
    ]
    assert path.exists()


@pytest.mark.parametrize(
    ("error", "content"),
    [
        (duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB"), True),
        (duckdb.OutOfMemoryException("failed to allocate data of size 2.0 GiB (1.0 GiB/953.6 MiB used)"), True),
        (duckdb.OutOfMemoryException("Out of Memory Error: failed to offload data block, 'max_temp_directory_size'"), False),
        (duckdb.OutOfMemoryException("Out of Memory Error: Allocation failure"), False),
        (duckdb.InvalidInputException('"maximum_object_size" of 1048576 bytes exceeded'), True),
        (duckdb.ConversionException("Could not convert string"), True),
        (duckdb.IOException("Could not write file: No space left on device"), False),
        (duckdb.IOException("Could not set lock on file"), False),
        (duckdb.TransactionException("Failed to commit"), False),
        (duckdb.FatalException("database has been invalidated"), False),
        (duckdb.InternalException("assertion"), False),
        (duckdb.CatalogException("Table does not exist"), False),
        (duckdb.InterruptException("interrupted"), False),
        (duckdb.Error("something that nobody knows"), False),
        (LakeError("too many writers"), False),
    ],
)  # fmt: skip
def test_only_what_a_segment_holds_puts_it_into_the_quarantine(error: Exception, content: bool) -> None:
    """A lake whose disk is full, whose catalogue is away or locked, or that fails in a way that nobody knows: never."""
    assert is_about_content(error) is content


def test_a_lake_that_cannot_load_anything_throws_nothing_out(
    lake: Lake, log: Log, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory for an empty portion as well: the fault is not the segment's."""
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.segment("1", *prediction("a"))
    with monkeypatch.context() as broken:

        def out_of_memory(*_: object, **__: object) -> None:
            raise duckdb.OutOfMemoryException("could not allocate block")

        broken.setattr(ingest, "read_events", out_of_memory)
        with pytest.raises(LakeError, match="could not allocate"):
            ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert rows("SELECT count(*) FROM quarantine") == [(0,)]
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows == 1


LONG = "é" * 200


def test_an_id_of_any_length_is_no_id_and_its_answer_is_loaded_all_the_same(
    lake: Lake, log: Log, rows: Rows
) -> None:
    log.segment(
        "1",
        *prediction("a", unit=LONG, caller=LONG, call="call-a"),
        *prediction("b", call=LONG, assignment=LONG),
        *prediction(LONG),
        *prediction(LONG + "é"),
        *prediction("d", unit="u" * 256),
    )
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions) == IngestReport(segments=1, rows=5, bad=2)
    found = rows("SELECT request_id, caller_id, unit_id, assignment FROM predictions ORDER BY ALL")
    assert [row for row in found if not row[0].startswith("sha256-")] == [
        ("b", None, "unit", None), ("call-a", None, None, "weighted"), ("d", None, "u" * 256, "weighted"),
    ]  # fmt: skip
    assert all(len(row[0]) == 71 for row in found if row[0].startswith("sha256-"))
    said = dict(rows("SELECT raw, reason FROM quarantine"))
    assert said["request call-a"] == (
        "x-unit-id of 400 bytes, x-request-id of 400 bytes, longer than 256: not taken as an id"
    )
    assert said["request b"].startswith("x-call-id of 400 bytes, x-assignment of 400 bytes")


def test_an_id_that_a_caller_repeats_at_the_same_time_keeps_no_answer_out(
    lake: Lake, log: Log, rows: Rows
) -> None:
    """As the predictor writes it (a record id of its own), and as KServe's logger does (the caller's `Ce-Id`)."""
    second = timedelta(seconds=1)
    log.segment(
        "1", *(line for i in range(9) for line in prediction(f"record-{i}", caller="mine", call=f"c{i}"))
    )
    overlapping = [prediction("mine", at=i * second, latency_ms=5_000) for i in range(4)]
    log.segment("2", *(line for pair in overlapping for line in pair))
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions) == IngestReport(segments=2, rows=13)
    assert rows("SELECT count(DISTINCT request_id) FROM predictions WHERE caller_id = 'mine'") == [(9,)]


def test_what_one_outcome_holds_is_loaded_in_memory_that_grows_with_it(small: Lake, log: Log) -> None:
    log.segment("1", *predictions("a", 1))
    ingest_predictions(small, MODEL, SCHEMA, log.predictions)
    values = {f"metric_{i}": i for i in range(20_000)}
    log.outcome_file("1", {"id": "1", "key": "a-0", "at": START.isoformat(), "values": values})
    assert ingest_outcomes(small, MODEL, log.outcomes) == OutcomeReport(segments=1, rows=20_000)


FAR = [
    "infinity",
    "-infinity",
    "290309-12-22 (BC) 00:00:00+00",
    "294247-01-10T04:00:54.775806Z",
    "0001-01-01T00:00:00Z",
]


def test_a_time_that_nothing_can_be_counted_from_is_quarantined_alone(
    lake: Lake, log: Log, rows: Rows
) -> None:
    odd = [line for at in FAR for line in _at(at, *prediction(f"odd {at}"))]
    log.segment("1", *prediction("first"), *odd, *prediction("last"))
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions) == IngestReport(
        segments=1, rows=2, bad=2 * len(FAR)
    )
    good = {"key": "first", "at": "2026-01-01T01:00:00Z", "values": {"x": 1}}
    log.outcome_file(
        "1", {**good, "id": "a"}, *({**good, "id": at, "at": at} for at in FAR), {**good, "id": "b"}
    )
    report = ingest_outcomes(lake, MODEL, log.outcomes)
    assert (report.rows, report.bad) == (2, len(FAR))
    assert not [reason for (reason,) in rows("SELECT reason FROM quarantine") if "segment" in reason]


def _at(time: str, *lines: str) -> list[str]:
    return [json.dumps(json.loads(line) | {"time": time}) + "\n" for line in lines]


def test_an_id_with_a_nul_which_ends_the_catalogues_queries_stops_neither_predictions_nor_outcomes(
    lake: Lake, log: Log, rows: Rows
) -> None:
    for number in range(3):
        log.segment(f"0{number}", *predictions(f"before {number}", 20))
        ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.segment(
        "1",
        *prediction("first"),
        *prediction("i\0d", unit="u\0", call="c\0", caller="r\0"),
        *prediction("\0"),
        *prediction("revision", revision="re\0vision"),
        *prediction("last"),
    )
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows == 4
    log.segment("2", *prediction("after"))
    assert ingest_predictions(lake, MODEL, SCHEMA, log.predictions).rows == 1
    good = {"key": "first", "at": "2026-01-01T01:00:00Z", "values": {"x": 1}}
    odd = [{"key": "k\0"}, {"id": "i\0"}, {"values": {"m\0": 1}}]
    log.outcome_file(
        "1", {**good, "id": "a"}, *({**good, "id": "odd", **each} for each in odd), {**good, "id": "b"}
    )
    report = ingest_outcomes(lake, MODEL, log.outcomes)
    assert (report.rows, report.bad) == (2, 3)
    ids = "SELECT concat_ws(' ', request_id, revision, unit_id, caller_id) FROM predictions"
    assert not [text for (text,) in rows(ids) if "\0" in text]


def test_a_latency_that_no_clock_measured_does_not_stop_whoever_asks_for_the_longest(
    lake: Lake, log: Log
) -> None:
    for number, said in enumerate(("1e308", "1e400", "NaN", "-1e308", "5e18", "-5")):
        asked, answered = prediction(f"r{number}", latency_ms=7.5)
        log.segment(str(number), asked, answered.replace('"latencyms": 7.5', f'"latencyms": {said}'))
    log.segment("9", *prediction("ordinary", latency_ms=7.5))
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert longest_latency(lake, MODEL, START + timedelta(seconds=1)) == timedelta(milliseconds=7.5)


def test_a_first_line_that_says_no_time_in_any_way_delays_evidence_and_does_not_break_it(
    lake: Lake, log: Log
) -> None:
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    deep = "[" * 5_000 + "]" * 5_000
    odd = [
        deep,
        f'{{"time": {deep}}}',
        '{"time": "0001-01-01T00:00:00+23:00"}',
        '{"time": "2026-01-01T00:00:00"}',
    ]
    for line in odd:
        path = log.segment("1", line + "\n")
        changed = START - timedelta(hours=1)
        os.utime(path, (changed.timestamp(), changed.timestamp()))
        found = complete_until(lake, MODEL, predictions=log.predictions, now=START + timedelta(days=1))
        assert found == (START if line == odd[-1] else changed)


def test_no_name_of_a_column_loses_its_values(lake: Lake, log: Log, rows: Rows) -> None:
    """Keywords, names of our own columns, and letters with more than one lower case."""
    names = [
        "select",
        "row",
        "names",
        "tensors",
        "r0",
        "batch",
        "$x",
        "it's",
        '"q"',
        "a;b",
        " lead",
        "İ",
        "ẞ",
        "ǅ",
    ]
    schema = ModelSchema(
        tuple(Column(name, "double") for name in names), (Column("order", "double"), Column("İ", "double"))
    )
    for count in (1, 3):
        outputs = {"order": [1.0] * count, "İ": [1.0] * count}
        lines = prediction(f"of {count}", inputs={name: [1.0] * count for name in names}, outputs=outputs)
        log.segment(str(count), *lines)
    assert ingest_predictions(lake, MODEL, schema, log.predictions) == IngestReport(segments=2, rows=4)
    every = " AND ".join(f"features.{identifier(name)} = 1" for name in names)
    assert rows(f'SELECT count(*) FROM predictions WHERE {every} AND outputs."İ" = 1') == [(4,)]
