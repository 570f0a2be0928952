"""The offline comparison on a real lake, with a challenger that is a function."""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.core.errors import ServingError, VersionFailed
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.comparison import compare_offline, replay
from pipelines.rollouts.validation import Step, ask
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.lake.outcomes import ingest_outcomes
from resources.registry.signature import Column, ModelSchema
from tests.resources.lake.segments_by_hand import MODEL, SCHEMA, START, Log, lake_below, prediction
from tests.support.rollouts import manifest

Row = Mapping[str, Any]


def challenger(score: Callable[[Row], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Answers like a predictor: an error for any row is an error for the whole request."""

    def predict(request: dict[str, Any]) -> dict[str, Any]:
        columns = {tensor["name"]: tensor["data"] for tensor in request["inputs"]}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        assert len(rows) <= 500
        data = [score(row) for row in rows]
        return {"outputs": [{"name": "probability", "shape": [len(data)], "datatype": "FP64", "data": data}]}

    return predict


def late(distance: float) -> int:
    """The world: flights over 500 miles are late."""
    return int(distance > 500)


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log.below(tmp_path)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return lake_below(tmp_path)


def fill(lake: Lake, log: Log, n: int = 200, *, labelled: int | None = None, key: str = "r") -> None:
    """n requests of distances 0, 5, ...; the champion (version 1) ranks nine tenths of them right."""
    lines: list[str] = []
    for i in range(n):
        distance = 5.0 * (i % 200)
        right = late(distance) if i % 10 else 1 - late(distance)
        lines += prediction(
            f"r-{i}",
            unit=f"u-{i}",
            at=timedelta(seconds=i),
            inputs={"distance": [distance], "origin": ["JFK" if i % 2 else "EWR"]},
            outputs={"probability": [0.1 + 0.8 * right]},
        )
    log.segment("1", *lines)
    log.outcome_file(
        "1",
        *(
            {
                "id": f"o-{i}",
                "key": f"{key}-{i}",
                "at": (START + timedelta(seconds=i + 60)).isoformat(),
                "values": {"late": late(5.0 * (i % 200))},
            }
            for i in range(n if labelled is None else labelled)
        ),
    )
    ingest_predictions(lake, MODEL, SCHEMA, log.predictions)
    ingest_outcomes(lake, MODEL, log.outcomes)


def compare(lake: Lake, score: Callable[[Row], Any], **validation: Any) -> Step:
    found = compare_offline(
        lake,
        manifest(validation={"label": "late"} | validation),
        champion="1",
        schemas=(SCHEMA, SCHEMA),
        predict=challenger(score),
    )
    assert found is not None
    return found


@pytest.mark.parametrize("metric", ["roc_auc", "log_loss", "rmse", "mae"])
def test_a_better_challenger_passes_and_a_worse_one_does_not(lake: Lake, log: Log, metric: str) -> None:
    fill(lake, log)
    assert compare(lake, lambda row: 0.1 + 0.8 * late(row["distance"]), metric=metric).verdict is Verdict.PASS
    worse = compare(lake, lambda row: 0.9 - 0.8 * late(row["distance"]), metric=metric)
    assert worse.verdict is Verdict.FAIL
    assert metric in worse.detail


def test_the_metrics_of_both_are_kept(lake: Lake, log: Log) -> None:
    fill(lake, log)
    found = compare(lake, lambda row: late(row["distance"]), metric="roc_auc")
    assert found.values["offline_challenger"] == 1.0
    assert found.values["offline_champion"] == pytest.approx(0.9, abs=0.01)
    assert found.values["offline_rows"] == 200


def test_a_little_worse_is_allowed(lake: Lake, log: Log) -> None:
    fill(lake, log)
    assert compare(lake, lambda _: 0.5, metric="mae", max_worse=0.5).verdict is Verdict.PASS
    assert compare(lake, lambda _: 0.5, metric="mae", max_worse=0.2).verdict is Verdict.FAIL


def test_a_version_that_fails_on_part_of_its_inputs_is_refused_with_share_and_error(
    lake: Lake, log: Log
) -> None:
    fill(lake, log)

    def score(row: Row) -> float:
        if row["origin"] == "EWR":
            raise VersionFailed("unknown origin 'EWR'")
        return late(row["distance"])

    found = compare(lake, score)
    assert found.verdict is Verdict.FAIL
    assert "unknown origin 'EWR'" in found.detail
    share = found.values["offline_failed"] / found.values["offline_asked"]  # type: ignore[operator]
    assert share == pytest.approx(0.5, abs=0.2)


def test_an_answer_that_is_no_number_is_a_failure(lake: Lake, log: Log) -> None:
    fill(lake, log)
    found = compare(lake, lambda _: None)
    assert found.verdict is Verdict.FAIL
    assert "expected a finite number" in found.detail


def test_one_row_in_several_hundred_may_fail(lake: Lake, log: Log) -> None:
    fill(lake, log)

    def score(row: Row) -> float:
        if row["distance"] == 55:
            raise VersionFailed("fifty-five")
        return late(row["distance"])

    found = compare(lake, score)
    assert found.verdict is Verdict.PASS
    assert "no answer to 1" in found.detail
    assert found.values["offline_rows"] == 199


def test_too_few_labels_pass_with_a_note(lake: Lake, log: Log) -> None:
    fill(lake, log, labelled=49)
    found = compare(lake, lambda _: 1 / 0)
    assert found.verdict is Verdict.PASS
    assert "49 logged requests" in found.detail


def test_a_label_of_one_value_passes_with_a_note(lake: Lake, log: Log) -> None:
    fill(lake, log, n=90)
    assert "needs labels 0 and 1" in compare(lake, lambda _: 0.5).detail


def test_outcomes_are_matched_by_unit_where_the_experiment_is_by_unit(lake: Lake, log: Log) -> None:
    fill(lake, log, key="u")
    experiment = {
        "unit": "flight",
        "primary": {"name": "cost", "type": "mean", "source": "outcomes.cost", "mde": "5%"},
    }
    by_unit = manifest(validation={"label": "late"}, experiment=experiment)
    found = compare_offline(
        lake,
        by_unit,
        champion="1",
        schemas=(SCHEMA, SCHEMA),
        predict=challenger(lambda r: late(r["distance"])),
    )
    assert found is not None
    assert found.values["offline_rows"] == 200
    assert "0 logged requests" in compare(lake, lambda _: 0.5).detail


def test_the_most_recent_rows_are_taken(lake: Lake, log: Log) -> None:
    fill(lake, log, n=300)
    seen: list[float] = []
    compare(lake, lambda row: seen.append(row["distance"]) or 0.5, rows=100, metric="mae")
    assert sorted(seen) == [5.0 * i for i in range(100)]


def test_a_correction_replaces_the_label(lake: Lake, log: Log) -> None:
    fill(lake, log)
    log.outcome_file(
        "2",
        *(
            {
                "id": f"again-{i}",
                "key": f"r-{i}",
                "at": (START + timedelta(seconds=i + 90)).isoformat(),
                "values": {"late": 1 - late(5.0 * i)},
            }
            for i in range(200)
        ),
    )
    ingest_outcomes(lake, MODEL, log.outcomes)
    assert compare(lake, lambda row: late(row["distance"])).values["offline_challenger"] == 0.0


def test_a_column_that_only_the_challenger_has_is_not_made_up(lake: Lake, log: Log) -> None:
    fill(lake, log)
    new = ModelSchema((*SCHEMA.inputs, Column("wind", "double", required=False)), SCHEMA.outputs)
    sent: set[str] = set()
    found = compare_offline(
        lake,
        manifest(validation={"label": "late", "metric": "mae", "max_worse": 1}),
        champion="1",
        schemas=(SCHEMA, new),
        predict=challenger(lambda row: sent.update(row) or 0.5),
    )
    assert found is not None
    assert found.values["offline_rows"] == 200
    assert sent == {"distance", "origin"}


def test_without_a_label_nothing_is_compared(lake: Lake) -> None:
    assert (
        compare_offline(
            lake, manifest(), champion="1", schemas=(SCHEMA, SCHEMA), predict=challenger(lambda _: 0.5)
        )
        is None
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 1200), st.sets(st.integers(0, 1199), max_size=12))
def test_bisection_finds_exactly_the_rows_that_fail(rows: int, bad: set[int]) -> None:
    calls = 0

    def score(row: Row) -> float:
        if row["distance"] in bad:
            raise VersionFailed("no")
        return row["distance"]

    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal calls
        calls += 1
        return challenger(score)(request)

    sent = [{"distance": float(i), "origin": "JFK"} for i in range(rows)]
    answers = ask(predict, SCHEMA, sent, score="probability", tolerated=rows)
    expected = {i for i in bad if i < rows}
    assert {i for i, value in enumerate(answers.scores) if value is None} == expected
    assert answers.failed == len(expected)
    assert answers.asked == rows
    assert calls <= math.ceil(rows / 500) + 256 + 2


def test_a_version_that_fails_everywhere_is_not_asked_for_ever() -> None:
    calls = 0

    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        nonlocal calls
        calls += 1
        raise VersionFailed("down")

    answers = ask(predict, SCHEMA, [{"distance": 1.0, "origin": "JFK"}] * 2000, tolerated=10)
    assert answers.failed == 11
    assert calls < 50


def test_an_optional_integer_that_some_rows_lack_is_left_out_of_their_requests() -> None:
    schema = ModelSchema((Column("x", "double"), Column("n", "long", required=False)), SCHEMA.outputs)

    def predict(request: dict[str, Any]) -> dict[str, Any]:
        columns = {tensor["name"]: tensor["data"] for tensor in request["inputs"]}
        if None in columns.get("n", ()):
            raise VersionFailed("400: 'n' has None in row 0; expected INT64")
        return {"outputs": [{"name": "probability", "data": columns["x"]}]}

    rows = [{"x": float(i)} | ({} if i % 3 else {"n": i}) for i in range(1500)]
    answers = ask(predict, schema, rows, score="probability", tolerated=0)
    assert (answers.failed, answers.asked) == (0, 1500)
    assert answers.scores == [float(i) for i in range(1500)]


def test_a_version_that_could_not_be_asked_has_not_failed() -> None:
    asked: list[int] = []

    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        asked.append(request["inputs"][0]["shape"][0])
        raise ServingError("503: no healthy upstream")

    with pytest.raises(ServingError, match="no healthy upstream") as raised:
        ask(predict, SCHEMA, [{"distance": 1.0, "origin": "JFK"}] * 2000, tolerated=10)
    assert not isinstance(raised.value, VersionFailed)
    assert asked == [500, 62, 7, 1]


def test_what_is_too_much_at_once_is_asked_for_in_smaller_batches() -> None:
    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        if request["inputs"][0]["shape"][0] > 100:
            raise ServingError("504: upstream request timeout")
        return challenger(lambda row: row["distance"])(request)

    rows = [{"distance": float(i), "origin": "JFK"} for i in range(700)]
    answers = ask(predict, SCHEMA, rows, score="probability", tolerated=0)
    assert answers.scores == [row["distance"] for row in rows]
    assert (answers.asked, answers.failed) == (700, 0)


def played(lake: Lake, predict: Callable[[dict[str, Any]], Mapping[str, Any]], **validation: Any) -> Step:
    return replay(lake, manifest(validation=validation), champion="1", schema=SCHEMA, predict=predict)


def test_a_replay_asks_for_what_callers_sent_and_needs_no_outcome(lake: Lake, log: Log) -> None:
    fill(lake, log, labelled=0)
    found = played(lake, challenger(lambda _: 0.5))
    assert (found.verdict, found.values["replay_rows"]) == (Verdict.PASS, 200)
    assert found.detail == "answers 200 of 200 logged requests of version 1"


@pytest.mark.parametrize(("required", "verdict"), [((), Verdict.PASS), (("replay",), Verdict.UNKNOWN)])
def test_a_replay_of_nothing_is_said_and_waited_for_only_where_it_is_required(
    lake: Lake, log: Log, required: tuple[str, ...], verdict: Verdict
) -> None:
    for _ in range(2):  # without tables, and with empty ones
        found = played(lake, challenger(lambda _: 1 / 0), required=required)
        assert found.verdict is verdict
        assert found.pending is bool(required)
        assert "nothing was replayed: the log has no answered request of version 1" in found.detail
        ingest_predictions(lake, MODEL, SCHEMA, log.predictions)


def test_a_comparison_that_could_not_be_made_is_waited_for_where_it_is_required(lake: Lake, log: Log) -> None:
    fill(lake, log, labelled=49)
    found = compare(lake, lambda _: 0.5, required=("comparison",))
    assert (found.verdict, found.pending) == (Verdict.UNKNOWN, True)
    assert "49 logged requests have the outcome 'late', 50 are needed" in found.detail


def test_an_optional_column_that_callers_left_out_is_left_out_of_the_replay(lake: Lake, log: Log) -> None:
    optional = (Column(name, kind, required=False) for name, kind in (("seats", "long"), ("wind", "double")))
    schema = ModelSchema((*SCHEMA.inputs, *optional), SCHEMA.outputs)
    whole = {"distance": [1.0], "origin": ["JFK"], "seats": [180]}
    log.segment(
        "1",
        *prediction("with", inputs=whole),
        *prediction("without", inputs={"distance": [2.0], "origin": ["EWR"]}),
        *prediction("null", inputs={"distance": [None], "origin": ["LGA"]}),
        *prediction("failed", inputs=whole, status=400),
        *prediction("probe", inputs=whole, assignment="pinned"),
    )
    ingest_predictions(lake, MODEL, schema, log.predictions)
    sent: list[Row] = []
    found = replay(
        lake, manifest(), champion="1", schema=schema, predict=challenger(lambda row: sent.append(row) or 0.5)
    )
    assert found.verdict is Verdict.PASS, found.detail
    assert sorted(sent, key=lambda row: row["origin"]) == [
        {"distance": 2.0, "origin": "EWR"},
        {"distance": 1.0, "origin": "JFK", "seats": 180},
        {"distance": None, "origin": "LGA"},
    ]


@pytest.mark.parametrize("shape", [(3, -1), (-1, 3), (-1,), (2, -1, 2)])
def test_rows_whose_lists_differ_in_any_dimension_are_replayed_in_requests_of_their_own(
    lake: Lake, log: Log, shape: tuple[int, ...]
) -> None:
    schema = ModelSchema((Column("x", "double", shape=shape, dtype="float64"),), SCHEMA.outputs)
    asked: list[dict[str, Any]] = []
    for length in (1, 2, 2):
        sizes = [1, *(length if size < 0 else size for size in shape)]
        data = [float(i) for i in range(math.prod(sizes))]
        tensors = [{"name": "x", "shape": sizes, "datatype": "FP64", "data": data}]
        name = f"{len(asked)}"
        asked += tensors
        log.segment(name, *prediction(f"r-{name}", data={"inputs": tensors}))
    ingest_predictions(lake, MODEL, schema, log.predictions)
    seen: list[dict[str, Any]] = []

    def predict(request: dict[str, Any]) -> dict[str, Any]:
        seen.extend(request["inputs"])
        return {}

    found = replay(lake, manifest(), champion="1", schema=schema, predict=predict)
    assert (found.verdict, found.values["replay_rows"]) == (Verdict.PASS, 3)
    twice = asked[2] | {"shape": [2, *asked[2]["shape"][1:]], "data": asked[2]["data"] * 2}
    assert sorted(seen, key=lambda one: len(one["data"])) == [asked[0], twice]
