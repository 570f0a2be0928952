"""What is taken to be in the lake is: nothing that is still open, or closed and not loaded, is counted on."""

import os
from datetime import datetime, timedelta
from pathlib import Path

from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.windows import complete_until, longest_latency, mark_ingested
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

SECOND = timedelta(seconds=1)

NOW = START + 60 * SECOND


def until(lake: Lake, log: Log) -> datetime:
    return complete_until(lake, MODEL, predictions=log.predictions, outcomes=log.outcomes, now=NOW)


def lines(name: str, seconds: float, **options: float) -> str:
    return "".join(prediction(name, version="1", at=seconds * SECOND, **options))


def test_it_ends_where_the_oldest_segment_begins_that_is_not_loaded(lake: Lake, log: Log) -> None:
    folder: Path = log.predictions
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "m-1.w.00000001.jsonl").write_text(lines("a", 10))
    ingest_predictions(lake, MODEL, SCHEMA, folder)
    assert until(lake, log) == NOW
    (folder / "m-1.w.00000003.open").write_text(lines("c", 50))
    assert until(lake, log) == START + 50 * SECOND
    (folder / "m-1.w.00000002.jsonl").write_text(lines("b", 40))
    (folder / "m-2.v.00000001.open").write_text(lines("d", 45))
    assert until(lake, log) == START + 40 * SECOND
    ingest_predictions(lake, MODEL, SCHEMA, folder)  # seals what nobody has locked, and loads it
    assert until(lake, log) == NOW


def test_segments_that_name_no_writer_are_looked_at_one_by_one(lake: Lake, log: Log) -> None:
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.predictions.mkdir(parents=True, exist_ok=True)
    (log.predictions / "blob-aa.jsonl").write_text(lines("a", 50))
    (log.predictions / "blob-bb.jsonl").write_text(lines("b", 20))
    assert until(lake, log) == START + 20 * SECOND


def test_an_empty_segment_holds_nothing_back_and_a_torn_one_counts_from_its_last_change(
    lake: Lake, log: Log
) -> None:
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.predictions.mkdir(parents=True, exist_ok=True)
    (log.predictions / "m-1.w.00000001.open").touch()
    assert until(lake, log) == NOW
    torn, changed = log.predictions / "m-1.w.00000001.open", START + 20 * SECOND
    torn.write_text('{"torn')
    os.utime(torn, (changed.timestamp(), changed.timestamp()))
    assert until(lake, log) == changed


def test_it_ends_where_the_last_ingestion_began(lake: Lake, log: Log) -> None:
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    log.outcomes.mkdir(parents=True, exist_ok=True)
    mark_ingested(log.outcomes, START + 30 * SECOND)
    assert until(lake, log) == START + 30 * SECOND


def test_the_longest_latency_of_the_last_minutes(lake: Lake, log: Log) -> None:
    log.predictions.mkdir(parents=True, exist_ok=True)
    slow = lines("old", -600, latency_ms=9000.0) + lines("a", 1, latency_ms=700.0) + lines("b", 2)
    (log.predictions / "m-1.w.00000001.jsonl").write_text(slow)
    assert longest_latency(lake, MODEL, NOW) == timedelta(0), "no tables yet"
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert longest_latency(lake, MODEL, NOW) == timedelta(milliseconds=700)
