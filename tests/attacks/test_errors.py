"""What callers sent is quoted to nobody: not in an answer, an alert, or the ledger. An error's kind and place are."""

import logging
import subprocess
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from pipelines.core.errors import LakeError, LedgerError
from pipelines.core.manifest.model import Check, DataChecks
from pipelines.monitoring.data_checks import check_window, in_short
from pipelines.rollouts.validation import ask
from resources.checks import expectations
from resources.notifier import MOST_WORDS, contained, in_words
from resources.registry.signature import Column, ModelSchema
from resources.serving.embedded.predictors import Launch, last_words, model_server
from resources.serving.predictor.inputs import BadInput, PredictionFailed, Tensor
from resources.serving.predictor.logged_model import _in_words
from resources.serving.predictor.outputs import output_tensors
from resources.settings import ROOT
from tests.monitoring.conftest import START
from tests.resources.lake.segments_by_hand import lake_below
from tests.resources.serving.predictor.test_columns import COLUMNS, request, tensor
from tests.sensors.test_alerting_sensors import alerted
from tests.support.memory_systems import MemorySystems

SIGNATURE = ModelSchema((Column("carrier", "string"),), (Column("y", "double"),))

SECRET = "Jane Doe"

NUMBER = 4155550123.5


@pytest.mark.parametrize(
    "given",
    [
        {"distance": tensor("distance", "FP64", [SECRET])},
        {"hour": tensor("hour", "INT64", [NUMBER])},
        {"scheduled": tensor("scheduled", "BYTES", [SECRET])},
        {"photo": tensor("photo", "BYTES", [SECRET])},
        {"month": tensor("month", "INT64", [int(NUMBER * 10)])},
    ],
    ids=lambda given: next(iter(given)),
)
def test_a_caller_is_told_the_column_and_what_is_allowed_and_no_value(given: dict[str, Any]) -> None:
    (column,) = given
    with pytest.raises(BadInput, match=rf"^column '{column}' has .*; expected ") as refused:
        COLUMNS.read(request(**given))
    assert SECRET not in str(refused.value)
    assert str(int(NUMBER)) not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [{"extra": tensor("x" * 10_000, "FP64", [1.0])}, {"distance": tensor("distance", "X" * 10_000, [1.0])},
     {"distance": Tensor(name="distance", datatype="FP64", shape=[1] * 10_000, data=[1.0])},
     {"distance": Tensor(name="distance", datatype="FP64", shape=[10**4_000], data=[1.0])}],
    ids=["name", "datatype", "shape", "rows"],
)  # fmt: skip
def test_whatever_word_a_caller_made_up_is_cut_short(given: dict[str, Tensor]) -> None:
    with pytest.raises(BadInput) as refused:
        COLUMNS.read(request(**given))
    assert len(str(refused.value)) < 1000


@pytest.mark.parametrize("answer", [SECRET, [SECRET, 1.0], {"y": [SECRET]}, pd.DataFrame({"y": [SECRET]})])
def test_what_a_model_returns_is_not_quoted(answer: Any) -> None:
    with pytest.raises(PredictionFailed) as failed:
        output_tensors(answer, SIGNATURE.outputs, rows=1)
    assert SECRET not in str(failed.value)


@pytest.mark.parametrize("words", [in_words, in_short, _in_words])
@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), RuntimeError(f"{SECRET}: odd")])
def test_of_a_librarys_error_the_kind_is_told_and_not_the_text(words: Any, error: Exception) -> None:
    said = words(error)
    assert said.startswith(type(error).__name__)
    assert SECRET not in said


def test_our_own_errors_and_the_systems_are_told_in_full_up_to_a_length() -> None:
    assert in_words(LedgerError("the ledger is away")) == "LedgerError: the ledger is away"
    assert in_words(OSError(28, "No space left on device")) == "OSError: [Errno 28] No space left on device"
    assert len(in_words(LedgerError("x" * 10_000))) == MOST_WORDS


def test_what_nobody_foresaw_is_alerted_with_its_place_and_logged_in_full(
    systems: MemorySystems, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.ERROR),
        contained(systems.ledger, logging.getLogger(), where="here") as trouble,
    ):
        raise ValueError(f"could not convert {SECRET}")
    (alert,) = systems.ledger.outbox.all()
    assert alert.body.startswith("ValueError at tests/attacks/test_errors.py:")
    assert SECRET not in alert.body + trouble.words
    assert SECRET in caplog.text


def test_a_run_that_failed_over_a_row_is_alerted_without_it(
    systems: MemorySystems, instance: dg.DagsterInstance
) -> None:
    @dg.op
    def fails() -> None:
        pd.Series([SECRET]).astype(float)

    @dg.job
    def job() -> None:
        fails()

    body = alerted(systems, instance, job, {})
    assert body.startswith("ValueError in step fails; the run's log has its text\n")
    assert SECRET not in body


def test_a_value_that_the_lake_cannot_take_is_not_quoted(tmp_path: Path) -> None:
    lake = lake_below(tmp_path)
    with (
        pytest.raises(LakeError, match="^lake: ConversionException: a value does not fit") as failed,
        lake.connect() as c,
    ):
        c.execute(f"SELECT CAST('{SECRET}' AS DOUBLE)")
    assert SECRET not in str(failed.value)


@pytest.mark.filterwarnings("ignore:module 'sre_:DeprecationWarning")
def test_a_check_that_breaks_on_a_value_does_not_quote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(check: Check, name: str) -> Any:
        raise ValueError(f"cannot compare {SECRET!r}")

    monkeypatch.setattr(expectations, "to_expectation", breaks)
    frame = pd.DataFrame({"features.name": np.repeat(SECRET, 100)})
    checks = DataChecks(checks=(Check(column="features.name", type="unique"),), min_rows=10)
    report = check_window(frame, checks, model="m", docs_dir=tmp_path, window_start=START, window_end=START)
    assert report.reason == "the check on features.name broke: ValueError"


def test_what_a_version_answers_in_the_offline_comparison_is_not_quoted() -> None:
    def echoes(body: dict[str, Any]) -> dict[str, Any]:
        return {"outputs": [{"name": "y", "data": [SECRET]}]}

    def lists_nothing(body: dict[str, Any]) -> dict[str, Any]:
        return {"outputs": [{"name": "y", "data": SECRET}]}

    for predict in (echoes, lists_nothing):
        found = ask(predict, SIGNATURE, [{"carrier": "UA"}], tolerated=0, score="y")
        assert (found.failed, SECRET in found.first_error) == (1, False)
        assert "a value of type str" in found.first_error


LOADS = "predictor starts: m-2\nValueError: no such column: tailwind\n"

SERVED = f"predictor starts: m-2\nm version 2 (m-2) loaded after 4.1 s of CPU\nValueError: {SECRET}\n"


@pytest.mark.parametrize(
    ("log", "told"),
    [(LOADS, True), (SERVED + LOADS, True), (SERVED, False), (LOADS + SERVED, False), (f"ValueError: {SECRET}\n", False),
     (f"{SERVED}a predictor starts: here\n{SECRET}", False), (f"{SECRET}\n", False), ("", False)],
)  # fmt: skip
def test_of_a_predictor_that_died_the_words_of_its_loading_are_told_and_those_about_requests_are_not(
    tmp_path: Path, log: str, told: bool
) -> None:
    file = tmp_path / "m.log"
    file.write_text(log)
    words = last_words(file)
    assert SECRET not in words
    assert words == ("ValueError: no such column: tailwind" if told else f"(what it said is in {file})")


def test_the_real_predictor_says_where_its_loading_begins(tmp_path: Path) -> None:
    launch = Launch(
        model_dir=tmp_path, digest="x", allow=(), service="m", version="2", revision="m-2", port=1,
        log_dir=tmp_path, durability="process",
    )  # fmt: skip
    file = tmp_path / "m.log"
    file.write_text(SERVED)
    with file.open("a") as log:
        assert subprocess.run(model_server(launch), cwd=ROOT, stderr=log, check=False).returncode == 1
    assert last_words(file) == f"predictor m-2: {tmp_path} is no MLflow model: it has no file MLmodel"
