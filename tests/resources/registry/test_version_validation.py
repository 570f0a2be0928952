"""What a version must show before traffic, against a real MLflow server."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from pipelines.core.errors import RegistryError, ServingError, VersionFailed
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.validation import validate_version
from resources.registry.registry import Registry
from resources.serving.contract import prediction


def _answer(*shape: int, name: str = "score", datatype: str = "FP64") -> Mapping[str, Any]:
    return {"outputs": [{"name": name, "shape": list(shape), "datatype": datatype, "data": [0.5] * shape[0]}]}


def test_a_good_version_passes_with_its_facts(registry: Registry, good_version: str):
    asked: list[Mapping[str, Any]] = []

    def probe(request: dict[str, Any]) -> Mapping[str, Any]:
        asked.append(request)
        return _answer(3)

    report = validate_version(registry, "churn", good_version, probe=probe)
    assert report.verdict is Verdict.PASS, report.reason
    assert [step.name for step in report.steps] == [
        "artefact",
        "policy",
        "signature",
        "input example",
        "probe",
    ]
    assert report.facts["digest"] == registry.artefact("churn", good_version).digest
    assert asked == [registry.input_example("churn", good_version)]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (_answer(2), r"output 'score' has shape \[2\], expected \[3\]"),
        (_answer(3, 2), r"output 'score' has shape \[3, 2\]"),
        (_answer(3, name="other"), "no output 'score'; it has other"),
        ({}, "no output 'score'; it has none"),
        ({"outputs": [{"name": "score"}]}, "output 'score' has no shape"),
        (
            _answer(3, datatype="BYTES"),
            "'score' has datatype BYTES, but the signature says double: expected FP64",
        ),
        (_answer(3, datatype="BOOL"), "'score' has datatype BOOL"),
    ],
)
def test_an_answer_of_another_shape_or_type_is_refused(
    registry: Registry, good_version: str, answer: Mapping[str, Any], message: str
):
    report = validate_version(registry, "churn", good_version, probe=lambda _: answer)
    assert report.verdict is Verdict.FAIL
    assert re.search(message, report.reason)


@pytest.mark.parametrize(
    "content", [b"[" * 5_000, b"\xff", b"flavors: [", b"signature: [a]\nflavors: {}", b"a: &a [*a]"]
)
def test_an_mlmodel_that_cannot_be_read_is_a_verdict_on_the_version_and_no_failed_run(
    registry: Registry, good_version: str, content: bytes
):
    folder = registry.artefact("churn", good_version).uri
    (Path(folder) / "MLmodel").write_bytes(content)
    report = validate_version(registry, "churn", good_version, probe=lambda _: _answer(3))
    assert report.verdict is Verdict.FAIL
    assert "MLmodel" in report.reason
    assert "probe" not in [step.name for step in report.steps]


def test_a_predictor_that_cannot_answer_refuses_the_version(registry: Registry, good_version: str):
    def probe(_: dict[str, Any]) -> Mapping[str, Any]:
        raise VersionFailed("500: unknown categories ['LAX']")

    report = validate_version(registry, "churn", good_version, probe=probe)
    assert (report.verdict, report.reason) == (Verdict.FAIL, "500: unknown categories ['LAX']")


def test_a_predictor_that_cannot_be_asked_says_nothing_about_the_version(
    registry: Registry, good_version: str
):
    def probe(_: dict[str, Any]) -> Mapping[str, Any]:
        raise ServingError("503: no healthy upstream")

    report = validate_version(registry, "churn", good_version, probe=probe)
    assert (report.verdict, report.pending) == (Verdict.UNKNOWN, False)
    assert report.reason == "could not be asked: 503: no healthy upstream"


def test_a_bare_version_is_refused_without_a_probe(registry: Registry, publish: Callable[..., str]):
    def probe(_: dict[str, Any]) -> Mapping[str, Any]:
        raise AssertionError("must not be asked")

    report = validate_version(registry, "undescribed", publish("undescribed"), probe=probe)
    assert "has no signature" in report.reason


def test_a_pickled_version_never_reaches_the_predictor(registry: Registry, publish: Callable[..., str]):
    version = publish("pickled", serialization="cloudpickle", described=True)
    asked: list[object] = []

    def probe(request: dict[str, Any]) -> Mapping[str, Any]:
        asked.append(request)
        return _answer(3)

    report = validate_version(registry, "pickled", version, probe=probe)
    assert "stored as cloudpickle" in report.reason
    assert asked == []
    allowed = validate_version(registry, "pickled", version, allow=("cloudpickle",), probe=probe)
    assert allowed.verdict is Verdict.PASS, allowed.reason


def test_a_registry_that_cannot_be_asked_says_nothing_about_the_version(registry: Registry):
    dead = Registry("http://127.0.0.1:9", registry.cache, timeout=0.2, attempts=1)
    with pytest.raises(RegistryError, match="does not answer"):
        validate_version(dead, "churn", "1")


@pytest.mark.parametrize(
    "body", ['{"outputs": null}', '{"outputs": [1]}', '{"outputs": {"a": 1}}', "[]", '"ok"', "null", "<html>"]
)
def test_an_answer_that_is_no_prediction_is_the_versions_own_failure(body: str):
    with pytest.raises(VersionFailed, match="answered 200"):
        prediction("v2", httpx.Response(200, text=body))
    assert prediction("v2", httpx.Response(200, text='{"outputs": []}')) == {"outputs": []}
