"""A program that is killed leaves children; the next start under its name ends them, and nobody else's."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.serving.embedded.supervisor import wait_until

PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def start(name: str) -> tuple[subprocess.Popen[str], int]:
    """The program and its child."""
    command = [sys.executable, "-m", "pipelines.platform.alone", name, sys.executable, "-c", PARENT]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    assert program.stdout is not None
    return program, int(program.stdout.readline())


def end(program: subprocess.Popen[str]) -> None:
    """Without waiting for its child, which holds the other end of the pipe."""
    program.kill()
    program.wait()
    assert program.stdout is not None
    program.stdout.close()


@pytest.fixture
def started() -> Iterator[list[int]]:
    pids: list[int] = []
    yield pids
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Neither gone nor a zombie that waits for whoever adopted it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_next_start_ends_the_orphans_of_the_last_one_and_no_others(
    tmp_path: Path, started: list[int]
) -> None:
    first, orphan = start(f"one {tmp_path}")
    other, others_child = start(f"another {tmp_path}")
    started += [orphan, other.pid, others_child]
    end(first)
    assert alive(orphan)
    second, child = start(f"one {tmp_path}")
    started += [second.pid, child]
    assert wait_until(lambda: not alive(orphan), seconds=30)
    assert all(map(alive, (second.pid, child, other.pid, others_child)))
    end(second)
    end(other)
