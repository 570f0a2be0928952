"""One table of MLflow's types, and signatures as every client has written them."""

import subprocess
import sys
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array, Map, Object, Property, SparkMLVector

from pipelines.core.errors import VersionRefused
from resources.checks.columns import kind_of
from resources.registry.signature import (
    KINDS,
    REFUSED,
    SQL_COUNTS,
    SQL_NUMBERS,
    Column,
    ColumnKind,
    ModelSchema,
)
from resources.serving.predictor.outputs import output_tensors

Y = (Column("y", "double"),)


def read(inputs: Any, outputs: Any = '[{"type": "double", "name": "y"}]') -> ModelSchema:
    return ModelSchema.of_mlflow({"inputs": inputs, "outputs": outputs})


def of(*specs: Any) -> tuple[Column, ...]:
    return read(Schema([*specs]).to_json()).inputs


def test_the_table_has_every_type_that_mlflow_has() -> None:
    assert set(KINDS) == set(DataType.__members__)


@pytest.mark.parametrize("member", DataType)
def test_a_type_is_the_same_to_mlflow_numpy_and_duckdb(member: DataType) -> None:
    kind = KINDS[member.name]
    assert np.dtype(kind.dtype) == np.dtype(member.to_pandas())
    assert kind.datatype in kind.accepts
    assert str(duckdb.sql(f"SELECT NULL::{kind.sql} AS x").types[0]) == kind.sql
    assert of(ColSpec(member, "x")) == (Column("x", member.name),)


@pytest.mark.parametrize("member", DataType)
def test_a_type_holds_the_same_to_monitoring_lake_and_predictor(member: DataType) -> None:
    kind = KINDS[member.name]
    example = pd.Series(EXAMPLES[member], dtype=kind.dtype)
    assert kind_of(example) is kind.holds
    assert Column("x", member.name).holds is kind.holds
    assert Column("x", member.name, shape=(-1,)).holds is ColumnKind.LISTS
    assert (kind.sql in SQL_COUNTS) == pd.api.types.is_numeric_dtype(kind.dtype) == kind.holds.counts
    assert (kind.sql in SQL_NUMBERS) == (kind.holds is ColumnKind.NUMBERS)
    assert kind.bits == (np.iinfo(kind.dtype).bits if np.dtype(kind.dtype).kind == "i" else None)
    (answer,) = output_tensors(example, [Column("x", member.name)], rows=2)
    assert answer["datatype"] == kind.datatype
    assert {*map(type, answer["data"])} <= kind.values


EXAMPLES = {
    DataType.boolean: [True, False],
    DataType.integer: [1, -(2**31)],
    DataType.long: [1, -(2**63)],
    DataType.float: [0.5, 1.0],
    DataType.double: [0.5, 1.0],
    DataType.string: ["a", "b"],
    DataType.binary: [b"a", b"b"],
    DataType.datetime: ["2026-01-01", "2026-01-02"],
}

NO_COLUMNS = [Object([Property("p", "double")]), Map("double"), AnyType(), SparkMLVector(), Array(AnyType())]


@pytest.mark.parametrize("spec", NO_COLUMNS, ids=str)
def test_every_other_type_is_refused_with_what_to_do(spec: Any) -> None:
    with pytest.raises(
        VersionRefused, match=r"the input 'x' has type .*; .* allowed are boolean, "
    ) as refused:
        of(ColSpec(spec, "x"))
    assert any(hint in str(refused.value) for hint in REFUSED.values())


def test_the_table_needs_no_mlflow() -> None:
    code = "import sys, resources.registry.signature\nsys.exit(any(m in sys.modules for m in ('mlflow', 'duckdb', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_columns_arrays_and_tensors() -> None:
    assert of(ColSpec(Array("string"), "tags"), ColSpec(Array(Array("long")), "grid"), ColSpec("double", "x", False)) == (
        Column("tags", "string", shape=(-1,)), Column("grid", "long", shape=(-1, -1)), Column("x", "double", required=False),
    )  # fmt: skip
    assert of(TensorSpec(np.dtype("uint8"), (-1, 28, 28), "a"), TensorSpec(np.dtype("float32"), (-1, 1), "b")) == (
        Column("a", "integer", shape=(28, 28), dtype="uint8"), Column("b", "float", shape=(1,), dtype="float32"),
    )  # fmt: skip


def test_integer_labels_are_text_everywhere_and_keep_what_the_model_calls_them() -> None:
    schema = '[{"type": "double", "name": 0}, {"type": "long", "name": 7}, {"type": "long", "name": "a"}]'
    assert read(schema).inputs == (
        Column("0", "double", label=0), Column("7", "long", label=7), Column("a", "long"),
    )  # fmt: skip


def test_what_has_no_name_is_called_by_its_place() -> None:
    schema = read(
        '[{"type": "string"}]', '[{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1, 2]}}]'
    )
    assert schema.inputs == (Column("input_0", "string", label=0),)
    assert schema.outputs == (Column("output_0", "double", shape=(2,), label=0, dtype="float64"),)


def test_older_clients_wrote_no_required() -> None:
    assert read('[{"name": "x", "type": "double"}]').inputs == (Column("x", "double"),)
    assert read([{"name": "x", "type": "double"}]).inputs == (Column("x", "double"),)


def test_mlflow_reads_back_what_it_wrote_the_same_way() -> None:
    """The predictor has MLflow's object, the registry the file."""
    written = '[{"type": "array", "items": {"type": "double"}, "name": "v"}, {"type": "long", "name": 0}]'
    outputs = '[{"type": "double"}]'
    signature = ModelSignature.from_dict({"inputs": written, "outputs": outputs, "params": None})
    assert ModelSchema.of_mlflow(signature.to_dict()) == read(written, outputs)


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (None, "no signature: log the model with"),
        ({}, "no signature"),
        ({"inputs": "[]", "outputs": None}, "no signature with both inputs and outputs"),
        ({"inputs": "[]", "outputs": "[]"}, "no inputs"),
        ({"inputs": "?", "outputs": "[]"}, "the signature's inputs cannot be read: JSONDecodeError"),
        ({"inputs": '[{"name": "x"}]', "outputs": "[]"}, r"inputs cannot be read: KeyError\('type'\)"),
        ({"inputs": '["x"]', "outputs": "[]"}, "inputs cannot be read"),
        ({"inputs": '[{"name": 0.5, "type": "long"}]', "outputs": "[]"}, "the input 0.5: a column's name must be text"),
        *(
            ({"inputs": f'[{{"type": "tensor", "tensor-spec": {{"dtype": "float64", "shape": [-1, {size}]}}}}]',
              "outputs": "[]"}, "sizes must be integers, or -1 for any")
            for size in ('"2"', "null", "[2]", "{}", "2.5", "true", "-2")
        ),
        ({"inputs": '[{"name": ["a", "b"], "type": "long"}]', "outputs": "[]"}, r"\['a', 'b'\]: a column's name"),
    ],
)  # fmt: skip
def test_a_signature_that_cannot_be_read_is_refused_in_words(signature: Any, message: str) -> None:
    with pytest.raises(VersionRefused, match=message):
        ModelSchema.of_mlflow(signature)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            TensorSpec(np.dtype("uint64"), (-1,), "t"),
            "the input 't' is a tensor of uint64; allowed are bool, int8",
        ),
        (TensorSpec(np.dtype("complex64"), (-1,), "t"), "a tensor of complex64"),
        (TensorSpec(np.dtype("float64"), (3, 2), "t"), r"of shape \[3, 2\]; its first dimension must be -1"),
        (TensorSpec(np.dtype("float64"), (), "t"), "its first dimension must be -1"),
    ],
)
def test_a_tensor_that_cannot_be_served_is_refused_in_words(spec: TensorSpec, message: str) -> None:
    with pytest.raises(VersionRefused, match=message):
        of(spec)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), "no inputs"),
        ((Column("x", "complex"),), "'x' has type 'complex'; allowed are boolean"),
        ((Column("x", "double"), Column("X", "double")), "second column 'X' beside 'x'"),
        ((Column("0", "double"), Column("0", "double", label=0)), "second column '0'"),
        ((Column("", "double"),), "the input '': must be 1 to 255"),
        ((Column("a\0b", "double"),), "printable"),
    ],
)
def test_columns_that_cannot_be_told_apart_or_stored_are_refused(
    inputs: tuple[Column, ...], message: str
) -> None:
    with pytest.raises(VersionRefused, match=message):
        ModelSchema(inputs, Y)
