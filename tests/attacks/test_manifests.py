"""Whoever writes a manifest must not stop those who read it, nor the checks that run by it."""

import time
from pathlib import Path

import pandas as pd
import pytest

from pipelines.core.errors import ManifestError
from pipelines.core.manifest.document import read_document
from pipelines.core.manifest.measurement_rules import check_findings
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
