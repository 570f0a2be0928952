"""One segment file while it is being written: its descriptor, its lock, its durability."""

import os
import threading
import time
from pathlib import Path
from typing import Self

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
