"""The sink as an ASGI application: POST / takes an event, GET /metrics and GET /healthz tell how it goes."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from pipelines.core.manifest.model import PredictionLog
from resources.prediction_log.cloudevents import header_text
from resources.prediction_log.segments import LogNotWritten
from resources.prediction_log.sink.committer import BadEvent, Busy, Committer, Held, parse
from resources.prediction_log.sink.tokens import is_token

_LOG = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]

Send = Callable[[dict[str, Any]], Awaitable[None]]


class EventRefused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Sink:
    """200 means durable. 503 means that more waits than may wait, or that the disk refused."""

    committer: Committer
    token: str = ""
    """Where set, what the models' tokens are made from. A caller sends that of the model whose event it is:
    `Authorization: Bearer`, or as the password in the logger's URL."""
    token_before: str = ""
    """The one before it, while loggers still send that (see `tokens.is_token`)."""
    max_body: int = PredictionLog().max_bytes
    body_seconds: float = 30.0
    """How long a body may take to arrive: for as long it holds memory that others want."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before it is open: 403
        elif scope["method"] == "POST":
            await self._post(scope, receive, send)
        elif scope["path"] == "/metrics":
            await _respond(send, 200, metrics(self.committer), CONTENT_TYPE_PLAIN_0_0_4)
        elif scope["path"] == "/healthz":
            await _respond(send, 200, "ok")
        else:
            await _respond(send, 404, "POST /, GET /metrics or GET /healthz")

    async def _post(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1"): header_text(value.decode("latin-1")) for name, value in scope["headers"]
        }
        try:
            self._authorise(headers)
            with self.committer.holding() as held:
                event = parse(headers, await self._body(receive, held))
                held.grow(len(event.line))
                await self.committer.commit(event)
        except EventRefused as refused:
            await self._refuse(send, refused)
        except BadEvent as error:
            await self._refuse(send, EventRefused(400, "bad_event", str(error)))
        except Busy:
            await self._refuse(send, EventRefused(503, "busy", "too many events wait; retry later"))
        except LogNotWritten as error:
            _LOG.error("%s", error)
            await self._refuse(send, EventRefused(503, "not_written", "the event could not be made durable"))
        else:
            await _respond(send, 200, "")

    def _authorise(self, headers: Mapping[str, str]) -> None:
        given = _credential(headers.get("authorization", ""))
        model = headers.get("ce-inferenceservicename", "")
        if self.token and not is_token(given, model, key=self.token, before=self.token_before):
            raise EventRefused(401, "unauthorised", "the token of this event's model is needed")

    async def _body(self, receive: Receive, held: Held) -> bytes:
        try:
            async with asyncio.timeout(self.body_seconds):
                return await self._received(receive, held)
        except TimeoutError as error:
            raise EventRefused(408, "too_slow", f"the body took more than {self.body_seconds:g} s") from error

    async def _received(self, receive: Receive, held: Held) -> bytes:
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise EventRefused(400, "disconnected", "the connection went away")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self.max_body:
                raise EventRefused(413, "too_large", f"more than {self.max_body} bytes")
            held.grow(size)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _refuse(self, send: Send, refused: EventRefused) -> None:
        counts = self.committer.counts.refused
        counts[refused.reason] = number = counts.get(refused.reason, 0) + 1
        if number & (number - 1) == 0:  # the logger that posts reads no answers, and the disk is finite
            _LOG.warning("event refused (%s, number %d): %s", refused.reason, number, refused)
        await _respond(send, refused.status, str(refused))

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self.committer.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.committer.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


@dataclass(frozen=True, eq=False)
class _Figures(Collector):
    """Read when they are asked for: counting an event costs an addition, and no lock."""

    committer: Committer

    def collect(self) -> Iterator[Metric]:
        counts = self.committer.counts
        yield CounterMetricFamily("rampgate_sink_events_written", "Events made durable", counts.written)
        yield CounterMetricFamily("rampgate_sink_bytes_written", "Their bytes", counts.bytes)
        yield CounterMetricFamily("rampgate_sink_commits", "Writes to the disk", counts.commits)
        yield CounterMetricFamily("rampgate_sink_events_failed", "Events the disk refused", counts.failed)
        refused = CounterMetricFamily("rampgate_sink_events_refused", "Events not taken", labels=["reason"])
        for reason, number in counts.refused.items():
            refused.add_metric([reason], number)
        yield refused
        yield GaugeMetricFamily("rampgate_sink_events_pending", "Not durable yet", self.committer.pending)
        yield GaugeMetricFamily("rampgate_sink_bytes_held", "Of events on their way", self.committer.held)


def metrics(committer: Committer) -> str:
    """The counters in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Figures(committer))
    return generate_latest(registry).decode()


def _credential(header: str) -> str:
    """The token of a Bearer header, or the password of a Basic one (Go sends it for user:token@host)."""
    kind, _, value = header.partition(" ")
    if kind.lower() == "bearer":
        return value.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


async def _respond(send: Send, status: int, text: str, kind: str = "text/plain") -> None:
    body = text.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
