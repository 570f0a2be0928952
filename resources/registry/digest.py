"""A model artefact's identity: one digest over everything in its directory."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipelines.core.errors import VersionRefused


def digest_of(directory: Path, *, linked_folders: bool = False) -> str:
    """sha256 (hex) over the sorted relative paths and contents of the files below `directory`.

    Paths and contents are length-prefixed, so that no two different trees give the same bytes.
    Times, owners and empty directories do not count. A link to a file counts as the file; one to a folder as what is in
    it with `linked_folders`, else not at all: artefacts with links are refused, and one may lead to the whole disk.
    Raises `FileNotFoundError` without a directory, `OSError` for a link to a folder that holds it.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory of artefact files")
    total = hashlib.sha256()
    for file in _files(directory, linked_folders):
        name = file.relative_to(directory).as_posix().encode()
        total.update(b"%d:%b%d:" % (len(name), name, file.stat().st_size))
        with file.open("rb") as content:
            while chunk := content.read(1 << 20):
                total.update(chunk)
    return total.hexdigest()


def verify(directory: Path, digest: str) -> None:
    """Raise `VersionRefused` unless the files are those that the rollout pinned, links followed.

    KServe links what lies on a volume, and what is loaded through a link must not escape the digest.
    """
    try:
        found = digest_of(directory, linked_folders=True)
    except OSError as error:
        raise VersionRefused(f"{directory} cannot be verified, so it is not loaded: {error}") from error
    if digest.removeprefix("sha256:") != found:
        raise VersionRefused(
            f"{directory}: digest is {found}, the rollout pinned {digest or 'none'}; not loaded"
        )


def _files(directory: Path, linked_folders: bool) -> list[Path]:
    found = _below(directory, ()) if linked_folders else (p for p in directory.rglob("*") if p.is_file())
    return sorted(found, key=lambda path: path.relative_to(directory).as_posix())


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above:
        raise OSError(f"{folder} leads back to a folder that holds it")
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, (*above, here))
        elif path.is_file():
            yield path
