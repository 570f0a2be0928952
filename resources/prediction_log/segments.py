"""One segment file while it is being written: its descriptor, its lock, its durability."""

import logging
import os
import re
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args
from uuid import uuid4

from pipelines.core.errors import RampgateError
from resources.files import move, sync_folder, take_lock


class OpenSegment:
    """A locked `.open` file. `write` is called under the writer's lock, `sync` and `seal` are not."""

    def __init__(self, path: Path, descriptor: int, *, power: bool) -> None:
        self.path = path
        self.size = 0
        """Bytes of complete lines in the file."""
        self.opened_at = time.monotonic()
        self.damaged = False
        """No further line may follow: the end of the file is not known to be a line's end, or not durable."""
        self._descriptor = descriptor
        self._power = power
        self._sync_lock = threading.Lock()
        self._synced = 0

    @classmethod
    def create(cls, path: Path, *, power: bool) -> Self | None:
        """Create and lock the file; None when a sealer was quicker and the name is spent."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
        try:
            if not take_lock(descriptor) or os.fstat(descriptor).st_nlink == 0:
                os.close(descriptor)
                return None
            if power:
                sync_folder(path.parent)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        return cls(path, descriptor, power=power)

    def write(self, lines: bytes) -> int:
        """Append the lines; returns the size they end at, the ticket for `sync`.

        On failure the file is cut back to its last complete line, so that the next line starts on its own.
        """
        try:
            written = os.write(self._descriptor, lines)
            while written < len(lines):  # a disk that fills up takes a part first
                written += os.write(self._descriptor, lines[written:])
        except OSError:
            self._cut_back()
            raise
        self.size += len(lines)
        return self.size

    def sync(self, ticket: int) -> None:
        """Wait until everything up to `ticket` is on the disk.

        Group commit: whoever holds the lock syncs what all waiters have written; they then find it done.
        """
        with self._sync_lock:
            if self._synced >= ticket:
                return
            if self.damaged:
                raise OSError("an earlier sync of this segment failed")
            self._sync_all()

    def seal(self) -> None:
        """Make the file immutable under its final name and let go of the lock."""
        with self._sync_lock:
            try:
                if self._power and self._synced < self.size and not self.damaged:
                    self._sync_all()
                move(self.path, self.path.with_suffix(".jsonl"), durable=self._power)
            finally:
                os.close(self._descriptor)

    def _sync_all(self) -> None:
        end = self.size
        try:
            os.fdatasync(self._descriptor)
        except OSError:
            # The kernel reports a lost page once: a second fdatasync would lie. Nothing more goes in here.
            self.damaged = True
            raise
        self._synced = end

    def _cut_back(self) -> None:
        try:
            os.ftruncate(self._descriptor, self.size)
        except OSError:
            self.damaged = True


# Append-only segments: `<revision>.<writer>.<seq>.open` while written, `.jsonl` once closed and immutable.
#
# The writer holds the lock on its open segment, so a lock that can be taken means a dead writer.
# The kernel drops the lock with the process, whatever killed it.


Durability = Literal["process", "power"]
"""What an acknowledged line survives: the death of the process (page cache), or a power loss (fdatasync)."""

_log = logging.getLogger(__name__)

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class LogNotWritten(RampgateError):
    """A line could not be made durable; whoever asked must not acknowledge what it records."""


class SegmentWriter:
    """Writes complete lines into segments of one revision. Thread-safe; one instance per process.

    A segment is created by its first line and closed `max_age` after that, idle or not, or once it has
    `max_bytes`. Closing is done by a background thread, never by the caller of `append`, so the size is a
    threshold and not a hard limit.
    """

    def __init__(
        self,
        directory: Path,
        revision: str,
        durability: Durability,
        *,
        max_age: timedelta = timedelta(seconds=2),
        max_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        if _REVISION.fullmatch(revision) is None:
            raise ValueError(f"revision == {revision!r}, must be letters, digits, '-' and '_'")
        if durability not in get_args(Durability):
            raise ValueError(f"durability == {durability!r}, must be one of {get_args(Durability)}")
        self._directory = directory
        self._prefix = f"{revision}.{_writer_name()}"
        self._power = durability == "power"
        self._max_age = max_age.total_seconds()
        self._max_bytes = max_bytes
        self._seq = 0
        self._segment: OpenSegment | None = None
        self._closed = False
        self._changed = threading.Condition()
        directory.mkdir(parents=True, exist_ok=True)
        self._roller = threading.Thread(target=self._roll, name="segment-roller", daemon=True)
        self._roller.start()

    @property
    def waits_for_disk(self) -> bool:
        """Whether `append` blocks for milliseconds: then it has no place on an event loop."""
        return self._power

    def append(self, lines: bytes) -> None:
        """Write `lines` (one or more complete lines, each ended by a newline) with a single write().

        Returns once they have the writer's durability. With `power` it waits for a disk: not for an event loop.
        Raises `LogNotWritten` when they are not durable (disk full, I/O error, writer closed); of a
        failed write nothing stays in the segment.
        """
        if not lines.endswith(b"\n"):
            raise ValueError(f"lines end with {lines[-20:]!r}, must end with a newline")
        try:
            with self._changed:
                segment = self._current()
                ticket = segment.write(lines)
                if ticket >= self._max_bytes:
                    self._changed.notify_all()
            if self._power:
                segment.sync(ticket)
        except OSError as error:
            raise LogNotWritten(f"prediction log {self._directory}: {error.strerror or error}") from error

    def close(self) -> None:
        """Seal the open segment and refuse further lines. Safe to repeat."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._roller.join()
        self._seal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _current(self) -> OpenSegment:
        """The segment to write to; a damaged one is put aside. Called with the lock held."""
        if self._closed:
            raise LogNotWritten(f"prediction log {self._directory}: the writer is closed")
        if self._segment is not None and not self._segment.damaged:
            return self._segment
        damaged, self._segment = self._segment, None
        if damaged is not None:
            _put_aside(damaged)
        while self._segment is None:
            self._seq += 1
            path = self._directory / f"{self._prefix}.{self._seq:08d}.open"
            self._segment = OpenSegment.create(path, power=self._power)
        self._changed.notify_all()
        return self._segment

    def _roll(self) -> None:
        """Seal segments that are due until the writer is closed."""
        while True:
            with self._changed:
                while not self._closed and (wait := self._seconds_until_due()) != 0:
                    self._changed.wait(wait)
                if self._closed:
                    return
            self._seal()

    def _seconds_until_due(self) -> float | None:
        """0 when the open segment must be closed, None when there is none."""
        segment = self._segment
        if segment is None:
            return None
        if segment.size >= self._max_bytes:
            return 0
        return max(0.0, segment.opened_at + self._max_age - time.monotonic())

    def _seal(self) -> None:
        with self._changed:
            segment, self._segment = self._segment, None
        if segment is not None:
            _put_aside(segment)


def _put_aside(segment: OpenSegment) -> None:
    """Seal; where that fails the lines are safe in the open file, and a sealer finds its lock free."""
    try:
        segment.seal()
    except OSError as error:
        _log.warning("%s could not be sealed and waits for a sealer: %s", segment.path, error)


def closed_segments(directory: Path) -> list[Path]:
    """The immutable segments, each writer's in the order they were written."""
    return sorted(directory.glob("*.jsonl"))


def seal_abandoned(directory: Path) -> list[Path]:
    """Close the segments whose writer is dead; returns the closed paths, oldest name first.

    Safe beside live writers and other sealers. A torn last line stays where it is, for whoever reads the
    segment to quarantine; a segment without a single byte is removed.
    """
    sealed = (_seal_if_abandoned(path) for path in sorted(directory.glob("*.open")))
    return [path for path in sealed if path is not None]


def _seal_if_abandoned(path: Path) -> Path | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        if not take_lock(descriptor):
            return None  # its writer lives
        if os.fstat(descriptor).st_size == 0:
            path.unlink()
            return None
        os.fsync(descriptor)
        return move(path, path.with_suffix(".jsonl"), durable=True)
    except FileNotFoundError:
        return None  # somebody else sealed it first
    finally:
        os.close(descriptor)


def _writer_name() -> str:
    """Unique over processes and restarts, and growing with time so that names sort."""
    return f"{time.time_ns() // 1_000_000:012x}{uuid4().hex[:6]}"
