"""The real code location, which cannot be loaded while the file `broken` is in its home."""

from pipelines.definitions import defs
from resources.settings import Settings

if (Settings.from_environment().home / "broken").exists():
    raise RuntimeError("broken on purpose")

__all__ = ["defs"]
