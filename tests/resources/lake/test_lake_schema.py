"""Tables follow the signatures of the versions that come."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipelines.errors import LakeError
from resources.lake import (
    Column,
    Lake,
    ModelSchema,
    feature_columns,
    ingest_predictions,
    output_columns,
    window,
)
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

Rows = Callable[[str], list[tuple[Any, ...]]]
PROBABILITY = (Column("probability", "double"),)


def load(lake: Lake, log: Log, name: str, *inputs: Column, **values: Any) -> None:
    columns = {column: [value] for column, value in values.items()}
    log.segment(name, *prediction(name, inputs=columns))
    ingest_predictions(lake, MODEL, ModelSchema(inputs, PROBABILITY), log.predictions)


def test_a_new_column_is_added_and_old_rows_have_none(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("distance", "double"), distance=1.0)
    load(lake, log, "2", Column("distance", "double"), Column("wind", "double"), distance=2.0, wind=9.5)
    found = rows("SELECT features.distance, features.wind FROM predictions ORDER BY request_id")
    assert found == [(1.0, None), (2.0, 9.5)]
    assert feature_columns(lake, MODEL) == ["features.distance", "features.wind"]
    assert output_columns(lake, MODEL) == ["outputs.probability"]


def test_a_column_that_a_version_drops_stays(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("distance", "double"), Column("wind", "double"), distance=1.0, wind=9.5)
    load(lake, log, "2", Column("distance", "double"), distance=2.0)
    found = rows("SELECT features.distance, features.wind FROM predictions ORDER BY request_id")
    assert found == [(1.0, 9.5), (2.0, None)]


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [("integer", "long", 7, 2**40), ("integer", "double", 7, 7.5), ("long", "double", 7, 7.5), ("float", "double", 0.5, 0.1)],
)  # fmt: skip
def test_a_column_is_widened(
    lake: Lake, log: Log, rows: Rows, old: str, new: str, before: float, after: float
) -> None:
    load(lake, log, "1", Column("x", old), x=before)
    load(lake, log, "2", Column("x", new), x=after)
    assert rows("SELECT features.x FROM predictions ORDER BY request_id") == [(before,), (after,)]


def test_a_narrower_version_writes_into_the_wider_column(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("x", "double"), x=1.5)
    load(lake, log, "2", Column("x", "integer"), x=2)
    assert rows("SELECT features.x FROM predictions ORDER BY request_id") == [(1.5,), (2.0,)]


def test_waiting_halves_survive_a_change(lake: Lake, log: Log, rows: Rows) -> None:
    asked, answered = prediction("early", inputs={"distance": [1.0]})
    log.segment("1", asked)
    ingest_predictions(
        lake, MODEL, ModelSchema((Column("distance", "double"),), PROBABILITY), log.predictions
    )
    log.segment("2", answered)
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    assert rows("SELECT features.distance, features.origin FROM predictions") == [(1.0, None)]


def test_types_that_do_not_fit_are_refused_by_name(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("origin", "string"), origin="JFK")
    with pytest.raises(LakeError, match=r"features\.origin is VARCHAR in the lake and DOUBLE in the new"):
        load(lake, log, "2", Column("origin", "double"), Column("more", "double"), origin=1.0)
    assert feature_columns(lake, MODEL) == ["features.origin"]
    assert rows("SELECT count(*) FROM predictions") == [(1,)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "no inputs"),
        ((Column("x", "binary"),), "'x' has type 'binary', must be one of double, float"),
        ((Column("x", "double"), Column("X", "double")), "second column 'X'"),
        ((Column("", "double"),), "name ''"),
        ((Column("a\0b", "double"),), "printable"),
    ],
)
def test_signatures_the_lake_cannot_hold(inputs: tuple[Column, ...], message: str) -> None:
    with pytest.raises(LakeError, match=message):
        ModelSchema(inputs, PROBABILITY)


def test_case_alone_does_not_make_a_new_column(lake: Lake, log: Log) -> None:
    load(lake, log, "1", Column("distance", "double"), distance=1.0)
    with pytest.raises(LakeError, match=r"features\.Distance differs from features\.distance by case"):
        load(lake, log, "2", Column("Distance", "double"), Distance=1.0)


@pytest.mark.parametrize(
    "name", ["it's", 'say "x"', "a b", "select", "d'; DROP TABLE x; --", "größe", "%s $1 {x}"]
)
def test_names_are_names_whatever_is_in_them(lake: Lake, log: Log, name: str) -> None:
    load(lake, log, "1", Column(name, "double"), Column("other", "string"), **{name: 1.0, "other": "$x"})
    assert feature_columns(lake, MODEL)[0] == f"features.{name}"
    frame = window(lake, MODEL, START, START + timedelta(days=1))
    assert frame[f"features.{name}"].tolist() == [1.0]
    assert frame["features.other"].tolist() == ["$x"]
