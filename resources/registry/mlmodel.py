"""The file `MLmodel`, read as MLflow reads it, within bounds, and refused where two readers of YAML disagree."""

from pathlib import Path
from typing import Any, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError as OtherYAMLError
from yaml import AliasEvent, SafeLoader, YAMLError
from yaml.nodes import Node

from pipelines.errors import RegistryError, VersionRefused

LARGEST = 256 * 1024
"""Bytes: a signature of some 3,500 columns. MLflow's reader takes seconds for a megabyte."""
_LINES, _DEPTH, _NODES = 10_000, 20, 3_000
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What both readers raise, beside their own errors, on a tag or a number that they cannot make sense of."""


def read_mlmodel(path: Path) -> dict[str, Any]:
    """The file as a mapping with text for keys, its flavors mappings as well.

    Raises `VersionRefused` where the file is missing, too large, too deep, malformed, or means something else to
    YAML 1.2 than to MLflow's YAML 1.1; `RegistryError` where this machine cannot read it.
    """
    text = _text(path)
    about, second = _as_mlflow_does(text), _as_yaml_1_2(text)
    place = _difference(about, second, "MLmodel")
    if place:
        raise VersionRefused(
            f"{place} means one thing to MLflow's YAML 1.1 and another to YAML 1.2, or is there twice"
        )
    return _shaped(about)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise VersionRefused("the version has no file MLmodel: log it with MLflow's log_model")
        size = path.stat().st_size
        if size > LARGEST:
            raise VersionRefused(f"MLmodel has {size} bytes, must be at most {LARGEST}")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise VersionRefused(f"MLmodel is not UTF-8: {error}") from error
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error}") from error
    if text.count("\n") > _LINES:
        raise VersionRefused(f"MLmodel has {text.count(chr(10))} lines, must have at most {_LINES}")
    return text


class _Bounded(SafeLoader):
    """The loader of `yaml.safe_load`, which is what MLflow calls, stopped before it recurses or multiplies."""

    depth = nodes = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        """One node and what is in it."""
        if self.check_event(AliasEvent):
            raise VersionRefused(
                "MLmodel uses a YAML alias, which is not followed: give each list or mapping of its own"
            )
        self.nodes, self.depth = self.nodes + 1, self.depth + 1
        if self.depth > _DEPTH:
            raise VersionRefused(f"MLmodel is nested more than {_DEPTH} deep")
        if self.nodes > _NODES:
            raise VersionRefused(f"MLmodel has more than {_NODES} values")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _as_mlflow_does(text: str) -> Any:
    try:
        loader = _Bounded(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (YAMLError, *_UNREADABLE) as error:
        raise _malformed(error) from error


def _as_yaml_1_2(text: str) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(text)
    except (OtherYAMLError, *_UNREADABLE) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> VersionRefused:
    return VersionRefused(
        f"MLmodel cannot be read: {type(error).__name__}: {' '.join(str(error).split()):.300}"
    )


def _difference(one: Any, other: Any, place: str) -> str:
    """Where the two differ in type or value; empty where they do not."""
    if type(one) is not type(other):
        return place
    if isinstance(one, dict):
        mine, theirs = cast(dict[Any, Any], one), cast(dict[Any, Any], other)
        if list(map(_typed, mine)) != list(map(_typed, theirs)):
            return place
        return next(filter(None, (_difference(mine[key], theirs[key], f"{place}.{key}") for key in mine)), "")
    if isinstance(one, list):
        mine, theirs = cast(list[Any], one), cast(list[Any], other)
        if len(mine) != len(theirs):
            return place
        pairs = enumerate(zip(mine, theirs, strict=True))
        return next(filter(None, (_difference(*pair, f"{place}[{i}]") for i, pair in pairs)), "")
    return "" if one == other or one != one else place


def _typed(key: Any) -> tuple[type, Any]:
    return type(key), key


def _shaped(about: Any) -> dict[str, Any]:
    """The parts that everybody reads have the shape that everybody expects."""
    found = _mapping("MLmodel", about)
    for name, flavor in _mapping("flavors", found.get("flavors")).items():
        _mapping(f"flavors.{name}", flavor)
    for name in ("signature", "saved_input_example_info"):
        for key, value in _mapping(name, found.get(name)).items():
            if not isinstance(value, str | None):
                raise VersionRefused(f"MLmodel: {name}.{key} is a {type(value).__name__}, must be text")
    return found


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value is None and name != "MLmodel":
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in cast(dict[Any, Any], value)):
        where = name if name == "MLmodel" else f"MLmodel: {name}"
        raise VersionRefused(f"{where} is a {type(value).__name__}, must be a mapping with text for keys")
    return cast(dict[str, Any], value)
