"""Shares that are taken away although somebody watches them: with every core busy, and many open rollouts.

One process for each core computes all the time, beside the platform and its clients. A lapse is counted where it is told:
the alert of whoever keeps the leases. How near it came is the longest time that a lease was seen without being renewed.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta

from benchmarks.rollback_parts.boundary import client_failures, tell_failures
from benchmarks.rollback_parts.onlooker import Lapses
from benchmarks.rollback_parts.rows import Row, row
from benchmarks.rollback_parts.watcher import await_watch
from resources.serving.contract import LEASE
from resources.serving.embedded.layout import Layout
from resources.serving.embedded.lease import Leases
from resources.serving.embedded.state import StateStore
from tests.support.light_platform import LightPlatform, light_platform
from tests.support.open_loop import OpenLoop

RATE = 15.0
"""Requests a second, over all models: more would be a third load."""

LOOK_S = 0.25

SAY_S = 60.0


def rows(given: argparse.Namespace) -> list[Row]:
    """Over `given.minutes`, with `given.models` open rollouts."""
    models = [f"model-{number:02}" for number in range(given.models)]
    with light_platform(models) as platform:
        opened = [
            platform.open(model, platform.register(model, "2", log=False), max_unknown=timedelta(days=1))
            for model in models
        ]
        clients = OpenLoop(platform.settings, models[0], RATE, also=models[1:])
        await_watch(platform, models)
        with clients.running(), burning():
            lapses, longest = count(platform, models, given.minutes * 60)
        open_still = sum(platform.state(each).percent > 0 for each in opened)
    tell_failures(clients)
    size = f"{given.minutes:g} min, {len(models)} open rollouts, {os.cpu_count()} cores busy"
    return [
        row(f"false lapses: {size}", lapses, limit=0, unit="lapses"),
        row(
            f"rollouts without their share at the end: {size}",
            len(models) - open_still,
            limit=0,
            unit="rollouts",
        ),
        row(
            f"longest time without a renewal: {size}",
            longest,
            limit=LEASE.total_seconds(),
            reference=LEASE.total_seconds(),
            reference_is="the lease",
        ),
        client_failures([clients]),
    ]


def count(platform: LightPlatform, models: list[str], seconds: float) -> tuple[int, float]:
    """Lapses, and the longest silence of a watcher in seconds."""
    leases, told = Leases(Layout(platform.settings.home).leases), Lapses(platform.settings)
    store, lapses, longest = StateStore(Layout(platform.settings.home).states), 0, 0.0
    told.new()
    begun = said = time.monotonic()
    while time.monotonic() < begun + seconds:
        words = [leases.last_word(model) for model in models if store.read(model).leased]
        longest = max([longest, *(time.time() - word / 1e9 for word in words if word is not None)])
        lapses += len(told.new())
        if time.monotonic() > said + SAY_S:
            said = time.monotonic()
            print(
                f"{(said - begun) / 60:.0f} min: {lapses} lapses, longest silence {longest:.2f} s,"
                f" load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        time.sleep(LOOK_S)
    return lapses, longest


@contextmanager
def burning() -> Generator[None]:
    """As many processes that only compute as there are cores."""
    burners = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)
    ]
    try:
        yield
    finally:
        for each in burners:
            each.kill()
            each.wait()
