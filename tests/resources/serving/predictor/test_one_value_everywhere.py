"""What the model saw, what the lake has and what the caller got are one value, whatever the signature.

Each example is logged by MLflow itself, read by the registry, asked through the predictor and loaded into the lake. The
model gives back what it gets.
"""

import asyncio
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kserve import InferInput, InferRequest

from pipelines.rollouts.validation import answer_of
from resources.lake.connection import Lake
from resources.lake.ingest import ingest_predictions
from resources.prediction_log.cloudevents import Origin
from resources.prediction_log.segments import SegmentWriter
from resources.registry.mlmodel import LoggedModel as LoggedArtefact
from resources.registry.mlmodel import v2_request
from resources.registry.signature import ModelSchema
from resources.serving.predictor.inputs import BadInput, PredictionFailed
from resources.serving.predictor.logged_model import ServedModel

ECHO = """
import mlflow

class Echo(mlflow.pyfunc.PythonModel):
    seen = []

    def predict(self, context, model_input, params=None):
        self.seen.append(model_input)
        return model_input

mlflow.models.set_model(Echo())
"""

NOON = datetime(2026, 1, 31, 12)


@dataclass
class Served:
    """A model served in this process, with its log and its part of the lake."""

    name: str
    schema: ModelSchema
    example: dict[str, Any]
    model: ServedModel
    pyfunc: Any
    lake: Lake
    log: Path
    writer: SegmentWriter

    def predict(self, request: dict[str, Any]) -> Mapping[str, Any]:
        """Ask as the probe does."""
        inputs = [
            InferInput(one["name"], one["shape"], one["datatype"], one["data"]) for one in request["inputs"]
        ]
        return asyncio.run(self.model.predict(InferRequest(self.name, inputs), {}, {}))

    def ask(self, *tensors: dict[str, Any]) -> dict[str, list[Any]]:
        """The answer's data by output."""
        answer = self.predict({"inputs": tensors})
        return {tensor["name"]: tensor["data"] for tensor in answer["outputs"]}

    @property
    def seen(self) -> Any:
        """What the model was asked with last."""
        return self.pyfunc.unwrap_python_model().seen[-1]

    def stored(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Features and outputs of every row in the lake, in order; nothing may have gone into the quarantine."""
        self.writer.close()
        report = ingest_predictions(self.lake, self.name, self.schema, self.log)
        assert report.bad == 0
        with self.lake.connect() as connection:
            return connection.execute(
                f'SELECT features, outputs FROM lake."{self.name}".predictions ORDER BY requested_at, "row"'
            ).fetchall()


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """One for all: each test serves a model of its own name."""
    home = tmp_path_factory.mktemp("lake")
    return Lake(f"sqlite:{home}/lake/catalog.db", str(home / "lake" / "data"), home)


@pytest.fixture
def serve(tmp_path: Path, lake: Lake) -> Callable[..., Served]:
    """Log the echo model with MLflow, and serve what it logged."""

    def run(example: Any, signature: Any = None) -> Served:
        name = tmp_path.name
        (tmp_path / "code.py").write_text(ECHO)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mlflow's advice on integers, type hints and examples
            import mlflow.pyfunc
            from mlflow.models import infer_signature

            signature = signature or infer_signature(example, example)
            mlflow.pyfunc.save_model(
                str(tmp_path / "model"), python_model=str(tmp_path / "code.py"), signature=signature,
                input_example=example, pip_requirements=[],
            )  # fmt: skip
            artefact = LoggedArtefact.read(tmp_path / "model")
            pyfunc = mlflow.pyfunc.load_model(str(tmp_path / "model"), suppress_warnings=True)
        writer = SegmentWriter(tmp_path / "log", "echo-00001", "process")
        return Served(
            name=name,
            schema=artefact.signature(),
            example=v2_request(artefact.example(), artefact.signature()),
            model=ServedModel(pyfunc, Origin(service=name, version="1", revision="echo-00001"), writer),
            pyfunc=pyfunc,
            lake=lake,
            log=tmp_path / "log",
            writer=writer,
        )

    return run


EXAMPLES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "every plain type": (
        pd.DataFrame(
            {
                "flag": [True, False],
                "small": np.array([1, -2], dtype="int32"),
                "whole": [2**53 + 1, -1],
                "half": np.array([0.5, 0.1], dtype="float32"),
                "real": [0.1, 1e300],
                "text": ["[1]", 'größe "x"'],
                "bytes": [b"\x00\xff", b"hi"],
                "moment": np.array(["2026-01-31T12:00:00", "2026-01-31T12:00:00.000001"], dtype="datetime64[ns]"),
            }
        ),
        [
            {
                "flag": True, "small": 1, "whole": 2**53 + 1, "half": 0.5, "real": 0.1, "text": "[1]",
                "bytes": b"\x00\xff", "moment": NOON,
            },
            {
                "flag": False, "small": -2, "whole": -1, "half": float(np.float32(0.1)), "real": 1e300,
                "text": 'größe "x"', "bytes": b"hi", "moment": NOON.replace(microsecond=1),
            },
        ],
    ),
    "integer labels": (pd.DataFrame([[1.0, 2.0], [3.0, 4.0]]), [{"0": 1.0, "1": 2.0}, {"0": 3.0, "1": 4.0}]),
    "odd names": (
        pd.DataFrame({"a b": [1.0], "it's.x": [2.0], "$until {x}": [3.0]}),
        [{"a b": 1.0, "it's.x": 2.0, "$until {x}": 3.0}],
    ),
    "nulls": (
        pd.DataFrame({"x": [1.0, np.nan], "s": [None, "b"]}),
        [{"x": 1.0, "s": None}, {"x": None, "s": "b"}],
    ),
    "arrays": (
        pd.DataFrame({"v": [[0.5, 1.5], [2.5, 3.5]], "tags": [["a", "b"], ["c", "d"]]}),
        [{"v": [0.5, 1.5], "tags": ["a", "b"]}, {"v": [2.5, 3.5], "tags": ["c", "d"]}],
    ),
    "a tensor": (np.array([[1.0, 2.0], [3.0, 4.0]]), [{"0": [1.0, 2.0]}, {"0": [3.0, 4.0]}]),
    "a tensor of one number a row": (np.array([[1], [2]], dtype="int32"), [{"0": 1}, {"0": 2}]),
    "an image": (
        np.arange(8, dtype="uint8").reshape(2, 2, 2, 1),
        [{"0": [0, 1, 2, 3]}, {"0": [4, 5, 6, 7]}],
    ),
    "named tensors": (
        {"a": np.array([[1.0, 2.0]], dtype="float32"), "b": np.array([7])},
        [{"a": [1.0, 2.0], "b": 7}],
    ),
    "texts": (["hello", "you"], [{"0": "hello"}, {"0": "you"}]),
}  # fmt: skip


def _same(seen: Any, example: Any) -> None:
    if isinstance(example, pd.DataFrame):
        pd.testing.assert_frame_equal(pd.DataFrame(seen), example, check_column_type=False)
    elif isinstance(example, dict):
        assert all(seen[name].dtype == array.dtype for name, array in example.items())
        assert all(np.array_equal(seen[name], array) for name, array in example.items())
    elif isinstance(example, list):
        assert list(seen.iloc[:, 0]) == example
    else:
        assert seen.dtype == example.dtype
        assert np.array_equal(seen, example)


@pytest.mark.parametrize(("example", "rows"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_what_the_model_saw_the_lake_has_and_the_caller_got(
    serve: Callable[..., Served], example: Any, rows: list[dict[str, Any]]
) -> None:
    served = serve(example)
    answer = answer_of(served.predict, served.example, served.schema)
    _same(served.seen, example)
    sent = [_comparable(tensor["data"]) for tensor in served.example["inputs"]]
    assert [_comparable(tensor["data"]) for tensor in answer["outputs"]] == sent
    for (features, outputs), row in zip(served.stored(), rows, strict=True):
        wanted = {f"input_{name}" if f"input_{name}" in features else name: v for name, v in row.items()}
        assert features == wanted
        assert list(outputs.values()) == list(wanted.values())


def _comparable(data: list[Any]) -> list[Any]:
    """Times are written in more than one way; NaN is null in JSON."""
    plain = [None if value != value else value for value in data]
    return [pd.Timestamp(v, tz="UTC") if isinstance(v, str) and v[:3] == "202" else v for v in plain]


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


PLAIN = pd.DataFrame(
    {"x": [0.5, np.nan], "s": ["a", None], "at": np.array([NOON] * 2, dtype="datetime64[ns]")}
)

AT = {"name": "at", "datatype": "BYTES", "shape": [1], "data": ["2026-01-31T12:00:00Z"]}

WIRE: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "nested data": (
        [
            tensor("x", "FP64", [2, 1], [[41.0], [7.0]]),
            tensor("s", "BYTES", [2, 1], [["[x]"], [None]]),
            tensor("at", "BYTES", [2, 1], [["2026-01-31"], ["2026-01-31 12:00:00.25"]]),
        ],
        [
            {"x": 41.0, "s": "[x]", "at": datetime(2026, 1, 31)},
            {"x": 7.0, "s": None, "at": NOON.replace(microsecond=250_000)},
        ],
    ),
    "times with an offset are UTC": (
        [
            tensor("x", "FP64", [4], [1, 2, 3, 4]),
            tensor("s", "BYTES", [4], list("abcd")),
            tensor(
                "at",
                "BYTES",
                [4],
                [
                    "2026-01-31T14:00:00+02:00",
                    "2026-01-31 00:30:00.0-1130",
                    "2026-01-31T12:00",
                    "2026-01-31T13:00:00+01",
                ],
            ),
        ],
        [{"x": float(i + 1), "s": "abcd"[i], "at": NOON} for i in range(4)],
    ),
    "optional columns left out": ([AT], [{"x": None, "s": None, "at": NOON}]),
    "optional columns null": (
        [tensor("x", "FP64", [1], [None]), tensor("s", "BYTES", [1], [None]), AT],
        [{"x": None, "s": None, "at": NOON}],
    ),
    "names in another case": (
        [tensor("X", "FP64", [1], [2.0]), tensor("S", "BYTES", [1], ["a"]), AT | {"name": "At"}],
        [{"x": 2.0, "s": "a", "at": NOON}],
    ),
}


def test_what_callers_may_write_in_more_than_one_way_has_one_meaning(serve: Callable[..., Served]) -> None:
    served = serve(PLAIN)
    wanted: list[dict[str, Any]] = []
    for name, (tensors, rows) in WIRE.items():
        got = served.ask(*tensors)
        for place, row in enumerate(rows):
            seen = served.seen.iloc[place]
            assert [None if pd.isna(v) else v for v in seen] == list(row.values()), name
            assert [None if got["x"][place] != got["x"][place] else got["x"][place], got["s"][place]] == [
                row["x"],
                row["s"],
            ]
            assert got["at"][place] == row["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        wanted += rows
    assert served.stored() == [(row, row) for row in wanted]


def test_an_optional_integer_that_is_left_out_or_null_reaches_the_model_as_no_column(
    serve: Callable[..., Served],
) -> None:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    frame = pd.DataFrame({"x": [0.5], "n": [1], "flag": [True]})
    optional: Any = [ColSpec("double", "x"), ColSpec("long", "n", False), ColSpec("boolean", "flag", False)]
    served = serve(frame, ModelSignature(Schema(optional), Schema([ColSpec("double", "x")])))
    x = tensor("x", "FP64", [1], [1.0])
    nulls = tensor("n", "INT64", [1], [None]), tensor("flag", "BOOL", [1], [None])
    for more in ((), nulls):
        with pytest.raises(PredictionFailed, match="the model returned"):
            served.ask(x, tensor("n", "INT64", [1], [1]), *more[1:])  # the model gives `n` back
        assert served.ask(x, *more) == {"x": [1.0]}
        assert list(served.seen.columns) == ["x"]
    with pytest.raises(BadInput, match="'n' has a value of type NoneType in row 1"):
        served.ask(tensor("x", "FP64", [2], [1.0, 2.0]), tensor("n", "INT64", [2], [1, None]))


def test_an_artefact_that_asks_for_thousands_of_threads_or_processes_gets_one(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
):
    from joblib import effective_n_jobs

    served, jobs = serve(pd.DataFrame({"x": [1.0]})), list[int]()
    answer = served.pyfunc.predict

    def predict(data: Any) -> Any:
        jobs.append(effective_n_jobs(5000))
        return answer(data)

    monkeypatch.setattr(served.pyfunc, "predict", predict)
    served.predict(served.example)
    assert jobs == [1]
