"""Units told apart by an input of the model: as it was at their first request, each in one slice of each column."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.core.errors import LakeError
from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.effects import Sums
from pipelines.core.statistics.slices import SliceColumn, slices_of
from pipelines.experiments.look_inputs import newly_final
from resources.lake.buckets import collect
from resources.lake.connection import Lake
from resources.lake.examples import MOST_EXAMPLES, bad_examples
from resources.lake.experiment import ExperimentQuery, MetricQuery, Span, StepWindow
from resources.lake.schema import ensure_tables
from resources.lake.slices import frequent_values, inputs_held, sliceable
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, lake_below

SECOND = timedelta(seconds=1)

ORIGIN, DISTANCE = SliceColumn("Origin", ("O1", "O2")), SliceColumn("distance", ("0.0", "3.0"))

METRICS = (
    MetricQuery(name="errors", kind=UnitValue.ANY, source="serving.errors"),
    MetricQuery(name="latency", kind=UnitValue.AMOUNT, source="predictions.latency_ms"),
    MetricQuery(
        name="ratio",
        kind=UnitValue.RATIO,
        source="predictions.latency_ms",
        denominator="predictions.distance",
    ),
    MetricQuery(name="cost", kind=UnitValue.AMOUNT, source="outcomes.cost", reference=1.5),
)

WATERMARK = START + 2500 * SECOND


def query(*, by_request: bool = True, after: int | None = None, **changes: Any) -> ExperimentQuery:
    """A look that is told 2,500 of 3,000 seconds; `after` so many seconds the one before it was."""
    span = Span(None if after is None else START + after * SECOND, WATERMARK)
    return replace(
        ExperimentQuery(
            champion="1",
            challenger="2",
            steps=(
                StepWindow(START, START + 1050 * SECOND, 0),
                StepWindow(START + 1060 * SECOND, START + 3000 * SECOND, 1),
            ),
            metrics=METRICS,
            outcome_window=60 * SECOND,
            watermark=WATERMARK,
            by_request=by_request,
            bucket=100 * SECOND,
            slices=(ORIGIN, DISTANCE),
            sliced={metric.name: span for metric in METRICS},
        ),
        **changes,
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """A request a second for 3,000 seconds, three of each unit; O0 to O2, and a fourth without an origin."""
    lake = lake_below(tmp_path_factory.mktemp("sliced"))
    with lake.connect() as connection:
        ensure_tables(lake, connection, MODEL, SCHEMA)
        connection.execute(
            f"""INSERT INTO lake."{MODEL}".predictions BY NAME
            SELECT 'r' || i AS request_id, r AS "row", 'u' || (i // 3) AS unit_id, 'b' AS revision,
                CASE WHEN hash(i // 3) % 2 = 0 THEN '1' ELSE '2' END AS version, 'weighted' AS assignment,
                $start + to_seconds(i) AS requested_at, (hash(i) % 100)::DOUBLE AS latency_ms,
                CASE WHEN hash(i, 9) % 10 = 0 THEN 500 ELSE 200 END AS status,
                {{'distance': CASE WHEN i % 7 = 6 THEN 'NaN'::DOUBLE ELSE (i % 7)::DOUBLE END,
                    'origin': CASE WHEN i % 4 < 3 THEN 'O' || CASE WHEN r = 0 THEN i % 4 ELSE 9 END END}} AS features,
                {{'probability': 0.5::DOUBLE}} AS outputs, 's' AS segment
            FROM range(3000) t(i), range(2) s(r)""",
            {"start": START},
        )
        connection.execute(
            f"""INSERT INTO lake."{MODEL}".outcomes BY NAME
            SELECT 'o' || i AS id, 'r' || i AS key, 'cost' AS metric, (hash(i, 3) % 5)::DOUBLE AS value,
                $start + to_seconds(i + 30) AS "at", 's' AS segment FROM range(0, 3000, 2) t(i)""",
            {"start": START},
        )
    yield lake


@pytest.mark.parametrize("after", [None, 1400])
@pytest.mark.parametrize("by_request", [True, False])
def test_each_columns_slices_add_up_to_what_became_final_of_all_units(
    lake: Lake, by_request: bool, after: int | None
) -> None:
    asked = query(by_request=by_request, after=after)
    found = collect(lake, MODEL, asked)
    assert found.batch is not None
    final = newly_final(found.cells, asked, dict(asked.sliced))
    assert len({cell.metric for cell in final}) == 4
    sizes = np.cumsum([0, *(len(column.slices) for column in asked.slices)])
    for name, sums in found.batch.sums.items():
        for row, step in enumerate(found.batch.steps):
            cells = [cell for cell in final if (cell.metric, cell.step) == (name, step)]
            for side in (0, 1):
                whole = np.zeros(len(Sums._fields))
                for cell in cells:
                    whole += np.array((cell.champion, cell.challenger)[side])
                for begin, end in zip(sizes, sizes[1:], strict=False):
                    assert sums[row, begin:end, side].sum(axis=0) == pytest.approx(whole), (name, step)


def test_a_unit_is_what_its_first_request_was_by_the_first_row_of_it(lake: Lake) -> None:
    """The units' requests are three in a row of four origins: u0 begins with O0, u1 with none, u2 with O2, u3 with O1."""
    places = [each.words for each in slices_of((ORIGIN,))]
    assert places == ["Origin is O1", "Origin is O2", "Origin is any other value", "Origin is missing"]
    found = collect(lake, MODEL, query(by_request=False, slices=(ORIGIN,))).batch
    assert found is not None
    units = found.sums["errors"][..., 0].sum(axis=(0, 2))
    assert units.sum() == pytest.approx(2500 / 3, abs=40)
    assert units == pytest.approx(np.full(4, units.sum() / 4), abs=2), "a quarter each"


def test_not_a_number_is_no_value(lake: Lake) -> None:
    found = collect(lake, MODEL, query(slices=(DISTANCE,))).batch
    assert found is not None
    units = found.sums["errors"][..., 0].sum(axis=(0, 2))
    assert units / units.sum() == pytest.approx([1 / 7, 1 / 7, 4 / 7, 1 / 7], abs=0.01)


def test_what_is_counted_elsewhere_is_read_by_slice_alone(lake: Lake) -> None:
    found = collect(lake, MODEL, query(slices_alone=frozenset({"errors"})))
    assert {cell.metric for cell in found.cells} == {"latency", "ratio", "cost"}
    assert found.batch is not None and "errors" in found.batch.sums
    assert collect(lake, MODEL, query(slices=(), sliced={})).batch is None


def test_the_most_frequent_values_are_told_first(lake: Lake) -> None:
    span = {"versions": ["1", "2"], "start": START, "until": WATERMARK}
    assert frequent_values(lake, MODEL, "ORIGIN", **span) == ("O0", "O1", "O2")
    assert frequent_values(lake, MODEL, "origin", versions=["3"], start=START, until=WATERMARK) == ()
    assert inputs_held(lake, MODEL) == ["distance", "origin"]
    with pytest.raises(
        LakeError, match="'carrier' is no input of one plain value in the lake; it holds distance"
    ):
        frequent_values(lake, MODEL, "carrier", **span)
    assert sliceable({"a": "VARCHAR", "b": "DOUBLE[]", "c": "BLOB", "d": "BOOLEAN"}) == ["a", "d"]


def test_nothing_is_held_of_a_model_that_nobody_asked_yet(tmp_path: Path) -> None:
    assert inputs_held(lake_below(tmp_path), MODEL) == []


def test_examples_are_the_challengers_worst_units_of_the_slice_and_the_newest_of_them(lake: Lake) -> None:
    errors = query(metrics=METRICS[:1], slices=(ORIGIN,), sliced={})
    found = bad_examples(lake, MODEL, errors, place=1, more_is_worse=True)
    assert len(found) == MOST_EXAMPLES == len({each.request_id for each in found})
    assert {(each.value, each.status) for each in found} == {(1.0, 500)}
    assert all('"origin":"O2"' in each.features and '"probability":0.5' in each.outputs for each in found)
    assert [each.at for each in found] == sorted((each.at for each in found), reverse=True)
    assert {each.value for each in bad_examples(lake, MODEL, errors, place=1, more_is_worse=False)} == {0.0}
    slow = query(metrics=METRICS[1:2], slices=(ORIGIN,), sliced={})
    found = bad_examples(lake, MODEL, slow, place=3, more_is_worse=True)
    assert [each.value for each in found] == sorted((each.value for each in found), reverse=True)
    assert found[0].value == found[0].latency_ms == 99
    assert '"origin":null' in found[0].features
    cost = query(metrics=METRICS[3:], slices=(ORIGIN,), sliced={})
    assert {each.value for each in bad_examples(lake, MODEL, cost, place=1, more_is_worse=True)} == {4.0}
    assert bad_examples(lake, MODEL, errors, place=9, more_is_worse=True) == []
    with pytest.raises(LakeError, match="one metric and one column"):
        bad_examples(lake, MODEL, query(), place=0, more_is_worse=True)
