"""The smallest code location, so that the platform's tests do not wait for the real one."""

import os
import time

import dagster as dg


@dg.asset
def something() -> int:
    return 1


class Nap(dg.Config):
    seconds: float


@dg.op
def nap(context: dg.OpExecutionContext, config: Nap) -> None:
    context.log.info(f"niceness {os.nice(0)}")
    time.sleep(config.seconds)


@dg.job(executor_def=dg.in_process_executor)
def napping() -> None:
    nap()


defs = dg.Definitions(assets=[something], jobs=[napping])
