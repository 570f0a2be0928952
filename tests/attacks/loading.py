"""Builds hostile artefacts and loads each of them as the predictor does; a process of its own, since a guard stays.

    python -m tests.attacks.loading FOLDER

One JSON object. `attacks`: name -> {"refusals": what the policy says, "unguarded": whether its payload ran when MLflow
loaded it, "guarded": whether it ran when the predictor did, "error": what the predictor said}. `unpicklers`: name ->
what the guard said. `readers`: name -> what the policy says of a vectorizer, and what the guard said when it was given
the name of a file. `variants`: name -> as for `attacks`. `ordinary`: name -> what policy and predictor said of a model that MLflow logged, and whether its
digest is still the same. `harmless`: name -> what the guard said. A payload only makes a folder.
"""

import contextlib
import importlib
import json
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SKLEARN = "mlflow.sklearn"

SKOPS = {"pickled_model": "model.skops", "serialization_format": "skops"}

PICKLED = {"serialization_format": "pickle"}


class Payload:
    """Unpickling it makes `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


class Artefact:
    """One folder that is being made hostile."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.outside = folder / "artefact", folder / "outside"
        self.marker = folder / "marks" / "ran"
        for each in (self.folder, self.outside, self.marker.parent):
            each.mkdir(parents=True)

    def pickle(self, name: str) -> None:
        import pickle

        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pickle.dumps(Payload(self.marker)))

    def skops(self, name: str = "model.skops") -> None:
        """A harmless one, as MLflow writes it."""
        import skops.io
        from sklearn.linear_model import LinearRegression

        skops.io.dump(LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), self.folder / name)

    def source(self, *, then: str = "") -> str:
        """A Python module that makes the marker."""
        return f"import os\nos.path.exists({str(self.marker)!r}) or os.mkdir({str(self.marker)!r})\n{then}"

    def module(self, name: str, *, then: str = "") -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.source(then=then))

    def says(self, text: str | None = None, *, inner: str = ".", **flavors: dict[str, Any]) -> None:
        """Write MLmodel, from flavors or as it stands."""
        content = json.dumps({"flavors": flavors}) if text is None else text
        (self.folder / inner).mkdir(exist_ok=True)
        (self.folder / inner / "MLmodel").write_text(content)


def no_flavor(at: Artefact) -> None:
    at.pickle("model.bin")
    at.says(python_function={"loader_module": SKLEARN, "model_path": "model.bin"})


def subfolder(at: Artefact) -> None:
    at.skops()
    at.pickle("inner/model.bin")
    at.says(python_function={"loader_module": SKLEARN, "data": "inner/model.bin"}, sklearn=SKOPS)


def subfolder_with_its_own_mlmodel(at: Artefact) -> None:
    subfolder(at)
    at.says(inner="inner", sklearn=PICKLED)


def folder_with_its_own_mlmodel(at: Artefact) -> None:
    at.skops()
    at.pickle("inner/model.bin")
    at.says(python_function={"loader_module": SKLEARN, "data": "inner"}, sklearn=SKOPS)
    at.says(
        inner="inner",
        sklearn=PICKLED,
        python_function={"loader_module": SKLEARN, "model_path": "model.bin"},
    )


def folder_named_like_a_skops_file(at: Artefact) -> None:
    at.pickle("model.skops/model.bin")
    at.says(python_function={"loader_module": SKLEARN, "data": "model.skops"}, sklearn=SKOPS)
    at.says(
        inner="model.skops",
        sklearn=PICKLED,
        python_function={"loader_module": SKLEARN, "model_path": "model.bin"},
    )


def absolute(at: Artefact) -> None:
    at.skops()
    at.pickle("../outside/model.bin")
    at.says(python_function={"loader_module": SKLEARN, "data": str(at.outside / "model.bin")}, sklearn=SKOPS)


def parent(at: Artefact) -> None:
    at.skops()
    at.pickle("../outside/model.bin")
    at.says(python_function={"loader_module": SKLEARN, "data": "../outside/model.bin"}, sklearn=SKOPS)


def linked_folder(at: Artefact) -> None:
    at.skops()
    at.pickle("../outside/model.bin")
    (at.folder / "link").symlink_to(at.outside)
    at.says(python_function={"loader_module": SKLEARN, "data": "link/model.bin"}, sklearn=SKOPS)


def capitals(at: Artefact) -> None:
    at.skops()
    at.pickle("inner/model.PKL")
    at.says(python_function={"loader_module": SKLEARN, "data": "inner/model.PKL"}, sklearn=SKOPS)


_YAML = """
flavors:
  python_function:
    loader_module: mlflow.sklearn
    model_path: model.skops
    code: {code}
  sklearn:
    serialization_format: skops
    pickled_model: model.skops
"""


def octal_code(at: Artefact) -> None:
    at.skops()
    at.module("0o0/skops.py")
    at.says(_YAML.format(code="0o0"))


def tagged_code(at: Artefact) -> None:
    at.skops()
    at.module("0/skops.py")
    at.says(_YAML.format(code="!!str 0"))


def code_outside(at: Artefact) -> None:
    at.skops()
    at.module("../outside/skops.py")
    at.says(_YAML.format(code="../outside"))


def zipped_code(at: Artefact) -> None:
    at.skops()
    with zipfile.ZipFile(at.folder / "modules", "w") as archive:
        archive.writestr("skops.py", at.source())
    at.says(_YAML.format(code="modules"))


def bytecode_alone(at: Artefact) -> None:
    import py_compile

    at.skops()
    at.module("lib/skops.py")
    py_compile.compile(str(at.folder / "lib/skops.py"), cfile=str(at.folder / "lib/skops.pyc"))
    (at.folder / "lib/skops.py").unlink()
    at.says(_YAML.format(code="lib"))


def key_given_twice(at: Artefact) -> None:
    at.pickle("model.skops")
    at.says(_YAML.format(code="null") + "    serialization_format: pickle\n")


def merged_key(at: Artefact) -> None:
    at.pickle("model.skops")
    at.says(
        _YAML.format(code="null").replace("serialization_format: skops", "<<: {serialization_format: pickle}")
    )


def lightgbm_class(at: Artefact) -> None:
    at.pickle("model.bin")
    at.says(
        python_function={"loader_module": "mlflow.lightgbm", "data": "model.bin"},
        lightgbm={"data": "model.bin", "model_class": "any.Thing"},
    )


def lightgbm_estimator(at: Artefact) -> None:
    at.pickle("model.lgb")
    at.says(
        python_function={"loader_module": "mlflow.lightgbm", "data": "model.lgb"},
        lightgbm={"data": "model.lgb", "model_class": "lightgbm.sklearn.LGBMClassifier"},
    )


def xgboost_class(at: Artefact) -> None:
    (at.folder / "model.json").write_text("{}")
    at.says(
        python_function={"loader_module": "mlflow.xgboost", "data": "model.json"},
        xgboost={"data": "model.json", "model_class": "tempfile.mkdtemp"},
    )


def loader_of_its_own(at: Artefact) -> None:
    at.module("code/their_loader.py", then="def _load_pyfunc(path): return None\n")
    at.says(python_function={"loader_module": "their_loader", "code": "code"})


def python_model(at: Artefact) -> None:
    at.pickle("model.bin")
    at.says(python_function={"loader_module": "mlflow.pyfunc.model", "python_model": "model.bin"})


def model_from_code(at: Artefact) -> None:
    at.module("model_code.py")
    at.says(
        python_function={
            "loader_module": "mlflow.pyfunc.loaders.code_model",
            "model_code_path": "model_code.py",
        }
    )


ATTACKS: tuple[Callable[[Artefact], None], ...] = (
    no_flavor, subfolder, subfolder_with_its_own_mlmodel, absolute, parent, octal_code, capitals, lightgbm_class,
    xgboost_class, folder_with_its_own_mlmodel, folder_named_like_a_skops_file, linked_folder, tagged_code, code_outside,
    zipped_code, bytecode_alone, key_given_twice, merged_key, lightgbm_estimator, loader_of_its_own, python_model,
    model_from_code,
)  # fmt: skip


def forged(
    at: Artefact, change: Callable[[dict[str, Any]], object], *, trusted: list[str] | None = None
) -> None:
    """A skops file whose schema was changed by hand; `trusted`: what `MLmodel` has skops trust."""
    at.skops("plain.zip")
    with (
        zipfile.ZipFile(at.folder / "plain.zip") as plain,
        zipfile.ZipFile(at.folder / "model.skops", "w") as other,
    ):
        for name in plain.namelist():
            content = plain.read(name)
            if name == "schema.json":
                change(schema := json.loads(content))
                content = json.dumps(schema).encode()
            other.writestr(name, content)
    (at.folder / "plain.zip").unlink()
    at.says(
        python_function={"loader_module": SKLEARN, "data": "model.skops"},
        sklearn=SKOPS | ({} if trusted is None else {"skops_trusted_types": trusted}),
    )


def node(loader: str, name: str, **more: Any) -> dict[str, Any]:
    """One of a skops schema; `name`: of a class or function."""
    module, _, kind = name.rpartition(".")
    return {"__loader__": loader, "__module__": module, "__class__": kind, **more}


def keyed_by(at: Artefact, kind: dict[str, Any]) -> dict[str, Any]:
    """A mapping that calls `kind` with its one key, the marker, while it is read."""
    types = node("ListNode", "builtins.list", content=[kind])
    value = node("JsonNode", "builtins.str", content="1")
    return node("DictNode", "builtins.dict", key_types=types, content={str(at.marker): value})


def given(attribute: dict[str, Any], **top: Any) -> Callable[[dict[str, Any]], None]:
    """Add an attribute to the model."""

    def change(schema: dict[str, Any]) -> None:
        attributes = schema["content"]
        attributes["content"]["more"] = attribute
        attributes["key_types"]["content"].append(node("TypeNode", "builtins.str"))
        schema.update(top)

    return change


def key_that_is_called(at: Artefact) -> None:
    forged(at, given(keyed_by(at, node("FunctionNode", "os.mkdir"))), trusted=["os.mkdir"])


def type_that_is_a_function(at: Artefact) -> None:
    forged(at, given(keyed_by(at, node("TypeNode", "os.mkdir"))), trusted=["os.mkdir"])


def constructor_that_is_a_function(at: Artefact) -> None:
    path = node("JsonNode", "builtins.str", content=json.dumps(str(at.marker)))
    tuple_ = node("TupleNode", "builtins.tuple", content=[path])
    forged(at, given(node("ConstructorFromReduceNode", "os.mkdir", content=tuple_)), trusted=["os.mkdir"])


def untrusted_function(at: Artefact) -> None:
    forged(at, given(keyed_by(at, node("FunctionNode", "os.mkdir"))))


def function_of_an_older_protocol(at: Artefact) -> None:
    content = {"module_path": "os", "function": "mkdir"}
    disguised = node("FunctionNode", "numpy.add", content=content)
    forged(at, given(keyed_by(at, disguised), protocol=0))


def id_of_something_harmless(at: Artefact) -> None:
    harmless = node("TypeNode", "builtins.str", __id__=1)
    both = [harmless, keyed_by(at, node("FunctionNode", "os.mkdir", __id__=1))]
    forged(at, given(node("ListNode", "builtins.list", content=both)))


def name_with_dots(at: Artefact) -> None:
    mkdir = {"__loader__": "FunctionNode", "__module__": "numpy", "__class__": "os.mkdir"}
    forged(at, given(keyed_by(at, mkdir)), trusted=["numpy.dtype"])


def array_of_pickles(at: Artefact) -> None:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.array([Payload(at.marker)]), allow_pickle=True)
    forged(at, given(node("NdArrayNode", "numpy.ndarray", type="numpy", file="a.npy")))
    with zipfile.ZipFile(at.folder / "model.skops", "a") as archive:
        archive.writestr("a.npy", file.getvalue())


def sparse_matrix_of_pickles(at: Artefact) -> None:
    import io

    import numpy as np

    file, payload = io.BytesIO(), np.array([Payload(at.marker)])
    np.savez(file, format=payload, data=payload, indices=payload, indptr=payload, shape=payload)
    forged(at, given(node("SparseMatrixNode", "scipy.sparse._matrix.spmatrix", type="scipy", file="a.npz")))
    with zipfile.ZipFile(at.folder / "model.skops", "a") as archive:
        archive.writestr("a.npz", file.getvalue())


def two_schemas_in_one_zip(at: Artefact) -> None:
    key_that_is_called(at)
    with zipfile.ZipFile(at.folder / "model.skops") as archive:
        bad = archive.read("schema.json")
    forged(at, lambda schema: None, trusted=["os.mkdir"])
    with zipfile.ZipFile(at.folder / "model.skops", "a") as archive:
        archive.writestr("schema.json", bad)


def zip_that_leads_out(at: Artefact) -> None:
    forged(at, lambda schema: None)
    with zipfile.ZipFile(at.folder / "model.skops", "a") as archive:
        archive.writestr(str(at.marker), "")
        archive.writestr("../marks/ran", "")


def tagged_call(at: Artefact) -> None:
    at.skops()
    at.says(_YAML.format(code="null") + f"metadata: !!python/object/apply:os.mkdir [{at.marker}]\n")


def names_that_look_alike(at: Artefact) -> None:
    at.skops("model.skops")
    at.pickle("model.skops ")
    at.pickle("model.skops.")
    at.says(
        python_function={"loader_module": SKLEARN, "data": "model.skops ", "model_path": "model.skops."},
        sklearn=SKOPS,
    )


def loader_that_looks_alike(at: Artefact) -> None:
    at.skops()
    at.module("mlflow/sklearn.py", then="def _load_pyfunc(path): return None\n")
    at.says(
        python_function={"loader_module": "mlflow\uff0esklearn", "data": "model.skops", "code": "."},
        sklearn=SKOPS,
    )


def mapping_for_a_path(at: Artefact) -> None:
    at.skops()
    at.pickle("model.bin")
    at.says(
        python_function={"loader_module": SKLEARN, "data": {"path": "model.bin"}, "env": {"conda": "/"}},
        sklearn=SKOPS,
    )


def example_that_is_a_pickle(at: Artefact) -> None:
    at.skops()
    at.pickle("input_example.json")
    example = {"artifact_path": "input_example.json", "type": "ndarray", "serving_input_path": "model.skops"}
    flavors = {"python_function": {"loader_module": SKLEARN, "data": "model.skops"}, "sklearn": SKOPS}
    at.says(json.dumps({"flavors": flavors, "saved_input_example_info": example}))


VARIANTS: tuple[Callable[[Artefact], None], ...] = (
    key_that_is_called, type_that_is_a_function, constructor_that_is_a_function, untrusted_function, function_of_an_older_protocol, id_of_something_harmless, name_with_dots, array_of_pickles,
    sparse_matrix_of_pickles, two_schemas_in_one_zip, zip_that_leads_out, tagged_call, names_that_look_alike,
    loader_that_looks_alike, mapping_for_a_path, example_that_is_a_pickle,
)  # fmt: skip
"""Beside what worked: whatever the library makes of them, no code runs once the policy was asked."""


def vectorizer(
    folder: Path,
    kind: str,
    *,
    input: str = "filename",
    encoding: str = "utf-8",
    change: Callable[[dict[str, Any]], bytes] | None = None,
) -> None:
    """A skops file of one class out of scikit-learn, its name escaped; `input`: what it takes a text for."""
    import skops.io
    from sklearn.feature_extraction import text

    at = Artefact(folder)
    skops.io.dump(getattr(text, kind)(input=input).fit([__file__]), at.folder / "plain.zip")
    with (
        zipfile.ZipFile(at.folder / "plain.zip") as plain,
        zipfile.ZipFile(at.folder / "model.skops", "w") as other,
    ):
        for name in plain.namelist():
            content = plain.read(name)
            if name == "schema.json":
                changed = content if change is None else change(json.loads(content))
                content = changed.decode().replace(kind, f"\\u{ord(kind[0]):04x}{kind[1:]}").encode(encoding)
            other.writestr(name, content)
    at.says(python_function={"loader_module": SKLEARN, "data": "model.skops"}, sklearn=SKOPS)


def _says_content(schema: dict[str, Any]) -> bytes:
    """With an id that stands for another text: skops takes what it saw first."""
    attributes = schema["content"]
    first = node("JsonNode", "builtins.str", content='"filename"', __id__=1)
    said = node("JsonNode", "builtins.str", content='"content"', __id__=1)
    attributes["content"] = {"a": first} | attributes["content"] | {"input": said}
    attributes["key_types"]["content"].append(node("TypeNode", "builtins.str"))
    return json.dumps(schema).encode()


READERS: dict[str, Callable[[Path], None]] = {
    "counts": lambda folder: vectorizer(folder, "CountVectorizer"),
    "weights": lambda folder: vectorizer(folder, "TfidfVectorizer", encoding="utf-16"),
    "hashes": lambda folder: vectorizer(folder, "HashingVectorizer", encoding="utf-16-le"),
    "an id given twice": lambda folder: vectorizer(folder, "CountVectorizer", change=_says_content),
    "texts": lambda folder: vectorizer(folder, "CountVectorizer", input="content"),
}
"""Callers read whatever the account may where a vectorizer takes their texts for names of files; the last does not."""

PYTHON_MODEL = """
import mlflow

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

mlflow.models.set_model(Same())
"""


def save_sklearn(folder: Path, serialization: str) -> None:
    import mlflow.sklearn
    from sklearn.tree import DecisionTreeRegressor

    model = DecisionTreeRegressor().fit([[0.0], [1.0]], [0.0, 1.0])
    mlflow.sklearn.save_model(
        model,
        folder,
        serialization_format=serialization,
        skops_trusted_types=["sklearn.tree._tree.Tree"] if serialization == "skops" else None,
        pip_requirements=[],
        metadata={"team": "a"},
    )


def save_python(folder: Path, *, stored: bool) -> None:
    import mlflow.pyfunc

    code = folder.with_suffix(".py")
    code.write_text(PYTHON_MODEL)
    names: dict[str, Any] = {}
    if stored:
        exec(compile(PYTHON_MODEL, "model", "exec"), names)
    mlflow.pyfunc.save_model(
        folder, python_model=names["Same"]() if stored else code, pip_requirements=[], model_config={"a": 1}
    )


ORDINARY: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "skops": (lambda folder: save_sklearn(folder, "skops"), ()),
    "pickle": (lambda folder: save_sklearn(folder, "pickle"), ("pickle",)),
    "cloudpickle": (lambda folder: save_sklearn(folder, "cloudpickle"), ("cloudpickle",)),
    "python model": (lambda folder: save_python(folder, stored=True), ("cloudpickle", "custom_code")),
    "model from code": (lambda folder: save_python(folder, stored=False), ("custom_code",)),
}


def unpicklers(folder: Path) -> dict[str, Callable[[], object]]:
    """Ways to read a pickle, or marshalled code, that makes a folder if it is run."""
    import marshal
    import pickle

    import cloudpickle
    import joblib
    import numpy as np
    import pandas as pd

    path, payload = folder / "payload", pickle.dumps(Payload(folder / "ran"))
    path.write_bytes(payload)
    joblib.dump(Payload(folder / "ran"), folder / "joblib")
    np.save(folder / "numpy.npy", np.array([Payload(folder / "ran")]), allow_pickle=True)

    class Slow(pickle._Unpickler):  # what joblib and dill build on  # pyright: ignore[reportPrivateUsage]
        pass

    def opened(read: Callable[[Any], object]) -> object:
        with path.open("rb") as file:
            return read(file)

    return {
        "pickle.load": lambda: opened(pickle.load),
        "pickle.loads": lambda: pickle.loads(payload),
        "pickle.Unpickler": lambda: opened(lambda file: pickle.Unpickler(file).load()),
        "pickle._Unpickler": lambda: opened(lambda file: Slow(file).load()),
        "cloudpickle.load": lambda: opened(cloudpickle.load),
        "cloudpickle.loads": lambda: cloudpickle.loads(payload),
        "joblib.load": lambda: joblib.load(folder / "joblib"),
        "numpy.load": lambda: np.load(folder / "numpy.npy", allow_pickle=True),
        "pandas.read_pickle": lambda: pd.read_pickle(path),
        "marshal.loads": lambda: marshal.loads(marshal.dumps(compile("1", "x", "eval"))),
    }


def harmless(folder: Path) -> dict[str, Callable[[], object]]:
    """What goes on working: `library` is a folder that Python looked in before."""
    import pickle
    from concurrent.futures import ProcessPoolExecutor
    from datetime import date
    from multiprocessing import get_context

    day = pickle.dumps(date(2024, 2, 29))
    (folder / "unpickles_at_import.py").write_text(f"import pickle\nDAY = pickle.loads({day!r})\n")
    sys.path.append(str(folder))

    def ask_a_worker() -> None:
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as workers:
            assert workers.submit(date, 2024, 2, 29).result() == date(2024, 2, 29)

    return {
        "numbers and text": lambda: pickle.loads(pickle.dumps({"a": [1, 2.0, "b", None]})),
        "a worker's answer": ask_a_worker,
        "a library that unpickles while it is imported": lambda: importlib.import_module(
            "unpickles_at_import"
        ),
        "a library that nobody has imported yet": lambda: importlib.import_module("wsgiref.simple_server"),
    }


def main(folder: Path) -> dict[str, dict[str, Any]]:
    """Everything in processes of their own, forked from one that has imported what a predictor imports."""
    warnings.simplefilter("ignore")
    import mlflow.pyfunc
    import mlflow.sklearn  # noqa: F401 -- shared by the children; skops is not: some of the attacks stand in for it
    from sklearn.utils import all_estimators

    all_estimators()  # what importing skops would import, in each child
    built = _forked(folder / "built", lambda: _build(folder))
    assert not built, built
    attacks = {attack.__name__: _tried(folder / attack.__name__) for attack in ATTACKS}
    importlib.import_module("skops.io")  # nothing stands in for it from here on
    return {
        "attacks": attacks,
        "variants": {variant.__name__: _tried(folder / variant.__name__) for variant in VARIANTS},
        "readers": {name: _reader(folder / f"reader of {name}") for name in READERS},
        "ordinary": {name: _ordinary(folder / name, allow) for name, (_, allow) in ORDINARY.items()},
        "unpicklers": _guarded(folder / "unpicklers", unpicklers),
        "harmless": _guarded(folder / "harmless", harmless),
    }


def _build(folder: Path) -> None:
    for attack in (*ATTACKS, *VARIANTS):
        attack(Artefact(folder / attack.__name__))
    for name, write in READERS.items():
        write(folder / f"reader of {name}")
    for name, (save, _) in ORDINARY.items():
        save(folder / name)


def _guarded(
    folder: Path, ways: Callable[[Path], Mapping[str, Callable[[], object]]]
) -> dict[str, dict[str, Any]]:
    from resources.serving.predictor.guard import install

    def call(way: Callable[[], object]) -> None:
        install(folder / "artefact", ())
        way()

    folder.mkdir()
    found: dict[str, dict[str, Any]] = {}
    for name, way in ways(folder).items():
        said = _forked(folder / "said", lambda way=way: call(way))
        found[name] = {"said": said, "ran": (folder / "ran").exists()}
    return found


def _policy(artefact: Path, allow: tuple[str, ...]) -> list[str]:
    from pipelines.core.errors import VersionRefused
    from resources.registry.artefact_policy import violations
    from resources.registry.mlmodel import LoggedModel

    try:
        return list(violations(LoggedModel.read(artefact), allow))
    except VersionRefused as refused:
        return [str(refused)]


def _reader(place: Path) -> dict[str, Any]:
    from resources.serving.predictor.process import load_pyfunc

    def ask() -> None:
        model = load_pyfunc(place / "artefact", allow=())
        model.get_raw_model().transform([__file__])

    return {"refusals": _policy(place / "artefact", ()), "said": _forked(place / "said", ask)}


def _ordinary(artefact: Path, allow: tuple[str, ...]) -> dict[str, Any]:
    from resources.registry.digest import digest_of
    from resources.serving.predictor.process import load_pyfunc

    digest = digest_of(artefact)
    return {
        "needs": _policy(artefact, ()) != [] or allow == (),
        "refusals": _policy(artefact, allow),
        "said": _forked(artefact.with_suffix(".said"), lambda: load_pyfunc(artefact, allow=allow)),
        "same": digest_of(artefact) == digest,
    }


def _tried(place: Path) -> dict[str, Any]:
    from resources.serving.predictor.process import load_pyfunc

    artefact, marks = place / "artefact", place / "marks"
    found: dict[str, Any] = {"refusals": _policy(artefact, ())}
    for name, load in (
        ("unguarded", lambda: _mlflow_load(artefact)),
        ("guarded", lambda: load_pyfunc(artefact, allow=())),
    ):
        shutil.rmtree(marks)
        marks.mkdir()
        os.environ["TMPDIR"] = str(marks)
        found["error"] = _forked(place / f"{name}.txt", load)
        found[name] = any(marks.iterdir())
    return found


def _mlflow_load(artefact: Path) -> None:
    sys.dont_write_bytecode = True
    import mlflow.pyfunc

    mlflow.pyfunc.load_model(str(artefact), suppress_warnings=True)


def _forked(report: Path, call: Callable[[], object]) -> str:
    """What it raised, in words."""
    child = os.fork()
    if child == 0:
        try:
            call()
            report.write_text("")
        except BaseException as error:  # noqa: BLE001 -- whatever it is, the parent reads it
            report.write_text(f"{type(error).__name__}: {error}")
        os._exit(0)
    os.waitpid(child, 0)
    return report.read_text()


@contextlib.contextmanager
def _stdout_kept_clean() -> Iterator[int]:
    """What the libraries print goes to stderr."""
    kept = os.dup(1)
    os.dup2(2, 1)
    yield kept
    os.close(kept)


if __name__ == "__main__":
    with _stdout_kept_clean() as out:
        os.write(out, json.dumps(main(Path(sys.argv[1]))).encode())
