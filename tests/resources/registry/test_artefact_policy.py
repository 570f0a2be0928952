"""Formats that run code when they are loaded need the manifest's word."""

import json
from pathlib import Path
from typing import Any

import pytest

from resources.registry.logged import LoggedModel
from resources.registry.policy import violations

PYFUNC = {"loader_module": "mlflow.sklearn", "model_path": "model.skops"}
SKOPS = {"serialization_format": "skops", "skops_trusted_types": ["sklearn.tree._tree.Tree"]}


def _logged(folder: Path, flavors: dict[str, Any], *files: str) -> LoggedModel:
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors}))
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    return LoggedModel.read(folder)


def test_skops_is_accepted(tmp_path: Path):
    logged = _logged(tmp_path, {"python_function": PYFUNC, "sklearn": SKOPS}, "model.skops")
    assert violations(logged, ()) == ()


@pytest.mark.parametrize("kind", ["pickle", "cloudpickle"])
def test_pickles_need_an_allowance_of_their_own(tmp_path: Path, kind: str):
    flavors = {"python_function": PYFUNC, "sklearn": {"serialization_format": kind}}
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
        ({"python_function": {"loader_module": "my_loader"}}, (), "loaded by my_loader"),
        ({"python_function": {"loader_module": "mlflow.pytorch"}}, (), "loaded by mlflow.pytorch"),
        ({"python_function": {**PYFUNC, "code": "code"}, "sklearn": SKOPS}, (), "Python code of its own"),
        ({"python_function": {"loader_module": "mlflow.pyfunc.model"}}, (), "a Python class of its own"),
        (
            {"python_function": PYFUNC, "sklearn": SKOPS},
            ("extra/hidden.pkl",),
            "extra/hidden.pkl is a pickle",
        ),
        ({}, (), "no flavor"),
    ],
)
def test_what_runs_code_is_named(
    tmp_path: Path, flavors: dict[str, Any], files: tuple[str, ...], message: str
):
    assert message in "\n".join(violations(_logged(tmp_path, flavors, *files), ()))
