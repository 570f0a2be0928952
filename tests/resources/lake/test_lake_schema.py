"""Tables follow the signatures of the versions that come."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipelines.core.errors import SignatureConflict
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.schema import ensure_tables, fields
from resources.lake.windows import window
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, prediction

Rows = Callable[[str], list[tuple[Any, ...]]]

PROBABILITY = (Column("probability", "double"),)


def load(lake: Lake, log: Log, name: str, *inputs: Column, **values: Any) -> None:
    columns = {column: [value] for column, value in values.items()}
    log.segment(name, *prediction(name, inputs=columns))
    ingest_predictions(lake, MODEL, ModelSchema(inputs, PROBABILITY), log.predictions)


def columns(lake: Lake) -> tuple[list[str], list[str]]:
    with lake.connect() as connection:
        features, outputs = fields(connection, MODEL)
    return list(features), list(outputs)


def test_a_new_column_is_added_and_old_rows_have_none(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("distance", "double"), distance=1.0)
    load(lake, log, "2", Column("distance", "double"), Column("wind", "double"), distance=2.0, wind=9.5)
    found = rows("SELECT features.distance, features.wind FROM predictions ORDER BY request_id")
    assert found == [(1.0, None), (2.0, 9.5)]
    assert columns(lake) == (["distance", "wind"], ["probability"])


def test_a_column_that_a_version_drops_stays(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("distance", "double"), Column("wind", "double"), distance=1.0, wind=9.5)
    load(lake, log, "2", Column("distance", "double"), distance=2.0)
    found = rows("SELECT features.distance, features.wind FROM predictions ORDER BY request_id")
    assert found == [(1.0, 9.5), (2.0, None)]


@pytest.mark.parametrize(
    ("old", "new", "before", "after"),
    [("integer", "long", 7, 2**40), ("integer", "double", 7, 7.5), ("long", "double", 7, 7.5), ("float", "double", 0.5, 0.1), ("float", "long", 0.5, 2**40), ("long", "float", 2**40, 0.5)],
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
    words = (
        r"features\.origin is string \(VARCHAR\) in the lake, .* and double \(DOUBLE\) in the new version's"
    )
    with pytest.raises(SignatureConflict, match=words):
        load(lake, log, "2", Column("origin", "double"), Column("more", "double"), origin=1.0)
    assert columns(lake)[0] == ["origin"]
    assert rows("SELECT count(*) FROM predictions") == [(1,)]


def test_a_list_is_widened_and_a_single_value_does_not_fit_it(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("x", "integer", shape=(-1,)), x=[1, 2])
    load(lake, log, "2", Column("x", "double", shape=(3,)), x=[0.5, 1.5, 2.5])
    assert rows("SELECT features.x FROM predictions ORDER BY request_id") == [([1, 2],), ([0.5, 1.5, 2.5],)]
    with pytest.raises(SignatureConflict, match=r"is a list of double \(DOUBLE\[\]\) in the lake"):
        load(lake, log, "3", Column("x", "double"), x=1.0)


def test_a_column_that_differs_by_case_alone_is_the_same_column(lake: Lake, log: Log, rows: Rows) -> None:
    load(lake, log, "1", Column("distance", "integer"), Column("Größe", "double"), distance=1, Größe=1.5)
    load(lake, log, "2", Column("Distance", "double"), Column("GRÖSSE", "double"), Distance=2.5, GRÖSSE=2.5)
    load(lake, log, "3", Column("DISTANCE", "double"), Column("größe", "double"), DISTANCE=3.5, größe=3.5)
    found = rows(
        'SELECT features.distance, features."Größe", features."GRÖSSE" FROM predictions ORDER BY request_id'
    )
    assert found == [(1.0, 1.5, None), (2.5, None, 2.5), (3.5, 3.5, None)]
    assert columns(lake)[0] == ["distance", "Größe", "GRÖSSE"]


@pytest.mark.parametrize(
    "name", ["it's", 'say "x"', "a b", "select", "d'; DROP TABLE x; --", "größe", "%s $1 {x}"]
)
def test_names_are_names_whatever_is_in_them(lake: Lake, log: Log, name: str) -> None:
    load(lake, log, "1", Column(name, "double"), Column("other", "string"), **{name: 1.0, "other": "$x"})
    assert columns(lake)[0][0] == name
    frame = window(lake, MODEL, START, START + timedelta(days=1))
    assert frame[f"features.{name}"].tolist() == [1.0]
    assert frame["features.other"].tolist() == ["$x"]


def test_a_column_that_never_had_a_value_and_that_nothing_served_has_takes_another_type(
    lake: Lake, log: Log, rows: Rows
) -> None:
    """A version that never answered must not fix the types of those that mend it."""
    load(lake, log, "1", Column("distance", "double"), distance=1.0)

    def grown(*inputs: Column, spoken_for: list[str] | None) -> None:
        with lake.connect() as connection:
            schema = ModelSchema((Column("distance", "double"), *inputs), PROBABILITY)
            ensure_tables(lake, connection, MODEL, schema, spoken_for=spoken_for)

    grown(Column("wind", "string"), Column("more", "long", shape=(-1,)), spoken_for=["features.distance"])
    for spoken_for in (None, ["features.Wind"]):
        with pytest.raises(SignatureConflict, match=r"features\.wind is string"):
            grown(Column("wind", "double"), spoken_for=spoken_for)
    grown(Column("Wind", "double"), Column("gust", "double"), spoken_for=["features.distance"])
    load(lake, log, "2", Column("distance", "double"), Column("wind", "double"), distance=2.0, wind=9.5)
    found = rows(
        "SELECT features.distance, features.wind, features.more FROM predictions ORDER BY request_id"
    )
    assert found == [(1.0, None, None), (2.0, 9.5, None)]
    with pytest.raises(SignatureConflict, match=r"features\.wind is double"):
        grown(Column("wind", "string"), spoken_for=[])


def test_a_struct_of_columns_without_values_is_made_anew(lake: Lake, log: Log, rows: Rows) -> None:
    with lake.connect() as connection:
        for kind in ("string", "double"):
            schema = ModelSchema((Column("x", kind),), (Column("y", kind),))
            ensure_tables(lake, connection, MODEL, schema, spoken_for=[])
    log.segment("1", *prediction("a", inputs={"x": [1.5]}, outputs={"y": [2.5]}))
    ingest_predictions(lake, MODEL, None, log.predictions)
    assert rows("SELECT features.x, outputs.y FROM predictions") == [(1.5, 2.5)]
