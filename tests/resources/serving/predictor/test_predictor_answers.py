"""Whatever a model returns or raises: one answer, and one record that says the same."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

MODEL = """
import sys
import mlflow
import numpy as np
import pandas as pd

RETURNS = {
    "dict": lambda n: {"y": [0.5] * n},
    "records": lambda n: [{"y": 0.5}] * n,
    "tuple": lambda n: ([0.5] * n,),
    "frame": lambda n: pd.DataFrame({"y": [0.5] * n}),
    "array": lambda n: np.full((n, 1), 0.5),
    "none": lambda n: None,
    "text": lambda n: "0.5",
    "texts": lambda n: ["0.5"] * n,
    "ragged": lambda n: [[0.5], [0.5, 0.5]],
    "transposed": lambda n: np.zeros((3, n)),
    "generator": lambda n: (0.5 for _ in range(n)),
    "other": lambda n: {"z": [0.5] * n},
    "exit": lambda n: sys.exit("bye"),
    "interrupt": lambda n: (_ for _ in ()).throw(KeyboardInterrupt()),
    "surrogate": lambda n: (_ for _ in ()).throw(ValueError("\\ud800")),
    "no words": lambda n: (_ for _ in ()).throw(ValueError()),
    "deep": lambda n: RETURNS["deep"](n),
}

class Model(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: pd.DataFrame, params=None):
        return RETURNS[model_input["what"].iloc[0]](len(model_input))

mlflow.models.set_model(Model())
"""

GOOD = ("dict", "records", "tuple", "frame", "array")

BAD = {
    "none": "the model returned None, expected one value per row",
    "text": "the model returned a value of type str, expected one value per row",
    "texts": "the model returned a value of type str in 'y', which the signature calls double",
    "ragged": "the model returned 'y' with rows of different lengths",
    "transposed": "the model returned 'y' with shape [3, 2], expected [2]",
    "generator": "the model returned 'y' with shape [], expected [2]",
    "other": "the model returned 'z'; its signature has 'y'",
    "exit": "the model failed: SystemExit; ",
    "interrupt": "the model failed: KeyboardInterrupt; ",
    "surrogate": "the model failed: ValueError; ",
    "no words": "the model failed: ValueError; ",
    "deep": "the model failed: RecursionError",
}


@pytest.fixture(scope="module")
def predictor(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("answers")
    (directory / "code.py").write_text(MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow's own import
        import mlflow.pyfunc
        from mlflow.models import infer_signature

        mlflow.pyfunc.save_model(
            str(directory / "model"), python_model=str(directory / "code.py"), pip_requirements=[],
            signature=infer_signature(pd.DataFrame({"what": ["dict"]}), pd.DataFrame({"y": [0.5]})),
        )  # fmt: skip
    return start(directory / "model", allow=("custom_code",))


def ask(predictor: Any, what: str) -> Any:
    body = {"inputs": [{"name": "what", "shape": [2], "datatype": "BYTES", "data": [what] * 2}]}
    return predictor.post(body, x_request_id=f"r-{what.replace(' ', '-')}")


def test_every_answer_leaves_a_record_that_says_the_same(predictor: Any) -> None:
    answers = {what: ask(predictor, what) for what in (*GOOD, *BAD)}
    for what, answer in answers.items():
        request, response = predictor.logged(f"r-{what.replace(' ', '-')}")
        assert (response["status"], response["data"]) == (answer.status_code, answer.json()), what
        assert request["data"]["inputs"][0]["data"] == [what] * 2
        if what in GOOD:
            wanted = [{"name": "y", "shape": [2], "datatype": "FP64", "data": [0.5, 0.5]}]
            assert answer.json()["outputs"] in (wanted, [wanted[0] | {"shape": [2, 1]}]), what
        else:
            assert answer.status_code == 500
            assert answer.json()["error"].startswith(BAD[what])
    assert predictor.client.get("/v2/health/ready").status_code == 200


@pytest.mark.parametrize(
    ("number", "body", "message"),
    [
        (1, [], "body: "),
        (2, {"inputs": [{"name": "what"}]}, "inputs.0.shape: "),
        (
            3,
            {"inputs": [{"name": "what", "shape": [1], "datatype": "FP16", "data": [1]}]},
            "Sending FP16 data via JSON",
        ),
    ],
)
def test_a_request_that_cannot_be_read_leaves_a_record_too(
    predictor: Any, number: int, body: Any, message: str
) -> None:
    answer = predictor.post(body, x_request_id=f"unread-{number}")
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"not a v2 inference request: {message}")
    request, response = predictor.logged(f"unread-{number}")
    assert request["data"] == {"inputs": []}
    assert (response["status"], response["data"]) == (400, answer.json())


def test_its_metadata_names_the_outputs(predictor: Any) -> None:
    found = predictor.client.get("/v2/models/flight-delay").json()
    assert found["outputs"] == [{"name": "y", "datatype": "FP64", "shape": [-1]}]
