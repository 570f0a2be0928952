"""`python -m pipelines.platform up|down|status`."""

import argparse
import os
import sys
import time

from pipelines.core.errors import RampgateError
from pipelines.platform.control import down, up
from pipelines.platform.parts import DEFINITIONS, parts
from pipelines.platform.status import status, table
from resources.settings import Settings


def main() -> int:
    """Returns the exit code; `status` exits 1 when a part does not work."""
    parser = argparse.ArgumentParser("pipelines.platform", description=__doc__)
    parser.add_argument("action", choices=["up", "down", "status"])
    parser.add_argument("--definitions", default=DEFINITIONS, help="module of the Dagster code location")
    given = parser.parse_args()
    os.umask(0o077)
    try:
        settings = Settings.from_environment()
        return _run(given.action, settings, definitions=given.definitions)
    except (RampgateError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _run(action: str, settings: Settings, *, definitions: str) -> int:
    every = parts(settings, definitions=definitions)
    if action == "down":
        down(settings)
        return 0
    if action == "status":
        rows = status(settings, every)
        print(table(rows))
        return int(any(row.trouble for row in rows))
    began = time.monotonic()
    up(settings, every)
    print(f"up in {time.monotonic() - began:.0f} s; stop it with: make down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
