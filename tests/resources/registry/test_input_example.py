"""Every shape in which MLflow saves an example becomes one tensor per column of the signature."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipelines.core.errors import VersionRefused
from resources.registry.mlmodel import LoggedModel, v2_request
from resources.registry.signature import Column, ModelSchema

SCHEMA = ModelSchema(inputs=(Column("b", "string"), Column("a", "double")), outputs=(Column("y", "double"),))

WANTED = {
    "inputs": [
        {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["x", "y"]},
        {"name": "a", "shape": [2], "datatype": "FP64", "data": [1.0, None]},
    ]
}


@pytest.mark.parametrize(
    "example",
    [
        {"dataframe_split": {"columns": ["a", "b"], "data": [[1.0, "x"], [float("nan"), "y"]]}},
        {"dataframe_records": [{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}]},
        {"instances": [{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}]},
        {"inputs": {"a": [1.0, None], "b": ["x", "y"]}},
    ],
)
def test_each_format_gives_the_same_request(example: dict[str, Any]):
    assert v2_request(example, SCHEMA) == WANTED


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"dataframe_records": [{"a": 1.0}]}, "no column 'b', which the signature names; it has a"),
        ({"inputs": [[1.0, 2.0]]}, "no named columns"),
        ({"dataframe_split": {"columns": ["a", "b"]}}, "cannot be read"),
        ({"dataframe_split": {"columns": ["a", "b"], "data": [[1.0]]}}, "cannot be read"),
        ({"dataframe_split": {"columns": ["a", "b"], "data": []}}, "has no rows"),
    ],
)
def test_an_example_that_does_not_fit_is_refused(example: dict[str, Any], message: str):
    with pytest.raises(VersionRefused, match=message):
        v2_request(example, SCHEMA)


def test_whole_numbers_written_as_floats_become_integers():
    schema = ModelSchema(inputs=(Column("n", "long"),), outputs=SCHEMA.outputs)
    [tensor] = v2_request({"inputs": {"n": [3.0]}}, schema)["inputs"]
    assert tensor == {"name": "n", "shape": [1], "datatype": "INT64", "data": [3]}
    assert isinstance(tensor["data"][0], int)


OPTIONAL = ModelSchema((Column("a", "double"), Column("n", "long", required=False)), SCHEMA.outputs)


@pytest.mark.parametrize("rows", [[{"a": 1.0}], [{"a": 1.0, "n": None}]])
def test_an_optional_column_that_is_left_out_or_null_is_left_out(rows: list[dict[str, Any]]):
    [tensor] = v2_request({"dataframe_records": rows}, OPTIONAL)["inputs"]
    assert tensor["name"] == "a"


def test_an_optional_column_that_can_be_null_says_so():
    schema = ModelSchema((Column("a", "double", required=False),), SCHEMA.outputs)
    assert v2_request({"inputs": {"a": [None]}}, schema)["inputs"][0]["data"] == [None]


def test_an_optional_column_that_only_later_rows_have_is_there():
    rows = [{"a": 1.0}, {"a": 2.0, "n": 3}]
    assert v2_request({"dataframe_records": rows}, OPTIONAL)["inputs"][1]["data"] == [None, 3]


def test_an_example_of_optional_columns_that_are_all_left_out_is_refused():
    schema = ModelSchema((Column("n", "long", required=False),), SCHEMA.outputs)
    with pytest.raises(VersionRefused, match="has no rows"):
        v2_request({"dataframe_records": [{"n": None}]}, schema)


def test_lists_of_different_lengths_are_refused():
    schema = ModelSchema((Column("v", "double", shape=(-1,)),), SCHEMA.outputs)
    with pytest.raises(VersionRefused, match="'v' has lists of different lengths"):
        v2_request({"dataframe_split": {"columns": ["v"], "data": [[[1.0, 2.0]], [[1.0]]]}}, schema)


@pytest.mark.parametrize(
    "column", [Column("v", "double", shape=(-1, -1)), Column("v", "double", shape=(2, 3), dtype="float64")]
)
@pytest.mark.parametrize("value", [[], [[]]])
def test_lists_without_values_are_a_request_whose_answer_says_what_is_wrong(column: Column, value: Any):
    schema = ModelSchema((column,), SCHEMA.outputs)
    (v,) = v2_request({"inputs": {"v": [value, value]}}, schema)["inputs"]
    assert (v["shape"], v["data"]) == ([2, len(value), 0], [])


def test_a_list_in_a_mapping_is_one_row_of_an_array():
    schema = ModelSchema((Column("q", "string"), Column("v", "double", shape=(-1,))), SCHEMA.outputs)
    q, v = v2_request({"inputs": {"q": "x", "v": [1.0, 2.0]}}, schema)["inputs"]
    assert (q["shape"], v["shape"], v["data"]) == ([1], [1, 2], [1.0, 2.0])


SPLIT = {"columns": ["b", "a"], "data": [["x", 1.0], ["y", None]]}

OLD_EXAMPLES: dict[str, tuple[dict[str, Any], Any]] = {
    "split": ({"type": "dataframe", "pandas_orient": "split"}, SPLIT),
    "records": ({"type": "dataframe", "pandas_orient": "records"}, [{"a": 1.0, "b": "x"}, {"b": "y", "a": None}]),
    "json": ({"type": "json_object"}, {"a": [1.0, None], "b": ["x", "y"]}),
    "with params": ({"type": "dataframe", "pandas_orient": "split", "params": "true"}, {"inputs": SPLIT, "params": {}}),
    "tensors": ({"type": "ndarray", "format": "tf-serving"}, {"inputs": {"a": [1.0, None], "b": ["x", "y"]}}),
}  # fmt: skip


@pytest.mark.parametrize(("info", "saved"), OLD_EXAMPLES.values(), ids=OLD_EXAMPLES.keys())
def test_an_example_of_an_older_client_gives_the_same_request(
    tmp_path: Path, info: dict[str, Any], saved: Any
):
    (tmp_path / "input_example.json").write_text(json.dumps(saved))
    logged = LoggedModel(
        tmp_path, {"saved_input_example_info": {"artifact_path": "input_example.json", **info}}
    )
    assert v2_request(logged.example(), SCHEMA) == WANTED


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"type": "sparse_matrix_csr"}, "is of type 'sparse_matrix_csr', which cannot be sent"),
        ({"type": "dataframe", "pandas_orient": "index"}, "is of type 'dataframe', which cannot be sent"),
        ({}, "is of type None"),
    ],
)
def test_an_older_example_that_cannot_be_sent_is_refused_in_words(
    tmp_path: Path, info: dict[str, Any], message: str
):
    (tmp_path / "input_example.json").write_text("{}")
    logged = LoggedModel(
        tmp_path, {"saved_input_example_info": {"artifact_path": "input_example.json", **info}}
    )
    with pytest.raises(VersionRefused, match=message):
        logged.example()


@pytest.mark.parametrize("large", ["input_example.json", "serving_input_example.json"])
def test_an_example_larger_than_a_request_may_be_is_refused_unread(tmp_path: Path, large: str):
    names = {"artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json"}
    for name in names.values():
        (tmp_path / name).write_text("{}")
    os.truncate(tmp_path / large, 50 << 30)
    logged = LoggedModel(tmp_path, {"saved_input_example_info": {**names, "type": "dataframe"}})
    with pytest.raises(VersionRefused, match=rf"{large} has 53,687,091,200 bytes, must be at most 8,388,608"):
        logged.example()
