"""A home of the platform, for one test."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.platform.control import down
from resources.settings import Settings
from tests.support.ports import free_base


@contextmanager
def own_home(home: Path | None = None) -> Iterator[Settings]:
    """Settings whose home and ports are nobody else's; stopped afterwards, and removed where it was made here."""
    made = home is None
    home = home or Path(tempfile.mkdtemp(prefix="rg-", dir="/tmp"))
    settings = Settings.from_environment({"RAMPGATE_HOME": str(home), "RAMPGATE_PORT_BASE": str(free_base())})
    try:
        yield settings
    finally:
        down(settings)
        if made:
            shutil.rmtree(home)
