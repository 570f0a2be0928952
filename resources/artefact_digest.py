"""A model artefact's identity: one digest over everything in its directory."""

import hashlib
from pathlib import Path


def digest_of(directory: Path) -> str:
    """sha256 (hex) over the sorted relative paths and contents of the files below `directory`.

    Paths and contents are length-prefixed, so that no two different trees give the same bytes.
    Times, owners and empty directories do not count. Raises `FileNotFoundError` without a directory.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory of artefact files")
    total = hashlib.sha256()
    for file in _files(directory):
        name = file.relative_to(directory).as_posix().encode()
        total.update(b"%d:%b%d:" % (len(name), name, file.stat().st_size))
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()


def _files(directory: Path) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return sorted(found, key=lambda path: path.relative_to(directory).as_posix())
