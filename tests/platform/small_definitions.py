"""The smallest code location, so that the platform's tests do not wait for the real one."""

import dagster as dg


@dg.asset
def something() -> int:
    return 1


defs = dg.Definitions(assets=[something])
