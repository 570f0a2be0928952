"""Segments keep what was acknowledged, whatever happens to the writer."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from resources.prediction_log.segments import LogNotWritten, SegmentWriter, closed_segments, seal_abandoned

REVISION = "flight-delay-00002"

ROOT = Path(__file__).resolve().parents[3]


def lines_of(directory: Path) -> list[bytes]:
    return [
        line for path in closed_segments(directory) for line in path.read_bytes().splitlines(keepends=True)
    ]


def wait_for_segment(directory: Path) -> Path:
    deadline = time.monotonic() + 30
    while not closed_segments(directory):
        assert time.monotonic() < deadline, "no segment was closed"
        time.sleep(0.01)
    return closed_segments(directory)[0]


def run_writer(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_closed_writer_leaves_one_immutable_segment(tmp_path: Path, durability: str) -> None:
    with SegmentWriter(tmp_path, REVISION, durability) as writer:  # type: ignore[arg-type]
        writer.append(b"one\n")
        writer.append(b"two\nthree\n")
        assert closed_segments(tmp_path) == []
    (segment,) = closed_segments(tmp_path)
    assert segment.read_bytes() == b"one\ntwo\nthree\n"
    assert segment.name.startswith(f"{REVISION}.")
    assert list(tmp_path.iterdir()) == [segment]


def test_without_lines_there_is_no_file(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path, REVISION, "process"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_segment_is_closed_by_age_while_nobody_writes(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path, REVISION, "process", max_age=timedelta(milliseconds=50)) as writer:
        writer.append(b"one\n")
        assert wait_for_segment(tmp_path).read_bytes() == b"one\n"
        writer.append(b"two\n")
    assert lines_of(tmp_path) == [b"one\n", b"two\n"]


def test_a_segment_is_closed_by_size(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path, REVISION, "process", max_age=timedelta(hours=1), max_bytes=100) as writer:
        writer.append(b"x" * 120 + b"\n")
        assert wait_for_segment(tmp_path).stat().st_size == 121


@pytest.mark.parametrize("durability", ["process", "power"])
def test_concurrent_writers_neither_mix_nor_lose_lines(tmp_path: Path, durability: str) -> None:
    def write(thread: int) -> list[bytes]:
        """At least sixty lines, and until a segment was closed under the writers."""
        mine: list[bytes] = []
        while len(mine) < 60 or not closed_segments(tmp_path):
            mine.append(f"{thread}-{len(mine)}-{'x' * (len(mine) * 37 % 5000)}\n".encode())
            writer.append(mine[-1])
        return mine

    with (
        SegmentWriter(
            tmp_path,
            REVISION,
            durability,
            max_age=timedelta(milliseconds=20),
            max_bytes=100_000,  # type: ignore[arg-type]
        ) as writer,
        ThreadPoolExecutor(8) as pool,
    ):
        written = [line for lines in pool.map(write, range(8)) for line in lines]
    assert sorted(lines_of(tmp_path)) == sorted(written)


def test_waiting_writers_share_one_fdatasync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.fdatasync, list[int]()

    def slow(descriptor: int) -> None:
        calls.append(descriptor)
        time.sleep(0.05)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    together = threading.Barrier(16)

    def write(i: int) -> None:
        together.wait()
        writer.append(f"{i}\n".encode())

    with SegmentWriter(tmp_path, REVISION, "power") as writer, ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
        assert len(calls) <= 8


WRITE_UNTIL_KILLED = """
import sys
from pathlib import Path
from resources.prediction_log.segments import SegmentWriter
from datetime import timedelta
writer = SegmentWriter(Path(sys.argv[1]), "m-1", sys.argv[2], max_age=timedelta(milliseconds=30))
i = 0
while True:
    writer.append(b"%d\\n" % i)
    print(i, flush=True)
    i += 1
"""


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path, durability: str) -> None:
    with run_writer(WRITE_UNTIL_KILLED, str(tmp_path), durability) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            writer.stdout.readline()
        assert seal_abandoned(tmp_path) == [], "sealed under a live writer"
        writer.send_signal(signal.SIGKILL)
        last = 199 + writer.stdout.read().count("\n")
    seal_abandoned(tmp_path)
    assert list(tmp_path.glob("*.open")) == []
    kept = [int(line) for line in lines_of(tmp_path)]
    assert kept[: last + 1] == list(range(last + 1))


def test_an_abandoned_segment_keeps_its_torn_line(tmp_path: Path) -> None:
    (tmp_path / "m-1.w.00000001.open").write_bytes(b'{"id":1}\n{"id":')
    (tmp_path / "m-1.w.00000002.open").touch()
    (sealed,) = seal_abandoned(tmp_path)
    assert sealed == tmp_path / "m-1.w.00000001.jsonl"
    assert sealed.read_bytes() == b'{"id":1}\n{"id":'
    assert list(tmp_path.iterdir()) == [sealed], "an empty segment is removed"
    assert seal_abandoned(tmp_path) == []


def test_sealers_at_the_same_time_seal_once(tmp_path: Path) -> None:
    for i in range(50):
        (tmp_path / f"m-1.w.{i:08d}.open").write_bytes(b"line\n")
    with ThreadPoolExecutor(4) as pool:
        sealed = [path for paths in pool.map(seal_abandoned, [tmp_path] * 4) for path in paths]
    assert sorted(sealed) == closed_segments(tmp_path)
    assert len(sealed) == 50


FILL_THE_DISK = """
import resource, sys
from pathlib import Path
from resources.prediction_log.segments import LogNotWritten, SegmentWriter
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with SegmentWriter(Path(sys.argv[1]), "m-1", "process") as writer:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    for i in range(10):
        try:
            writer.append(b"%d" % i + b"x" * 1_500 + b"\\n")
        except LogNotWritten as error:
            print("refused", i, error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append(b"after\\n")
"""


def test_a_full_disk_is_an_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    """A file size limit makes the kernel take a part of the write and refuse the rest, as a full disk does."""
    with run_writer(FILL_THE_DISK, str(tmp_path)) as writer:
        output, _ = writer.communicate(timeout=30)
    assert writer.returncode == 0
    refused = output.splitlines()
    assert [line.split()[1] for line in refused] == ["6", "7", "8", "9"]
    assert str(tmp_path) in refused[0]
    lines = lines_of(tmp_path)
    assert [line[:1] for line in lines] == [b"0", b"1", b"2", b"3", b"4", b"5", b"a"]
    assert {len(line) for line in lines} == {1502, len(b"after\n")}


def test_a_failed_fdatasync_is_never_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure the kernel may call the lost page clean, and the next fdatasync of the file succeeds."""

    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with SegmentWriter(tmp_path, REVISION, "power") as writer:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", broken)
            with pytest.raises(LogNotWritten, match="Input/output error"):
                writer.append(b"lost\n")
        writer.append(b"kept\n")
    assert [path.read_bytes() for path in closed_segments(tmp_path)] == [b"lost\n", b"kept\n"]


def test_a_closed_writer_refuses_lines(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, REVISION, "process")
    writer.close()
    writer.close()
    with pytest.raises(LogNotWritten, match="closed"):
        writer.append(b"late\n")


def test_an_incomplete_line_is_refused(tmp_path: Path) -> None:
    with SegmentWriter(tmp_path, REVISION, "process") as writer, pytest.raises(ValueError, match="newline"):
        writer.append(b"no end")


@pytest.mark.parametrize("revision", ["", "a/b", "../x", "a.b", ".hidden"])
def test_a_revision_that_is_no_file_name_is_refused(tmp_path: Path, revision: str) -> None:
    with pytest.raises(ValueError, match="revision =="):
        SegmentWriter(tmp_path, revision, "process")


def test_an_unknown_durability_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        SegmentWriter(tmp_path, REVISION, "sometimes")  # type: ignore[arg-type]
