"""`MLmodel` is written by whoever registers a version: whatever it holds, there is a verdict, soon and in little memory."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.core.errors import VersionRefused
from resources.registry.mlmodel import LARGEST, LoggedModel

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


def _text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(50 << 30)


ATTACKS: dict[str, tuple[Callable[[Path], object], str]] = {
    "brackets": (_text("a: " + "[" * 20_000), "nested more than 20 deep"),
    "brackets and blanks": (_text("a: " + "[ \n" * 9_000), "nested more than 20 deep"),
    "braces": (_text("a: " + "{a: " * 20_000), "nested more than 20 deep"),
    "indentation": (_text("\n".join(f"{' ' * i}-" for i in range(600))), "nested more than 20 deep"),
    "dashes": (_text("- " * 20_000), "nested more than 20 deep"),
    "aliases that multiply": (_text(BOMB), "uses a YAML alias"),
    "an alias to itself": (_text("a: &a [*a]"), "uses a YAML alias"),
    "many values": (_text("a: [" + "b," * 100_000 + "]"), "more than 3000 values"),
    "many lines": (_text("\n" * 100_000 + "a: b"), "100000 lines"),
    "a large file": (_text("#" * (LARGEST + 1)), f"must be at most {LARGEST}"),
    "a file larger than memory": (_sparse, "must be at most"),
    "a folder": (Path.mkdir, "no file MLmodel"),
    "nothing": (lambda path: None, "no file MLmodel"),
    "an empty file": (_text(""), "MLmodel is a NoneType, must be a mapping"),
    "a list": (_text("[a]"), "MLmodel is a list, must be a mapping"),
    "text": (_text("flavors"), "MLmodel is a str, must be a mapping"),
    "two documents": (_text("a: b\n---\na: b"), "cannot be read"),
    "a number for a key": (_text("1: a"), "must be a mapping with text for keys"),
    "a mapping for a key": (_text("{a: b}: c"), "cannot be read"),
    "no UTF-8": (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is not UTF-8"),
    "control characters": (lambda path: path.write_bytes(b"a: \x00\x01"), "cannot be read"),
    "a Python object": (_text("a: !!python/object/apply:os.getcwd []"), "cannot be read"),
    "a time that is none": (_text("a: !!timestamp x"), "cannot be read"),
    "a day that is none": (_text("a: 2024-99-99"), "cannot be read"),
    "a number that is none": (_text('a: !!int ""'), "cannot be read"),
    "a truth that is none": (_text("a: !!bool maybe"), "cannot be read"),
    "a long number": (_text("a: " + "9" * 100_000), "cannot be read"),
    "two readings of a number": (
        _text("flavors: {a: {code: 0o0}}"),
        "MLmodel.flavors.a.code means one thing",
    ),
    "two readings of a truth": (_text("flavors: {a: {code: off}}"), "MLmodel.flavors.a.code means one thing"),
    "two readings of a key": (_text("flavors: {a: {on: b}}"), "MLmodel.flavors.a means one thing"),
    "a key given twice": (_text("flavors: {a: {b: 1, b: 2}}"), "cannot be read"),
    "flavors in a list": (_text("flavors: [a]"), "flavors is a list, must be a mapping"),
    "a flavor that is text": (_text("flavors: {sklearn: a}"), "flavors.sklearn is a str, must be a mapping"),
    "a signature in a list": (_text("signature: [a]"), "signature is a list, must be a mapping"),
    "a signature of mappings": (_text("signature: {inputs: {a: b}}"), "signature.inputs is a dict"),
    "an example in a list": (_text("saved_input_example_info: [a]"), "saved_input_example_info is a list"),
    "an example that is a number": (
        _text("saved_input_example_info: {serving_input_path: 5}"),
        "saved_input_example_info.serving_input_path is a int",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_mlmodel_is_refused_within_a_second_of_work_and_little_memory(tmp_path: Path, name: str):
    write, message = ATTACKS[name]
    write(tmp_path / "MLmodel")
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(VersionRefused, match=message.replace("[", r"\[")):
        LoggedModel.read(tmp_path)
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024, "KiB"


def test_a_signature_of_two_thousand_columns_is_read(tmp_path: Path):
    columns = ", ".join(
        f'{{"type": "double", "name": "feature_{i}", "required": true}}' for i in range(2_000)
    )
    (tmp_path / "MLmodel").write_text(f"flavors: {{}}\nsignature: {{inputs: '[{columns}]', outputs: '[]'}}\n")
    assert len(LoggedModel.read(tmp_path).about["signature"]["inputs"]) > 100_000
