"""Who may import whom (docs/architecture.md), read from the code's own imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PURE = (
    "pipelines.rollout",
    "pipelines.statistics",
    "pipelines.manifest",
    "pipelines.peers",
    "pipelines.errors",
)
WIRING = ("pipelines.model_pipeline", "pipelines.definitions")
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


@pytest.mark.parametrize("path", FILES, ids=[_module(path) for path in FILES])
def test_a_module_imports_only_what_its_layer_may(path: Path) -> None:
    module, imports = _module(path), _imports(path)
    ours = {name for name in imports if _under(name, *OURS)}
    if _under(module, *PURE):
        assert not {n for n in ours if not _under(n, *PURE) and n != "pipelines"}, (
            "pure code imports pure code only"
        )
        assert not {n for n in imports if _under(n, "dagster")}, "pure code knows no Dagster"
    if _under(module, "pipelines.statistics"):
        assert not {
            n for n in ours if not _under(n, "pipelines.statistics", "pipelines.errors") and n != "pipelines"
        }
    if _under(module, "resources"):
        assert not {n for n in ours if _under(n, "assets", "sensors", *WIRING)}, (
            "resources know no assets or sensors"
        )
    if _under(module, "assets"):
        assert not {n for n in ours if _under(n, "sensors", *WIRING)}, "assets know no sensors"
    if _under(module, "sensors"):
        assert not {n for n in ours if _under(n, "assets", *WIRING)}, "sensors know no assets"


def test_the_wiring_is_imported_by_nothing() -> None:
    importers = {_module(p) for p in FILES if any(_under(n, *WIRING) for n in _imports(p))}
    assert importers <= set(WIRING)


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
