"""A real file system that can be filled to its last byte."""

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


class Disk:
    """A tmpfs of its own, mounted at `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._ballast = place / "ballast"

    def fill(self) -> None:
        """Take every byte that is left."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                while _written(file.fileno(), size):
                    pass

    def free(self) -> None:
        """Give it back."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def full_disk(place: Path, *, size: str = "8m") -> Generator[Disk]:
    """Mount one; needs root, as CI and the containers of the platform have it."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _written(descriptor: int, size: int) -> bool:
    try:
        return os.write(descriptor, b"." * size) > 0
    except OSError:
        return False
