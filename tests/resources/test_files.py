"""Files are written whole, and a lock between processes ends with whoever has it."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from resources.files import lock, write_once, write_whole
from tests.support.full_disk import full_disk

NOW = timedelta(0)


def test_what_cannot_be_written_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    with full_disk(tmp_path / "disk") as disk:
        path = disk.place / "page.html"
        write_whole(path, "old")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            write_whole(path, "new" * 100_000)
        assert path.read_text() == "old"
        assert [*disk.place.glob(".page*")] == []


def test_threads_that_write_one_file_leave_one_content_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    contents = [f"{letter}" * 200_000 for letter in "abcd"]
    with ThreadPoolExecutor(len(contents)) as pool:
        for _ in range(10):
            list(pool.map(lambda content: write_whole(path, content), contents))
            assert path.read_text() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_of_several_who_write_once_the_first_ones_content_stays(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with ThreadPoolExecutor(4) as pool:
        found = set(
            pool.map(lambda n: (write_once(path, f"{n}", mode=0o600), path.read_text())[1], range(20))
        )
    assert found == {path.read_text()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(_kind(fd)), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda *names: (done.append("rename"), replace(*names)))
    write_whole(tmp_path / "page.html", "whole", durable=True)
    assert done == ["file", "rename", "folder"]


def _kind(descriptor: int) -> str:
    return "folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file"


HOLDER = """
import sys, time
from datetime import timedelta
from pathlib import Path
from resources.files import lock
with lock(Path(sys.argv[1]), wait=None) as held:
    print(held, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_the_process_that_has_it_whatever_kills_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout as told:
        assert told.readline() == "True\n"
    with lock(path, wait=timedelta(seconds=0.05)) as held:
        assert not held
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with lock(path, wait=NOW) as held:
        assert held


def test_a_lock_is_had_again_after_an_error_under_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with pytest.raises(ValueError, match="under it"), lock(path, wait=NOW):
        raise ValueError("under it")
    with lock(path, wait=NOW) as held:
        assert held
