"""Group commit: events of all connections are written together, and acknowledged once they are durable."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from resources.prediction_log.segments import Durability, LogNotWritten, SegmentWriter
from resources.sink.event import Event

_LOG = logging.getLogger(__name__)


class Busy(Exception):
    """More is waiting than may wait; come back later."""


@dataclass
class Held:
    """The bytes that one request holds, counted among those of all."""

    committer: "Committer"
    size: int = 0

    def grow(self, size: int) -> None:
        """From now on it holds `size` bytes, if that is more. Raises Busy where all together would hold too many."""
        more = max(0, size - self.size)
        if self.committer.held + more > self.committer.max_held:
            raise Busy
        self.committer.held += more
        self.size += more


@dataclass
class Counts:
    """What /metrics shows."""

    written: int = 0
    bytes: int = 0
    commits: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    """Reason -> events that were not taken."""


@dataclass
class Committer:
    """Writes events into segments, `<directory>/<model>/<revision>.*`. One per process, on one event loop."""

    directory: Path
    durability: Durability = "power"
    max_pending: int = 10_000
    """Events that may wait; beyond it `commit` raises Busy."""
    max_held: int = 64 * 1024 * 1024
    """Bytes of all events that are being received or wait; beyond it Busy is raised. What is written takes as much again."""
    held: int = 0
    max_writers: int = 64
    """Open segments; the revision that was quiet longest is closed first."""
    counts: Counts = field(default_factory=Counts)

    def __post_init__(self) -> None:
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._writers: OrderedDict[tuple[str, str], SegmentWriter] = OrderedDict()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="sink-disk")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight = 0

    @contextmanager
    def holding(self) -> Generator[Held]:
        """What a request holds while the context lasts."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.size

    @property
    def pending(self) -> int:
        """Events that are not durable yet."""
        return len(self._waiting) + self._in_flight

    def start(self) -> None:
        """Begin to write; call it on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what waits, then seal the segments."""
        while self.pending:
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for writer in self._writers.values():
            writer.close()
        self._disk.shutdown()

    async def commit(self, event: Event) -> None:
        """Returns once the event is durable. Raises Busy, or LogNotWritten if it is not."""
        if self.pending >= self.max_pending:
            raise Busy
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        self._wake.set()
        await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            self._in_flight = len(batch)
            outcomes = await loop.run_in_executor(self._disk, self._write, [event for event, _ in batch])
            self._in_flight = 0
            self._answer(batch, outcomes)

    def _answer(
        self,
        batch: list[tuple[Event, "asyncio.Future[None]"]],
        outcomes: dict[tuple[str, str], LogNotWritten | None],
    ) -> None:
        self.counts.commits += 1
        for event, done in batch:
            error = outcomes[event.model, event.revision]
            self.counts.failed += error is not None
            self.counts.written += error is None
            self.counts.bytes += len(event.line) if error is None else 0
            if done.done():
                continue  # the connection is gone; the event is in the log all the same
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _write(self, events: list[Event]) -> dict[tuple[str, str], LogNotWritten | None]:
        """One write and one sync per revision, on the disk's own thread."""
        lines: dict[tuple[str, str], list[bytes]] = {}
        for event in events:
            lines.setdefault((event.model, event.revision), []).append(event.line)
        outcomes: dict[tuple[str, str], LogNotWritten | None] = {}
        for key, group in lines.items():
            try:
                self._writer(key).append(b"".join(group))
                outcomes[key] = None
            except LogNotWritten as error:
                outcomes[key] = error
            except OSError as error:
                outcomes[key] = LogNotWritten(f"prediction log {self.directory}: {error.strerror or error}")
        return outcomes

    def _writer(self, key: tuple[str, str]) -> SegmentWriter:
        if key not in self._writers:
            if len(self._writers) >= self.max_writers:
                _, oldest = self._writers.popitem(last=False)
                oldest.close()
            self._writers[key] = SegmentWriter(self.directory / key[0], key[1], self.durability)
        self._writers.move_to_end(key)
        return self._writers[key]
