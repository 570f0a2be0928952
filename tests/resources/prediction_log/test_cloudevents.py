"""The two lines of one prediction."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.prediction_log.cloudevents import Origin, Prediction, header_text, prediction_lines

ORIGIN = Origin(service="flight-delay", version="2", revision="flight-delay-00002")

MOMENT = datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)

TENSOR = {"name": "distance", "shape": [1], "datatype": "FP64", "data": [719.0]}


def prediction(**changes: object) -> Prediction:
    values: dict[str, object] = {
        "record_id": "r-1",
        "metadata": {"x-unit-id": "u-1", "x-assignment": "weighted"},
        "requested_at": MOMENT,
        "latency_ms": 3.2,
        "status": 200,
        "inputs": [TENSOR],
        "answer": {"model_name": "flight-delay", "outputs": []},
    }
    return Prediction(**(values | changes))  # type: ignore[arg-type]


def events(one: Prediction) -> list[dict[str, object]]:
    return [json.loads(line) for line in prediction_lines(ORIGIN.attributes(), one).splitlines()]


def test_request_and_response_have_the_shape_of_kserves_logger() -> None:
    shared = {
        "specversion": "1.0",
        "id": "r-1",
        "source": "flight-delay-00002",
        "datacontenttype": "application/json",
        "inferenceservicename": "flight-delay",
        "namespace": "default",
        "component": "predictor",
        "endpoint": "",
        "metadata": {"x-unit-id": ["u-1"], "x-assignment": ["weighted"]},
        "annotations": {"rampgate.io/version": "2", "rampgate.io/revision": "flight-delay-00002"},
    }
    request, response = events(prediction())
    assert request == shared | {
        "type": "org.kubeflow.serving.inference.request",
        "time": "2026-01-01T00:00:00.123456Z",
        "data": {"inputs": [TENSOR]},
    }
    assert response == shared | {
        "type": "org.kubeflow.serving.inference.response",
        "time": "2026-01-01T00:00:00.126656Z",
        "latencyms": 3.2,
        "status": 200,
        "data": {"model_name": "flight-delay", "outputs": []},
    }


def test_times_always_have_six_digits() -> None:
    request, _ = events(prediction(requested_at=datetime(2026, 1, 1, tzinfo=UTC)))
    assert request["time"] == "2026-01-01T00:00:00.000000Z"


def test_a_value_that_json_lacks_is_null() -> None:
    _, response = events(prediction(answer={"outputs": [{"data": [float("nan")]}]}))
    assert response["data"] == {"outputs": [{"data": [None]}]}


def test_an_integer_beyond_64_bits_is_written_as_digits() -> None:
    request, _ = events(prediction(inputs=[TENSOR | {"data": [2**64, 2**64 - 1, -(2**63) - 1, True]}]))
    assert request["data"]["inputs"][0]["data"] == [str(2**64), 2**64 - 1, str(-(2**63) - 1), True]  # type: ignore[index]


# What JSON can carry: a lone surrogate cannot come out of a JSON request that was decoded.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))

VALUES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**63), 2**63 - 1) | TEXT


@given(unit=TEXT, data=st.lists(VALUES), error=TEXT)
def test_any_values_stay_on_their_two_lines(unit: str, data: list[object], error: str) -> None:
    one = prediction(metadata={"x-unit-id": unit}, inputs=[TENSOR | {"data": data}], answer={"error": error})
    lines = prediction_lines(ORIGIN.attributes(), one)
    assert lines.count(b"\n") == 2
    assert lines.endswith(b"\n")
    request, response = events(one)
    assert request["data"]["inputs"][0]["data"] == [  # type: ignore[index]
        None if value in (float("inf"), float("-inf")) else value for value in data
    ]
    assert request["metadata"] == {"x-unit-id": [unit]}
    assert response["data"] == {"error": error}


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b" \tZo\xc3\xab ", "Zoë"),
        (b"Zo\xeb", "Zoë"),
        (b" \t", ""),
        (b"u\xc2\xa0", "u\xa0"),
        (b"\xe2\x80\x83", "\u2003"),
        (b"u\x85", "u\x85"),
    ],
)
def test_a_header_keeps_every_byte_that_the_gateway_hashes_but_the_blanks_around_it(
    sent: bytes, text: str
) -> None:
    assert header_text(sent.decode("latin-1")) == text
