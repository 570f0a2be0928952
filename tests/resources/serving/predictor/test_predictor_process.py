"""One predictor process serving a scikit-learn pipeline, over real HTTP."""

import math
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pandas as pd
import pytest

from resources.serving.embedded.supervisor import wait_until
from tests.resources.serving.predictor.conftest import NAME, named, v2_inputs

Start = Callable[..., Any]


@pytest.fixture(scope="module")
def model(save_pipeline: Callable[[str], Path]) -> Path:
    return save_pipeline("skops")


@pytest.fixture(scope="module")
def predictor(start: Start, model: Path) -> Any:
    return start(model)


@pytest.fixture(scope="module")
def pyfunc(model: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow's own import
        from mlflow.pyfunc import load_model

        return load_model(str(model), suppress_warnings=True)


def probabilities(response: httpx.Response) -> "np.ndarray[Any, Any]":
    (output,) = response.json()["outputs"]
    return np.array(output["data"]).reshape(output["shape"])


@pytest.mark.parametrize("rows", [1, 2, 250])
def test_answers_equal_the_models_own(predictor: Any, pyfunc: Any, flights: pd.DataFrame, rows: int) -> None:
    batch = flights[flights["wind"].notna()].head(rows)
    response = predictor.infer(batch)
    assert response.status_code == 200, response.text
    assert response.json()["model_version"] == "2"
    np.testing.assert_array_equal(probabilities(response), pyfunc.predict(batch))


def test_null_reaches_the_model_as_nan(predictor: Any, pyfunc: Any, flights: pd.DataFrame) -> None:
    row = flights[flights["wind"].isna()].head(1)
    inputs = [
        {"name": "carrier", "shape": [1], "datatype": "BYTES", "data": row["carrier"].tolist()},
        {"name": "distance", "shape": [1, 1], "datatype": "FP64", "data": row["distance"].tolist()},
        {"name": "hour", "shape": [1], "datatype": "INT64", "data": row["hour"].tolist()},
        {"name": "wind", "shape": [1], "datatype": "FP64", "data": [None]},
    ]
    np.testing.assert_array_equal(probabilities(predictor.post({"inputs": inputs})), pyfunc.predict(row))


def test_a_prediction_is_logged_with_who_asked(predictor: Any, flights: pd.DataFrame) -> None:
    response = predictor.infer(
        flights.head(2), x_request_id="r-good", x_unit_id="u-1", x_assignment="weighted"
    )
    assert response.headers["x-request-id"] == "r-good"
    assert "model_version" not in response.json(), "live traffic is not told who answers"
    request, answer = predictor.logged("r-good")
    assert request["type"].endswith(".request")
    assert request["metadata"] == {
        "x-unit-id": ["u-1"], "x-assignment": ["weighted"], "x-request-id": ["r-good"],
    }  # fmt: skip
    assert request["id"] == answer["id"] != "r-good"
    assert request["annotations"] == {
        "rampgate.io/version": "2",
        "rampgate.io/revision": "flight-delay-00002",
    }
    carrier, *_ = request["data"]["inputs"]
    assert carrier == {
        "name": "carrier", "shape": [2], "datatype": "BYTES", "data": flights["carrier"].head(2).tolist(),
    }  # fmt: skip
    assert answer["status"] == 200
    assert answer["latencyms"] > 0
    assert answer["data"]["outputs"] == response.json()["outputs"]


def test_a_request_without_an_id_gets_one(predictor: Any, flights: pd.DataFrame) -> None:
    response = predictor.infer(flights.head(1))
    request, _ = predictor.logged(response.headers["x-request-id"])
    assert request["metadata"] == {}


def test_each_answer_has_a_record_of_its_own_whatever_callers_name_their_requests(
    predictor: Any, flights: pd.DataFrame
) -> None:
    for _ in range(3):
        assert predictor.infer(flights.head(1), x_request_id="batch").headers["x-request-id"] == "batch"
    deadline = time.monotonic() + 10
    while len(predictor.logged("batch")) < 6 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len({event["id"] for event in predictor.logged("batch")}) == 3


@pytest.mark.parametrize("charset", ["utf-8", "latin-1"])
def test_a_unit_id_is_logged_as_it_was_written_and_a_blank_one_is_none(
    predictor: Any, flights: pd.DataFrame, charset: str
) -> None:
    for name, unit in ((f"named-{charset}", "Zoë, Ångström"), (f"blank-{charset}", "")):
        headers = {"x-request-id": name, "x-unit-id": unit.encode(charset)}
        body = {"inputs": v2_inputs(flights.head(1))}
        assert (
            predictor.client.post(f"/v2/models/{NAME}/infer", json=body, headers=headers).status_code == 200
        )
    assert predictor.logged(f"named-{charset}")[0]["metadata"]["x-unit-id"] == ["Zoë, Ångström"]
    assert "x-unit-id" not in predictor.logged(f"blank-{charset}")[0]["metadata"]


def test_an_input_the_model_fails_on_is_a_logged_500(predictor: Any, flights: pd.DataFrame) -> None:
    response = predictor.infer(flights.head(1).assign(carrier="ZZ"), x_request_id="r-broken")
    assert response.status_code == 500
    assert response.json()["error"] == "the model failed: ValueError; the predictor's log has its text"
    assert wait_until(lambda: "Found unknown categories" in predictor.stderr.read_text(), seconds=5)
    _, answer = predictor.logged("r-broken")
    assert (answer["status"], answer["data"]) == (500, response.json())


def test_stack_traces_are_few(predictor: Any, flights: pd.DataFrame) -> None:
    for _ in range(20):
        predictor.infer(flights.head(1).assign(carrier="ZZ"))
    assert 1 <= predictor.stderr.read_text().count("Traceback") <= 5


def test_a_wrong_column_is_a_logged_400(predictor: Any, flights: pd.DataFrame) -> None:
    response = predictor.infer(flights.head(1).assign(hour="noon"), x_request_id="r-wrong")
    assert response.status_code == 400
    assert response.json() == {
        "error": "column 'hour' has datatype BYTES; expected INT64 of shape [n] or [n, 1]"
    }
    _, answer = predictor.logged("r-wrong")
    assert (answer["status"], answer["data"]) == (400, response.json())


def test_an_integer_beyond_64_bits_is_a_logged_400(predictor: Any, flights: pd.DataFrame) -> None:
    huge = {"name": "hour", "shape": [1], "datatype": "INT64", "data": [2**70]}
    assert (
        predictor.infer(flights.head(1).drop(columns="hour"), huge, x_request_id="r-huge").status_code == 400
    )
    _, answer = predictor.logged("r-huge")
    assert answer["status"] == 400


@pytest.mark.parametrize("body", [{"instances": []}, [], "x", {"inputs": [{"name": "hour"}]}])
def test_what_is_no_v2_request_is_a_400(predictor: Any, body: Any) -> None:
    response = predictor.post(body)
    assert response.status_code == 400
    assert response.json()["error"].startswith("not a v2 inference request: ")


def test_more_rows_than_one_request_may_have_are_a_logged_413(predictor: Any) -> None:
    hours = {"name": "hour", "shape": [10_001], "datatype": "INT64", "data": [7] * 10_001}
    response = predictor.post({"inputs": [hours]}, x_request_id="r-rows")
    assert response.status_code == 413
    assert response.json() == {
        "error": "10,001 rows in one request; at most 10,000 are taken: send several requests"
    }
    request, answer = predictor.logged("r-rows")
    assert (request["data"], answer["status"]) == ({"inputs": []}, 413)


@pytest.mark.parametrize("chunked", [False, True])
def test_more_bytes_than_one_request_may_have_are_a_logged_413(predictor: Any, chunked: bool) -> None:
    piece, name = b" " * (1 << 20), f"r-bytes-{chunked}"
    body: Any = iter([piece] * 9) if chunked else piece * 9
    response = predictor.client.post(f"/v2/models/{NAME}/infer", content=body, headers={"x-request-id": name})
    assert response.status_code == 413
    assert "more than 8,388,608 bytes" in response.json()["error"]
    request, answer = predictor.logged(name)
    assert (request["data"], answer["status"]) == ({"inputs": []}, 413)


def test_an_id_of_any_length_is_no_id_and_the_answer_is_given_and_logged(
    predictor: Any, flights: pd.DataFrame
) -> None:
    """And its caller is told one by which outcomes find it."""
    batch = flights[flights["wind"].notna()].head(1)
    response = predictor.infer(batch, x_unit_id="u" * 257, x_request_id="r" * 5000, x_assignment="weighted")
    assert response.status_code == 200
    told = response.headers["x-request-id"]
    assert len(told) == 36
    assert predictor.logged(told)[0]["metadata"] == {
        "x-assignment": ["weighted"],
        "x-left-out": ["x-unit-id of 257 bytes, x-request-id of 5000 bytes"],
        "x-request-id": [told],
    }


def test_another_models_name_is_a_404(predictor: Any) -> None:
    assert predictor.client.post("/v2/models/other/infer", json={"inputs": []}).status_code == 404


@pytest.mark.parametrize(
    "path", ["/v2/repository/models/flight-delay/unload", "/v1/models/flight-delay:predict", "/docs"]
)
def test_nothing_else_is_served(predictor: Any, path: str) -> None:
    assert predictor.client.post(path, json={}).status_code == 404


def test_its_metadata_names_the_columns(predictor: Any) -> None:
    inputs = predictor.client.get("/v2/models/flight-delay").json()["inputs"]
    assert {column["name"]: column["datatype"] for column in inputs} == {
        "carrier": "BYTES", "distance": "FP64", "hour": "INT64", "wind": "FP64",
    }  # fmt: skip


def test_requests_at_the_same_time_get_their_own_answers(
    predictor: Any, pyfunc: Any, flights: pd.DataFrame
) -> None:
    known = flights[flights["wind"].notna()].head(60)
    expected = pyfunc.predict(known)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: probabilities(predictor.infer(known.iloc[[i]])), range(60)))
    np.testing.assert_allclose(np.vstack(answers), expected, rtol=1e-12)


def test_no_log_line_per_request(predictor: Any, flights: pd.DataFrame) -> None:
    before = predictor.stderr.stat().st_size
    for _ in range(5):
        predictor.infer(flights.head(1))
    assert predictor.stderr.stat().st_size == before


def test_killed_under_load_it_loses_no_acknowledged_prediction(
    start: Start, save_pipeline: Callable[[str], Path], flights: pd.DataFrame
) -> None:
    victim = start(save_pipeline("cloudpickle"), "power", ("cloudpickle",))
    acknowledged: list[str] = []
    row = flights[flights["wind"].notna()].head(1)

    def ask(thread: int) -> None:
        for i in range(10_000):
            try:
                response = victim.infer(row, x_request_id=f"{thread}-{i}")
            except httpx.TransportError:
                return
            assert response.status_code == 200
            acknowledged.append(f"{thread}-{i}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    threads[0].join(timeout=2.5)  # past a rotation
    assert wait_until(lambda: len(acknowledged) > 50, seconds=30)
    victim.kill()
    for thread in threads:
        thread.join()

    lines = [
        line for path in sorted(victim.log.iterdir()) for line in path.read_bytes().splitlines(keepends=True)
    ]
    answered = [
        named(event) for line in lines if line.endswith(b"\n") and "status" in (event := orjson.loads(line))
    ]
    assert set(acknowledged) <= set(answered), "acknowledged, and not in the log"
    assert len(answered) == len(set(answered))
    assert math.isclose(len(answered), len(acknowledged), abs_tol=4), (
        "at most the requests in flight are unacknowledged"
    )
