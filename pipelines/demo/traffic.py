"""Replays flights through the gateway as live requests, and delivers their outcomes later.

Open loop: every request has its place on a schedule fixed in advance and is sent then, whether or not the
ones before it were answered, so that a slow server cannot slow down its own test (no coordinated omission).
"""

import argparse
import asyncio
import contextlib
import json
import math
import os
import signal
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from pipelines.demo.flight_data import DEPARTURE, FEATURES, LABEL, business_cost, load_flights
from resources.files import write_whole
from resources.links import Links
from resources.settings import Settings

TIMEOUT_SECONDS = 10.0

OUTCOME_FILE_SECONDS = 1.0


@dataclass
class Tally:
    """What the clients saw."""

    sent: int = 0
    answered: int = 0
    outcome_values: int = 0
    """Delivered: two for each outcome."""
    failures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    slowest_ms: float = 0.0

    def write(self, path: Path) -> None:
        write_whole(path, json.dumps(self.__dict__))


def request_body(row: Mapping[Any, Any]) -> dict[str, Any]:
    """One flight as an Open Inference Protocol v2 request: one tensor per column, null where unknown."""
    return {"inputs": [_tensor(name, row[name]) for name in FEATURES]}


def _tensor(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"name": name, "shape": [1], "datatype": "BYTES", "data": [value]}
    number = None if math.isnan(value) else float(value)
    return {"name": name, "shape": [1], "datatype": "FP64", "data": [number]}


def unit_of(number: int, row: Mapping[Any, Any]) -> str:
    """The flight's id: what a caller would send as the unit, and what its outcome is keyed by."""
    return f"{row[DEPARTURE]:%m%d-%H%M}-{row['carrier']}-{row['origin']}-{row['dest']}-{number}"


class Replayer:
    """Sends flights at a fixed rate and writes one outcome per answered flight after `outcome_delay` seconds."""

    def __init__(
        self, *, settings: Settings, model: str, rate: float, outcome_delay: float, tally: Path
    ) -> None:
        self.url = Links(settings).infer(model)
        self.rate, self.outcome_delay, self.tally_path = rate, outcome_delay, tally
        self.outcomes = settings.outcomes / model
        self.outcomes.mkdir(parents=True, exist_ok=True)
        self.tally = Tally()
        self.due: list[tuple[float, str]] = []
        self.stop = asyncio.Event()

    async def run(self, flights: pd.DataFrame) -> None:
        """Send until the flights end or `stop` is set, then deliver what outcomes are still owed."""
        writer = asyncio.create_task(self._deliver())
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=50)
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits) as client:
            pending: set[asyncio.Task[None]] = set()
            start = time.monotonic()
            for i, row in enumerate(flights.to_dict("records")):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(
                        self.stop.wait(), timeout=max(0.0, start + i / self.rate - time.monotonic())
                    )
                if self.stop.is_set():
                    break
                task = asyncio.create_task(
                    self._send(client, unit_of(i, row), row, intended=start + i / self.rate)
                )
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.gather(*pending)
        self.stop.set()
        await writer

    async def _send(
        self, client: httpx.AsyncClient, unit: str, row: Mapping[Any, Any], *, intended: float
    ) -> None:
        headers = {"x-unit-id": unit, "x-request-id": str(uuid.uuid4())}
        self.tally.sent += 1
        try:
            response = await client.post(self.url, json=request_body(row), headers=headers)
        except httpx.HTTPError as error:
            self._failed(unit, repr(error))
            return
        if response.status_code != 200:
            self._failed(unit, f"{response.status_code}: {response.text[:200]}")
            return
        self.tally.answered += 1
        self.tally.slowest_ms = max(self.tally.slowest_ms, (time.monotonic() - intended) * 1000)
        score = float(response.json()["outputs"][0]["data"][0])
        values = {"late": int(row[LABEL]), "cost": business_cost(score, row[LABEL])}
        self.due.append((time.monotonic() + self.outcome_delay, self._outcome(unit, values)))

    def _failed(self, unit: str, error: str) -> None:
        self.tally.failures.append({"at": datetime.now(UTC).isoformat(), "unit": unit, "error": error})

    def _outcome(self, unit: str, values: dict[str, float]) -> str:
        at = datetime.fromtimestamp(time.time() + self.outcome_delay, UTC).isoformat()
        return json.dumps({"id": f"outcome-{unit}", "key": unit, "at": at, "values": values})

    async def _deliver(self) -> None:
        """Write due outcomes as closed files, one a second, until everything owed has been delivered."""
        number = 0
        while not self.stop.is_set() or self.due:
            now = time.monotonic()
            ready = [line for at, line in self.due if at <= now]
            self.due = [(at, line) for at, line in self.due if at > now]
            if ready:
                name = f"outcomes-{os.getpid()}-{number:06d}"
                write_whole(self.outcomes / f"{name}.jsonl", "\n".join(ready) + "\n")
                number += 1
                self.tally.outcome_values += 2 * len(ready)
            self.tally.write(self.tally_path)
            await asyncio.sleep(OUTCOME_FILE_SECONDS)
        self.tally.write(self.tally_path)


async def _main(arguments: argparse.Namespace) -> None:
    replayer = Replayer(
        settings=Settings.from_environment(),
        model=arguments.model,
        rate=arguments.rate,
        outcome_delay=arguments.outcome_delay,
        tally=arguments.tally,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, replayer.stop.set)
    await replayer.run(load_flights(range(arguments.first_month, 13)))


def main() -> None:
    """`python -m pipelines.demo.traffic --model NAME --tally FILE`; SIGTERM ends it after the last outcome."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tally", required=True, type=Path)
    parser.add_argument("--rate", type=float, default=50.0, help="requests a second")
    parser.add_argument("--outcome-delay", type=float, default=4.0, help="seconds until an outcome is known")
    parser.add_argument("--first-month", type=int, default=6, help="the first that no version was trained on")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
