"""Every shape in which MLflow saves an example becomes one tensor per column of the signature."""

from typing import Any

import pytest

from pipelines.errors import VersionRefused
from resources.lake.schema import Column, ModelSchema
from resources.registry.input_example import v2_request

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
