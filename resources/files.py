"""The one way to write a file whole, and the one lock between the processes of a machine.

Whatever dies on the way, a reader finds the old content or the new, and a lock ends with the process that has it.
All of it raises OSError.
"""

import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

_ANYBODY = 0o666
"""As the umask has it."""


def write_whole(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Write so that a reader sees the old file or the new one, never half of one; what fails leaves the old one.

    With `durable` the new one survives a power loss, too.
    """
    with draft_of(path) as draft:
        write(draft, content, durable=durable)
        move(draft, path, durable=durable)


def write_once(path: Path, content: str | bytes, *, mode: int) -> None:
    """Write the file unless it is there: of several processes at once, the first one's content stays."""
    with draft_of(path) as draft:
        write(draft, content, mode=mode, durable=True)
        with suppress(FileExistsError):
            path.hardlink_to(draft)
    sync_folder(path.parent)


@contextmanager
def draft_of(path: Path) -> Generator[Path, None, None]:
    """A name beside `path` to write to, of this thread alone, which no `*` with an ending finds.

    What is left there is removed, for on a full disk it would keep what others need.
    """
    draft = path.with_name(f".{path.name.lstrip('.')}.{os.getpid()}-{threading.get_native_id()}")
    try:
        yield draft
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write(path: Path, content: str | bytes, *, mode: int = _ANYBODY, durable: bool = False) -> None:
    """Write in place, for a draft; with `durable` it is on the disk at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def move(old: Path, new: Path, *, durable: bool = False) -> Path:
    """Rename a file or folder on its file system, in one step and in place of what has the name; returns `new`."""
    old.replace(new)
    if durable:
        sync_folder(new.parent)
    return new


def sync_folder(folder: Path) -> None:
    """Make names that were created or changed in the folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock(path: Path, *, wait: timedelta | None, mode: int = _ANYBODY) -> Generator[bool, None, None]:
    """Hold the lock on `path` for the block; False where somebody kept it for all of `wait` (None: as long as it takes).

    The kernel drops it with the process, whatever killed it. The file stays.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, mode)
    try:
        yield _waited(descriptor, wait)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int) -> bool:
    """Lock an open file now, until it is closed; False where another one has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _waited(descriptor: int, wait: timedelta | None) -> bool:
    if wait is None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + wait.total_seconds()
    while not take_lock(descriptor):
        if time.monotonic() >= deadline:
            return False
        time.sleep(random.uniform(0.005, 0.02))
    return True


# Files that can be replaced on a full disk: beside each lies a spare whose blocks are taken already.
#
# The spare is written in place and renamed over the file, whose own blocks become the next spare: it can be done
# again and again without a free byte. (A file system that never writes in place, such as btrfs or ZFS, needs a little
# room even so.) The content ends in blanks up to the spare's size, which JSON ignores.


_SLACK = 4096

_OWNER = 0o600


def replace_with_spare(path: Path, content: bytes, *, from_reserve: bool = False) -> None:
    """Replace the file; a reader sees the old content or the new, and only the owner may read. Raises OSError.

    Room for the next replacement is made first: what leaves no way back is not written. With `from_reserve`,
    which is for what takes traffic away, a full disk is no obstacle. One writer at a time.
    """
    try:
        _through_draft(path, content, reserve(path, len(content)))
    except OSError:
        if not from_reserve:
            raise
        _through_spare(path, content)


def reserve(path: Path, size: int) -> int:
    """See that the spare has room for `size` bytes and some more; returns how many it has. Raises OSError."""
    spare = _spare(path)
    with suppress(FileNotFoundError):
        there = spare.stat().st_size
        if there >= size + _SLACK:
            return there
    room = -(-2 * (size + _SLACK) // _SLACK) * _SLACK
    with draft_of(spare) as draft:
        write(draft, b" " * room, mode=_OWNER, durable=True)
        move(draft, spare)
    return room


def discard(path: Path) -> None:
    """Remove the file and its spare, if they are there."""
    path.unlink(missing_ok=True)
    _spare(path).unlink(missing_ok=True)


def _through_draft(path: Path, content: bytes, room: int) -> None:
    with draft_of(path) as draft:
        write(draft, content.ljust(room), mode=_OWNER, durable=True)
        move(draft, path)


def _through_spare(path: Path, content: bytes) -> None:
    spare, following = _spare(path), path.with_name(f".{path.name}.following")
    room = spare.stat().st_size
    if room < len(content):
        raise OSError(errno.ENOSPC, f"{len(content)} bytes are needed, {room} are reserved", str(spare))
    with spare.open("r+b") as file:
        file.write(content.ljust(room))
        file.flush()
        os.fsync(file.fileno())
    with suppress(
        OSError
    ):  # its own blocks are the next spare; where they cannot be kept, this one still counts
        following.unlink(missing_ok=True)
        following.hardlink_to(path)
    move(spare, path)
    with suppress(OSError):
        move(following, spare)


def _spare(path: Path) -> Path:
    return path.with_name(f".{path.name}.spare")
