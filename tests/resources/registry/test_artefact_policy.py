"""What is loaded as data has an exact shape; what runs code, or may, needs the manifest's word."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from resources.registry.artefact_policy import violations
from resources.registry.mlmodel import LoggedModel

PYFUNC = {"loader_module": "mlflow.sklearn", "model_path": "model.skops"}

SKOPS = {"serialization_format": "skops", "skops_trusted_types": ["sklearn.tree._tree.Tree"]}

PICKLE = {"loader_module": "mlflow.sklearn", "model_path": "model.pkl"}

XGBOOST = {"data": "model.json", "model_class": "xgboost.sklearn.XGBClassifier", "model_format": "json"}


def _zip(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "{}")
    return content.getvalue()


def _logged(
    folder: Path, flavors: dict[str, Any], *files: str, more: dict[str, Any] | None = None
) -> LoggedModel:
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors} | (more or {})))
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(_zip("schema.json") if name.endswith(".skops") else b"")
    return LoggedModel.read(folder)


def test_skops_is_accepted(tmp_path: Path):
    logged = _logged(tmp_path, {"python_function": PYFUNC, "sklearn": SKOPS}, "model.skops")
    assert violations(logged, ()) == ()


@pytest.mark.parametrize("kind", ["pickle", "cloudpickle"])
def test_pickles_need_an_allowance_of_their_own(tmp_path: Path, kind: str):
    flavors = {"python_function": PICKLE, "sklearn": {"serialization_format": kind}}
    logged = _logged(tmp_path, flavors, "model.pkl")
    [first, *_] = violations(logged, ())
    assert f"stored as {kind}, which runs code" in first
    assert f"artefact.allow: [{kind}]" in first
    assert violations(logged, ("custom_code",)) != ()
    assert violations(logged, (kind,)) == ()


@pytest.mark.parametrize(
    ("flavors", "files", "message"),
    [
        ({"sklearn": {}}, (), "stored as pickle"),
        ({"sklearn": {**SKOPS, "skops_trusted_types": ["os.system"]}}, (), "asks to trust os.system"),
        ({"sklearn": {**SKOPS, "skops_trusted_types": "os.system"}}, (), "must be a list of names"),
        ({"python_function": {"loader_module": "my_loader"}}, (), "loaded by my_loader"),
        ({"python_function": {"loader_module": "mlflow.pytorch"}}, (), "loaded by mlflow.pytorch"),
        ({"python_function": {"loader_module": "mlflow.tensorflow"}}, (), "loaded by mlflow.tensorflow"),
        ({"python_function": {"loader_module": ["mlflow.sklearn"]}}, (), "loaded by a list"),
        ({"python_function": {**PYFUNC, "code": "code"}, "sklearn": SKOPS}, (), "Python code of its own"),
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, (), "a Python class of its own"),
        (
            {"python_function": PYFUNC, "sklearn": SKOPS},
            ("extra/hidden.PKL",),
            "extra/hidden.PKL is a pickle",
        ),
        ({}, (), "no flavor"),
    ],
)
def test_what_runs_code_is_named(
    tmp_path: Path, flavors: dict[str, Any], files: tuple[str, ...], message: str
):
    assert message in "\n".join(violations(_logged(tmp_path, flavors, *files), ()))


DATA: dict[str, tuple[dict[str, Any], str]] = {
    "lightgbm": ({"data": "model.lgb", "model_class": "lightgbm.basic.Booster"}, "model.lgb"),
    "xgboost": (XGBOOST, "model.json"),
    "catboost": ({"data": "model.cb", "model_type": "CatBoostRegressor", "save_format": "cbm"}, "model.cb"),
    "onnx": ({"data": "model.onnx", "providers": ["CPUExecutionProvider"]}, "model.onnx"),
}


@pytest.mark.parametrize("name", DATA)
def test_a_format_that_holds_data_is_accepted(tmp_path: Path, name: str):
    flavor, file = DATA[name]
    flavors = {"python_function": {"loader_module": f"mlflow.{name}", "data": file}, name: flavor}
    assert violations(_logged(tmp_path, flavors, file), ()) == ()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "lightgbm",
            {"model_class": "lightgbm.sklearn.LGBMClassifier"},
            "LightGBM model is stored as cloudpickle",
        ),
        ("lightgbm", {"model_class": "os.system"}, "lightgbm.model_class is os.system"),
        ("xgboost", {"model_class": "subprocess.Popen"}, "xgboost.model_class is subprocess.Popen"),
        ("xgboost", {"model_class": ["xgboost.core.Booster"]}, "xgboost.model_class is a list"),
        ("catboost", {"save_format": "python"}, "catboost.save_format is python"),
        ("onnx", {"providers": [["QNNExecutionProvider", {"backend_path": "x.so"}]]}, "onnx.providers"),
        ("onnx", {"onnx_session_options": {"extra_session_config": {"a": "b"}}}, "onnx_session_options"),
        ("onnx", {"custom_objects": "x"}, "flavors.onnx has custom_objects"),
    ],
)
def test_a_value_that_chooses_code_must_be_one_of_those_that_are_known(
    tmp_path: Path, name: str, changes: dict[str, Any], message: str
):
    flavor, file = DATA[name]
    flavors = {"python_function": {"loader_module": f"mlflow.{name}", "data": file}, name: flavor | changes}
    assert message in "\n".join(violations(_logged(tmp_path, flavors, file), ()))


@pytest.mark.parametrize(
    ("conf", "more", "message"),
    [
        ({"predict_fn": "get_raw_model"}, {}, "predict_fn is get_raw_model"),
        ({"config": {"a": 1}}, {}, "python_function.config is set"),
        ({"surprise": 1}, {}, "flavors.python_function has surprise"),
        ({}, {"surprise": 1}, "MLmodel has surprise"),
        ({}, {"flavors": {"python_function": PYFUNC, "sklearn": SKOPS, "keras": {}}}, "flavors has keras"),
        ({}, {"flavors": {"python_function": PYFUNC}}, "MLmodel has no such flavor"),
    ],
)
def test_a_key_that_is_not_known_is_code_until_it_is_allowed(
    tmp_path: Path, conf: dict[str, Any], more: dict[str, Any], message: str
):
    flavors = {"flavors": {"python_function": PYFUNC | conf, "sklearn": SKOPS}}
    logged = _logged(tmp_path, {}, "model.skops", more=flavors | more)
    assert message in "\n".join(violations(logged, ()))
    assert violations(logged, ("custom_code",)) == ()


EVERYTHING = ("pickle", "cloudpickle", "custom_code")


@pytest.mark.parametrize(
    "place", ["/etc/model.skops", "../model.skops", "a/../../model.skops", "", 5, "a\\b.skops"]
)
@pytest.mark.parametrize("key", ["model_path", "data"])
def test_no_allowance_lets_a_file_lie_outside_the_artefact(tmp_path: Path, key: str, place: Any):
    flavors = {"python_function": PYFUNC | {key: place}, "sklearn": SKOPS}
    assert violations(_logged(tmp_path, flavors, "model.skops"), EVERYTHING) != ()


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", None])
def test_no_allowance_lets_an_artifact_of_a_python_model_lie_outside(tmp_path: Path, path: Any):
    conf = {"loader_module": "mlflow.pyfunc.model", "artifacts": {"a": {"path": path, "uri": "x"}}}
    assert "must be in the artefact's folder" in "".join(
        violations(_logged(tmp_path, {"python_function": conf}), EVERYTHING)
    )


@pytest.mark.parametrize("key", ["artifact_path", "serving_input_path"])
def test_no_allowance_lets_the_input_example_lie_outside(tmp_path: Path, key: str):
    flavors = {"python_function": PYFUNC, "sklearn": SKOPS}
    logged = _logged(tmp_path, flavors, "model.skops", more={"saved_input_example_info": {key: "/dev/zero"}})
    assert "the input example lies at /dev/zero" in "".join(violations(logged, EVERYTHING))


def test_no_allowance_lets_a_link_in(tmp_path: Path):
    logged = _logged(tmp_path, {"python_function": PYFUNC, "sklearn": SKOPS}, "model.skops")
    (tmp_path / "elsewhere").symlink_to("/etc")
    assert "elsewhere is a link" in "".join(violations(logged, EVERYTHING))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is no skops file"), (_zip("other.json"), "is no skops file"), (_zip(), "is no skops file")],
)
def test_a_skops_file_is_a_zip_with_its_schema(tmp_path: Path, content: bytes, message: str):
    logged = _logged(tmp_path, {"python_function": PYFUNC, "sklearn": SKOPS}, "model.skops")
    (tmp_path / "model.skops").write_bytes(content)
    assert message in "".join(violations(logged, EVERYTHING))


@pytest.mark.parametrize("file", ["model.SKOPS", "model.pkl", "model.zip", "model"])
def test_the_suffix_is_what_the_serialization_format_says(tmp_path: Path, file: str):
    flavors = {"python_function": PYFUNC | {"model_path": file}, "sklearn": SKOPS}
    assert "must end in .skops" in "".join(violations(_logged(tmp_path, flavors, file), EVERYTHING))


def test_what_is_said_of_an_artefact_has_an_end_whatever_its_author_wrote(tmp_path: Path):
    more = {f"key {i}\n\n{'x' * 1_000}": i for i in range(20)}
    trusted = {"skops_trusted_types": [f"os.{'y' * 300}{i}" for i in range(500)]}
    flavors = {"python_function": PYFUNC, "sklearn": SKOPS | trusted}
    said = violations(_logged(tmp_path, flavors, "model.skops", more=more), ())
    assert said[-1] == "and 11 more"
    assert len("; ".join(said)) < 6_000
    assert "\n" not in "".join(said)


def test_a_second_mlmodel_needs_the_word_for_code(tmp_path: Path):
    logged = _logged(tmp_path, {"python_function": PYFUNC, "sklearn": SKOPS}, "model.skops", "inner/MLmodel")
    assert "inner/MLmodel is a second MLmodel" in "".join(violations(logged, ()))
    assert violations(logged, ("custom_code",)) == ()
