"""Files that can be replaced on a full disk: beside each lies a spare whose blocks are taken already.

The spare is written in place and renamed over the file, whose own blocks become the next spare: it can be done
again and again without a free byte. (A file system that never writes in place, such as btrfs or ZFS, needs a little
room even so.) The content ends in blanks up to the spare's size, which JSON ignores.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path

from resources.files import draft_of, move, write

_SLACK = 4096
_OWNER = 0o600


def replace(path: Path, content: bytes, *, from_reserve: bool = False) -> None:
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
