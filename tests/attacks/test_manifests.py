"""Whoever writes a manifest must not stop those who read it, nor the checks that run by it."""

import os
import time
from pathlib import Path

import pandas as pd
import pytest

from pipelines.core.errors import ManifestError
from pipelines.core.manifest import measurement_rules
from pipelines.core.manifest.document import read_document
from pipelines.core.manifest.measurement_rules import check_findings, patient_check_findings
from pipelines.core.manifest.model import Check
from resources.checks.expectations import matches

DEEP = {
    "brackets": "a: " + "[" * 5_000 + "]" * 5_000,
    "brackets without an end": "a: " + "[" * 100_000,
    "brackets and blanks": "a: " + "[ \n" * 9_000,
    "braces": "a: " + "{a: " * 20_000,
    "indentation": "\n".join(f"{' ' * i}a:" for i in range(600)),
    "dashes": "- " * 5_000,
    "just too deep": "a: " + "[" * 101 + "]" * 101,
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("file", ["rollout.yaml", "inferenceservice.yaml"])
def test_a_file_of_any_depth_is_refused_within_a_second(tmp_path: Path, name: str, file: str) -> None:
    path = tmp_path / file
    path.write_text(DEEP[name])
    before = time.process_time()
    with pytest.raises(ManifestError, match=rf"{file}:\d+: nested more than 100 deep"):
        read_document(path)
    assert time.process_time() - before < 1


def test_a_file_of_a_hundred_levels_is_read(tmp_path: Path) -> None:
    (tmp_path / "rollout.yaml").write_text("a: " + "[" * 99 + "]" * 99)
    read_document(tmp_path / "rollout.yaml")


def doubled(root: str) -> str:
    """A few lines that stand for ten to the twelfth values."""
    lines = [f"{root.format(0)}&a0 [{', '.join('x' * 10)}]"]
    lines += [f"{root.format(i)}&a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    return "\n".join(lines)


FOREIGN = {
    "aliases in a mapping": (doubled("k{}: "), "more than 20000 values, aliases included"),
    "aliases in a list": (doubled("- "), "more than 20000 values, aliases included"),
    "a list": ("- a", r"\['a'\]: expected a mapping of keys to values"),
    "a number that Python does not print": (
        f"a: 0x{'f' * 5_000}",
        "a number of 20000 bits: expected at most 63",
    ),
    "one in YAML 1.1": (f"%YAML 1.1\n---\na: {':'.join(['59'] * 3_000)}", "bits: expected at most 63"),
    "half a character": (r'a: "\ud800"', "expected text without NUL or half characters"),
    "half a character as a key": (r'"\udfff": 1', "expected text without NUL or half characters"),
    "NUL": (r'a: "b\0"', "expected text without NUL or half characters"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_stands_for_more_than_it_is_or_nothing_can_write_is_refused_with_its_place(
    tmp_path: Path, name: str
) -> None:
    text, why = FOREIGN[name]
    (tmp_path / "rollout.yaml").write_text(text)
    before = time.process_time()
    with pytest.raises(ManifestError, match=rf"rollout.yaml:\d+: .*{why}"):
        read_document(tmp_path / "rollout.yaml")
    assert time.process_time() - before < 1


def test_a_manifest_that_is_a_pipe_or_leads_to_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(ManifestError, match=f"{name}:1: cannot be read: no file"):
            read_document(tmp_path / name)


def test_patterns_that_cost_too_much_to_compile_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurement_rules, "_COMPILING_SECONDS", 0.1)
    judge, before = patient_check_findings(), time.process_time()
    checks = [Check(column="features.x", type="matches", regex=rf"\pL{{200}}x{i}") for i in range(1_000)]
    found = [list(judge(check)) for check in checks]
    assert "took more than 0.1 s to compile: expected simpler ones" in found[-1][0][1]
    assert time.process_time() - before < 2
    assert list(patient_check_findings()(checks[-1])) == []


@pytest.mark.parametrize(
    "pattern", [r"(a+)+$", r"^(a|a)*$", r"(.*)*=", r"^(([a-z])+.)+[A-Z]([a-z])+$", r"(a?){100}b"]
)
def test_a_pattern_that_backtracks_for_ever_is_matched_in_time_that_grows_with_the_text(pattern: str) -> None:
    before = time.process_time()
    found = matches(pd.Series(["a" * 9_999 + "!"] * 5 + ["!" * (8 << 20)], index=range(7, 13)), pattern)
    assert time.process_time() - before < 2
    assert not found.any()
    assert list(found.index) == list(range(7, 13))


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?=a)",
        r"(?!a)",
        r"(?<=a)b",
        r"(?<!a)b",
        r"(a)\1",
        r"(?P<n>a)(?P=n)",
        r"(?>a)",
        r"a{1001}",
        r"[",
        r"(a",
    ],
)
def test_a_pattern_that_re2_does_not_know_is_refused_with_place_value_and_what_is_allowed(
    pattern: str,
) -> None:
    check = Check(column="features.x", type="matches", regex=pattern)
    ((place, message),) = check_findings(check)
    assert place == ("regex",)
    assert repr(pattern) in message
    assert "expected a regular expression of RE2, which has no lookaround, backreferences" in message


def test_what_re2_knows_is_found_anywhere_in_the_text() -> None:
    texts = pd.Series(["AA", "xx", "x@y", "it's", "\n@", ""])
    assert list(matches(texts, "@")) == [False, False, True, False, True, False]
    assert list(matches(texts, "^[A-Z0-9]{2}$")) == [True, False, False, False, False, False]
    assert list(matches(texts, "it's")) == [False, False, False, True, False, False]
    assert list(check_findings(Check(column="features.x", type="matches", regex="(?i)^é+"))) == []
