"""More than may wait is refused, and a disk that refuses is never acknowledged."""

import asyncio
from pathlib import Path

import pytest

from resources.prediction_log.segments import LogNotWritten, closed_segments
from resources.prediction_log.sink.committer import Busy, Committer, Event


def event(number: int, revision: str = "m-1") -> Event:
    return Event("m", revision, b'{"id": %d}\n' % number)


def test_more_than_may_wait_is_refused_and_the_rest_is_written(tmp_path: Path):
    async def run() -> list[BaseException | None]:
        committer = Committer(tmp_path, max_pending=10)
        outcomes = asyncio.gather(*(committer.commit(event(n)) for n in range(25)), return_exceptions=True)
        await asyncio.sleep(0)
        committer.start()
        done = await outcomes
        await committer.stop()
        return done

    outcomes = asyncio.run(run())
    assert sum(isinstance(each, Busy) for each in outcomes) == 15
    lines = [line for path in closed_segments(tmp_path / "m") for line in path.read_text().splitlines()]
    assert len(lines) == 10


def test_events_that_wait_together_are_committed_together(tmp_path: Path):
    async def run() -> int:
        committer = Committer(tmp_path)
        waiting = asyncio.gather(*(committer.commit(event(n)) for n in range(100)))
        await asyncio.sleep(0)
        committer.start()
        await waiting
        await committer.stop()
        return committer.counts.commits

    assert asyncio.run(run()) == 1


def test_quiet_revisions_make_room(tmp_path: Path):
    async def run() -> None:
        committer = Committer(tmp_path, max_writers=2)
        committer.start()
        for number in range(5):
            await committer.commit(event(number, f"m-{number}"))
        assert len(list((tmp_path / "m").glob("*.open"))) == 2
        await committer.stop()

    asyncio.run(run())
    assert len(closed_segments(tmp_path / "m")) == 5


def test_a_disk_that_refuses_is_not_acknowledged(tmp_path: Path):
    (tmp_path / "m").write_text("a file where the folder should be")

    async def run() -> None:
        committer = Committer(tmp_path)
        committer.start()
        with pytest.raises(LogNotWritten):
            await committer.commit(event(1))
        assert (committer.counts.failed, committer.counts.written) == (1, 0)
        await committer.stop()

    asyncio.run(run())
