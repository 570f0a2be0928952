"""What keeps the house in order beside the import contracts in pyproject.toml (docs/architecture.md)."""

import ast
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import FIRST, TOGETHER

ROOT = Path(__file__).resolve().parent.parent

OURS = ("pipelines", "assets", "resources", "sensors")


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path) -> set[str]:
    """Every module that the file imports, wherever in the file."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _under(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


FILES = sorted(path for package in OURS for path in (ROOT / package).rglob("*.py"))


def test_no_two_classes_have_one_name() -> None:
    names = Counter(
        node.name
        for path in FILES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, times in names.items() if times > 1] == []


def test_a_file_is_no_drawer() -> None:
    """Who looks for a behaviour by its file's name reads at most some 450 lines."""
    assert {_module(path): n for path in FILES if (n := path.read_text().count("\n")) > 460} == {}


def test_no_model_is_named_in_code() -> None:
    """A model is a folder: its name appears in `serving_manifests/` and in no Python file."""
    names = [
        folder.name for folder in (ROOT / "serving_manifests").iterdir() if (folder / "rollout.yaml").exists()
    ]
    spellings = [s for name in names for s in (name, name.replace("-", "_"))]
    guilty = {_module(p): s for p in FILES for s in spellings if s in p.read_text()}
    assert not guilty


def test_dagster_modules_keep_annotations_as_objects() -> None:
    """Dagster reads context annotations; a postponed annotation makes it fail."""
    guilty = [
        _module(p)
        for p in FILES
        if any(_under(n, "dagster") for n in _imports(p))
        and "from __future__ import annotations" in p.read_text()
    ]
    assert not guilty


FILES_ALONE = "resources.files"
"""Owns every rename and every lock between processes."""

BY_HAND = "pipelines.core.manifest.json_schema"
"""A developer runs it, in his own tree."""


def _owned_by_files(node: ast.AST) -> str | None:
    """What `resources/files.py` alone does: a lock, a rename, a temporary file, a link, a write that others may read half of."""
    match node:
        case ast.Import(names=names) if any(name.name == "fcntl" for name in names):
            return "fcntl"
        case ast.ImportFrom(module="fcntl"):
            return "fcntl"
        case ast.Attribute(attr="rename" | "renames", value=ast.Name(id="os")):
            return "os.rename"
        case ast.Attribute(attr="replace", value=ast.Name(id="os")):
            return "os.replace"
        case ast.Attribute(attr="move", value=ast.Name(id="shutil")):
            return "shutil.move"
        case ast.Attribute(attr="mkstemp" | "NamedTemporaryFile"):
            return "a temporary file"
        case ast.Attribute(attr="hardlink_to" | "link_to"):
            return "a link"
        case ast.Attribute(attr="write_text" | "write_bytes"):
            return "a file that can be read half written"
        # A text's `replace` has two arguments, a data frame's and a time's have names.
        case ast.Call(func=ast.Attribute(attr="rename" | "replace"), args=[_], keywords=[]):
            return "Path.replace"
        case _:
            return None


def test_files_are_written_renamed_and_locked_in_one_module_alone() -> None:
    guilty = {
        (_module(path), what)
        for path in FILES
        if _module(path) not in (FILES_ALONE, BY_HAND)
        for node in ast.walk(ast.parse(path.read_text()))
        if (what := _owned_by_files(node)) is not None
    }
    assert guilty == set()


ASK_AN_ADDRESS = {
    "resources.links": "every address that a person or an alert is given",
    "resources.settings": "where MLflow is, unless the environment says otherwise",
    "resources.serving.embedded.gateway": "a probe's own request",
    "pipelines.platform.parts": "where a predictor is asked whether it lives",
}


def test_addresses_of_this_machine_are_written_in_one_module_for_those_who_read_them() -> None:
    assert {_module(path) for path in FILES if "http://{HOST}" in path.read_text()} <= {*ASK_AN_ADDRESS}
    assert "http://{HOST}" in (ROOT / "resources/links.py").read_text()


OWNERS_OF_TABLES = ("resources.lake", "resources.ledger")

ASK_IN_SQL = {
    "pipelines.demo.measurements": "the demo's own figures, of the whole log of answers",
    "pipelines.core.manifest.measurement_rules": "whether DuckDB can read a pattern; no table",
    "resources.checks.expectations": "DuckDB's patterns over a column in memory; no table",
    "resources.prediction_log.objects": "DuckDB reads objects of a store; no table",
}

TABLES = ("resources.lake.connection.table", "resources.ledger.database", "resources.ledger.database")


def _asks_in_sql(path: Path) -> bool:
    tree = ast.parse(path.read_text())
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(isinstance(each, ast.Attribute) and each.attr in ("execute", "sql") for each in calls)


def test_tables_are_asked_by_their_owners_alone() -> None:
    others = [path for path in FILES if not _under(_module(path), *OWNERS_OF_TABLES)]
    assert {_module(path) for path in others if _asks_in_sql(path)} == {*ASK_IN_SQL}
    named = {_module(path) for path in others if any(_under(name, *TABLES) for name in _imports(path))}
    assert named == {"pipelines.demo.measurements"}


def test_no_committed_file_is_larger_than_a_megabyte() -> None:
    """Wheels, data and databases are built or fetched, never committed."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {str(p.relative_to(ROOT)): p.stat().st_size for p in paths if p.is_file()}
    assert sizes
    assert {name: size for name, size in sizes.items() if size > 1_000_000} == {}


def test_the_files_that_are_begun_first_or_run_together_are_there() -> None:
    named = [*FIRST, *(name for shared in TOGETHER for name in shared)]
    assert [name for name in named if not (ROOT / name).exists()] == []
