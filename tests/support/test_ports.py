"""Two processes of the tests that start servers at the same time."""

import subprocess
import sys
from pathlib import Path

from tests.support.ports import free_base

ROOT = Path(__file__).resolve().parents[2]

_TEN = "from tests.support.ports import free_base; print(*(free_base(3) for _ in range(10))); input()"


def test_no_two_processes_are_given_the_same_ports() -> None:
    ours = {free_base(3) for _ in range(10)}
    with subprocess.Popen(
        [sys.executable, "-c", _TEN], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        theirs = {int(base) for base in other.communicate("\n")[0].split()}
    assert (len(ours), len(theirs)) == (10, 10), "none comes round while it may still be starting"
    assert ours.isdisjoint(theirs)
