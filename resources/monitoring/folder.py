"""A folder of HTML reports: written whole, named by time, bounded in number."""

import re
from datetime import UTC, datetime
from pathlib import Path

_SAFE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def report_folder(root: Path, *names: str) -> Path:
    """`root/name/name`, created. Names are a model's or a comparison's, never text from events.

    Raises ValueError for a name that is not lower-case letters, digits, `-` and `_`.
    """
    for name in names:
        if not _SAFE.fullmatch(name):
            raise ValueError(f"{name!r} is not usable as a folder name, must match {_SAFE.pattern}")
    folder = root.joinpath(*names)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def stamp(at: datetime) -> str:
    """A file name that sorts by time: `20260101T000000Z`."""
    return at.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")


def keep_newest(folder: Path, keep: int) -> list[Path]:
    """Delete all but the `keep` newest reports (by name); return those that stay, newest first."""
    pages = sorted(folder.glob("[0-9]*.html"), reverse=True)
    for page in pages[keep:]:
        page.unlink(missing_ok=True)
    return pages[:keep]
