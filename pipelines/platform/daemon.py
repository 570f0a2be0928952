"""Dagster's daemon, which fetches the definitions when they have changed, and not every minute as well.

    python -m pipelines.platform.daemon run -w workspace.yaml

What it fetches grows with the models (three hundred of them: 8 MB), and it asks the code server every second
anyway whether it was started anew. Dagster has no setting for it.
"""

import sys

from dagster._daemon import controller
from dagster._daemon.cli import main as daemon_main

FETCH_SECONDS = 3600.0
"""Nevertheless: whatever went wrong with the last fetch does not stay for ever."""


def main() -> None:
    """Run what `dagster-daemon` runs."""
    controller.RELOAD_WORKSPACE_INTERVAL = FETCH_SECONDS
    sys.argv[0] = "dagster-daemon"
    daemon_main()


if __name__ == "__main__":
    main()
