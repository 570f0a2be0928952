"""The digest names contents: nothing else changes it, and every change of content does."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.registry.digest import digest_of

NAMES = st.text("abc", min_size=1, max_size=3)

TREES = st.dictionaries(NAMES, st.binary(max_size=8), min_size=1, max_size=4)


def digest(tree: dict[str, bytes]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in reversed(tree.items()):
            (Path(folder) / f"{name}.d").mkdir()
            (Path(folder) / f"{name}.d" / "file").write_bytes(content)
        return digest_of(Path(folder))


@given(TREES, TREES)
def test_equal_digests_mean_equal_trees(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


def test_the_boundary_between_name_and_content_counts(tmp_path: Path) -> None:
    for folder, name, content in (("a", "x", "yz"), ("b", "xy", "z")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    assert digest_of(tmp_path / "a") != digest_of(tmp_path / "b")


def test_times_and_empty_directories_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("x")
    before = digest_of(tmp_path)
    os.utime(tmp_path / "model", (0, 0))
    (tmp_path / "empty").mkdir()
    assert digest_of(tmp_path) == before


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        digest_of(tmp_path / "nowhere")
