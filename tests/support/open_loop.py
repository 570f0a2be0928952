"""Clients that send on a schedule fixed in advance, whether or not the answers before have come."""

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from resources.settings import HOST, Settings

MOST_PENDING = 300

TIMEOUT_SECONDS = 10.0


def sent_at(request_id: str) -> float:
    """`time.time()` at which an open loop sent this request."""
    return float(request_id.partition("-")[0])


@dataclass(frozen=True)
class Failure:
    """One request that got no good answer."""

    at: float
    """`time.time()` at which it was noticed."""
    error: str


@dataclass
class OpenLoop:
    """Sends to `model` at `rate`; a request that cannot be sent because too many wait counts as failed."""

    settings: Settings
    model: str
    rate: float
    also: Sequence[str] = ()
    """Other models that are sent to in turn."""
    sent: int = 0
    answered: set[str] = field(default_factory=set[str])
    """Request ids of good answers."""
    failures: list[Failure] = field(default_factory=list[Failure])
    please: str = ""
    """What a light predictor that obeys is asked for in each request from now on, such as `500@2`."""
    slowest: float = 0.0
    """Seconds from when a request was due to its answer."""
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Generator["OpenLoop"]:
        """In a thread of its own; ends after the last answer."""
        self._stop.clear()
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="open-loop")
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    async def _run(self) -> None:
        limits = httpx.Limits(max_connections=MOST_PENDING, max_keepalive_connections=50)
        timeout = httpx.Timeout(TIMEOUT_SECONDS)
        pending: set[asyncio.Task[None]] = set()
        async with httpx.AsyncClient(timeout=timeout, limits=limits, trust_env=False) as client:
            start, number = time.time(), 0
            while not self._stop.is_set():
                due = start + number / self.rate
                number += 1
                await asyncio.sleep(max(0.0, due - time.time()))
                self.sent += 1
                if len(pending) >= MOST_PENDING:
                    self.failures.append(Failure(time.time(), f"not sent: {MOST_PENDING} requests wait"))
                    continue
                models = (self.model, *self.also)
                task = asyncio.create_task(self._send(client, due, models[number % len(models)]))
                pending.add(task)
                task.add_done_callback(pending.discard)
            await asyncio.gather(*pending)

    async def _send(self, client: httpx.AsyncClient, due: float, model: str) -> None:
        identity = f"{time.time():.6f}-{uuid.uuid4()}"  # see `sent_at`
        headers = {"x-request-id": identity, "x-unit-id": f"u{random.getrandbits(40)}"}
        if self.please:
            headers["x-please"] = self.please
        url = f"http://{HOST}:{self.settings.ports.gateway}/v2/models/{model}/infer"
        try:
            answer = await client.post(url, json={"inputs": []}, headers=headers)
        except httpx.HTTPError as error:
            self.failures.append(Failure(time.time(), repr(error)))
            return
        if answer.status_code != 200:
            self.failures.append(Failure(time.time(), f"{answer.status_code}: {answer.text[:100]}"))
            return
        self.answered.add(identity)
        self.slowest = max(self.slowest, time.time() - due)
