"""Parts that stand still, and a machine that was suspended: the whole platform comes back by itself."""

import os
import signal
import time
from collections.abc import Callable, Iterator

import dagster as dg
import pytest

from pipelines.platform.parts import beat_file
from resources.ledger.ledger import Ledger
from resources.serving.embedded.supervisor import wait_until
from tests.platform.test_whole_platform import Whole, command_line, descendants, whole

__all__ = ["whole"]

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

FROZEN_SECONDS = 60.0

BACK_SECONDS = 240.0

PARTS = ("code", "runs", "mlflow", "gateway", "reports", "dagster", "daemon", "evidently")


@pytest.fixture(autouse=True)
def steady(whole: Whole) -> Iterator[None]:
    """The watch has seen every part work, and every part is past its settling."""
    assert back(whole)
    age = min(process.age for process in whole.supervisor.processes().values())
    time.sleep(max(0.0, 30.0 - age))
    yield


def back(whole: Whole) -> bool:
    """Whether `status` finds nothing wrong."""
    return wait_until(
        lambda: command_line(whole.settings, "status").returncode == 0, seconds=BACK_SECONDS, every=2
    )


def pids(whole: Whole) -> dict[str, int]:
    return {name: process.pid for name, process in whole.supervisor.processes().items()}


def freeze(processes: set[int], seconds: float) -> None:
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        for pid in processes:
            wake(pid)


def wake(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # it was ended and started again meanwhile


def works(whole: Whole) -> bool:
    return whole.ends(whole.nap(0)) == dg.DagsterRunStatus.SUCCESS


def test_a_code_server_whose_child_has_gone_is_told_and_comes_back(whole: Whole) -> None:
    parent = pids(whole)["code"]
    for child in descendants(parent) - {parent}:
        os.kill(child, signal.SIGKILL)
    status = command_line(whole.settings, "status")
    assert status.returncode == 1
    assert "the process that holds the code is gone" in status.stdout
    assert back(whole)
    assert works(whole)


@pytest.mark.parametrize(
    "which", [lambda all_pids: {all_pids["code"]}, lambda all_pids: set(all_pids.values())]
)
def test_what_was_frozen_for_a_minute_works_again(
    whole: Whole, which: Callable[[dict[str, int]], set[int]]
) -> None:
    freeze(which(pids(whole)), FROZEN_SECONDS)
    assert back(whole)
    assert works(whole)


def test_a_suspended_machine_comes_back(whole: Whole) -> None:
    freeze(descendants(whole.supervisor.pid()), FROZEN_SECONDS)
    assert back(whole)
    assert works(whole)


def test_every_part_at_once_that_nobody_wakes_is_started_again(whole: Whole) -> None:
    """The watch is not among them: it is what starts them again."""
    before = pids(whole)
    for pid in set[int]().union(*(descendants(before[name]) for name in PARTS)):
        os.kill(pid, signal.SIGSTOP)
    assert wait_until(
        lambda: all(pids(whole)[name] != before[name] for name in PARTS), seconds=BACK_SECONDS, every=2
    ), pids(whole)
    assert back(whole)
    assert works(whole)
    told = {alert.title for alert in Ledger(whole.settings.ledger_url).outbox.waiting()}
    assert {f"{name} was started again" for name in PARTS} <= told


def test_a_frozen_watch_is_told_and_up_mends_it(whole: Whole) -> None:
    os.kill(pids(whole)["watch"], signal.SIGSTOP)
    assert wait_until(
        lambda: "watch.beat was last written" in command_line(whole.settings, "status").stdout,
        seconds=150,
        every=5,
    )
    mended = command_line(whole.settings, "up")
    assert (mended.returncode, "Traceback" in mended.stderr) == (0, False), mended.stderr
    assert "watch has not worked" in mended.stdout
    assert time.time() - beat_file(whole.settings).stat().st_mtime < 60
