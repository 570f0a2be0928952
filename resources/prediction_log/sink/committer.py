"""From one event of KServe's payload logger to a durable line: parsed, written in groups, acknowledged once
it is safe.
"""

import asyncio
import json
import logging
import re
from collections import OrderedDict
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import orjson

from pipelines.core.errors import RampgateError
from resources.prediction_log.cloudevents import REQUEST, RESPONSE, REVISION_ANNOTATION
from resources.prediction_log.segments import Durability, LogNotWritten, SegmentWriter

_MODEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")

_REVISION = re.compile(r"[a-z0-9]([-a-z0-9]{0,126}[a-z0-9])?")
"""The model's name, its version and a digest: longer than a DNS label where the name is. It is a file name here."""

_DEEPEST = 250
"""orjson reads 1,024 levels and writes 254, of which the line itself has some."""

_ATTRIBUTES = {
    "ce-id": "id",
    "ce-type": "type",
    "ce-source": "source",
    "ce-time": "time",
    "ce-inferenceservicename": "inferenceservicename",
    "ce-namespace": "namespace",
    "ce-component": "component",
    "ce-endpoint": "endpoint",
}

_REQUIRED = ("ce-id", "ce-type", "ce-time", "ce-inferenceservicename")


class BadEvent(RampgateError):
    """What was posted is not an event of the payload logger; the message names header, value and what is allowed."""


@dataclass(frozen=True)
class Event:
    """One line, and which segment it belongs to."""

    model: str
    revision: str
    line: bytes


def parse(headers: Mapping[str, str], body: bytes) -> Event:
    """The event in these headers (names in lower case) and body. Raises BadEvent."""
    for name in _REQUIRED:
        if not headers.get(name):
            raise BadEvent(
                f"{name}: missing; the sink takes binary-mode CloudEvents of KServe's payload logger"
            )
    if headers["ce-type"] not in (REQUEST, RESPONSE):
        raise BadEvent(f"ce-type == {headers['ce-type']!r}, must be {REQUEST} or {RESPONSE}")
    model = _named(headers, "ce-inferenceservicename")
    annotations = _texts(headers, "ce-annotations")
    revision = str(annotations.get(REVISION_ANNOTATION) or model)
    if _REVISION.fullmatch(revision) is None:
        raise BadEvent(
            f"{REVISION_ANNOTATION} == {revision[:160]!r}, must be 1 to 128 lower-case letters, digits and '-'"
        )
    attributes = {ours: headers.get(theirs, "") for theirs, ours in _ATTRIBUTES.items()}
    line = {
        "specversion": "1.0",
        **attributes,
        "source": revision,
        "datacontenttype": "application/json",
        "metadata": _lists(headers, "ce-metadata"),
        "annotations": {**annotations, REVISION_ANNOTATION: revision},
        "data": _data(body),
    }
    try:
        return Event(model, revision, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
    except orjson.JSONEncodeError as error:
        raise BadEvent(f"body: {error}; at most {_DEEPEST} levels of lists and objects are taken") from error


def _named(headers: Mapping[str, str], name: str) -> str:
    """A name that becomes part of a path: never taken from an event without this check."""
    value = headers[name]
    if _MODEL.fullmatch(value) is None:
        raise BadEvent(f"{name} == {value[:80]!r}, must be a lower-case DNS label")
    return value


def _json_object(headers: Mapping[str, str], name: str) -> dict[str, Any]:
    """A header that holds a JSON object, percent-encoded or not: where it is, no quotation mark is left."""
    text = headers.get(name, "")
    if '"' not in text:
        text = unquote(text)
    if text in ("", "null"):
        return {}
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadEvent(f"{name} == {text[:80]!r}, must be a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise BadEvent(f"{name} == {text[:80]!r}, must be a JSON object")
    return value


def _texts(headers: Mapping[str, str], name: str) -> dict[str, Any]:
    """Name -> one plain value."""
    found = _json_object(headers, name)
    for key, value in found.items():
        if isinstance(value, list | dict):
            raise BadEvent(f"{name}: {key[:80]!r} is a {type(value).__name__}, must be text")
    return found


def _lists(headers: Mapping[str, str], name: str) -> dict[str, list[str]]:
    """Go writes header names as X-Unit-Id; the log has them in lower case, with a list of values."""
    found = _json_object(headers, name)
    values = {key.lower(): value if isinstance(value, list) else [value] for key, value in found.items()}
    for key, each in values.items():
        if any(isinstance(value, list | dict) for value in each):
            raise BadEvent(f"{name}: {key[:80]!r} holds lists or objects, must be a list of texts")
    return {key: [str(value) for value in each] for key, each in values.items()}


def _data(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        with suppress(ValueError, RecursionError):
            if b"NaN" in body:
                return json.loads(body, parse_constant=_not_a_number)
        raise BadEvent(
            f"body: not JSON ({error}); the prediction log holds Open Inference Protocol v2 JSON"
        ) from error


def _not_a_number(name: str) -> None:
    """Model servers take NaN for a number, as Python writes it: what they answered must not stay out of the log for it."""
    if name != "NaN":
        raise ValueError(name)


# Group commit: events of all connections are written together, and acknowledged once they are durable.


_LOG = logging.getLogger(__name__)


class Busy(Exception):
    """More is waiting than may wait; come back later."""


@dataclass
class Held:
    """The bytes that one request holds, counted among those of all."""

    committer: "Committer"
    size: int = 0

    def grow(self, size: int) -> None:
        """From now on it holds `size` bytes, if that is more. Raises Busy where all together would hold too many."""
        more = max(0, size - self.size)
        if self.committer.held + more > self.committer.max_held:
            raise Busy
        self.committer.held += more
        self.size += more


@dataclass
class EventCounts:
    """What /metrics shows."""

    written: int = 0
    bytes: int = 0
    commits: int = 0
    failed: int = 0
    refused: dict[str, int] = field(default_factory=dict[str, int])
    """Reason -> events that were not taken."""


@dataclass
class Committer:
    """Writes events into segments, `<directory>/<model>/<revision>.*`. One per process, on one event loop."""

    directory: Path
    durability: Durability = "power"
    max_pending: int = 10_000
    """Events that may wait; beyond it `commit` raises Busy."""
    max_held: int = 64 * 1024 * 1024
    """Bytes of all events that are being received or wait; beyond it Busy is raised. What is written takes as much again."""
    held: int = 0
    max_writers: int = 64
    """Open segments; the revision that was quiet longest is closed first."""
    counts: EventCounts = field(default_factory=EventCounts)

    def __post_init__(self) -> None:
        self._waiting: list[tuple[Event, asyncio.Future[None]]] = []
        self._writers: OrderedDict[tuple[str, str], SegmentWriter] = OrderedDict()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="sink-disk")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._in_flight = 0

    @contextmanager
    def holding(self) -> Generator[Held]:
        """What a request holds while the context lasts."""
        held = Held(self)
        try:
            yield held
        finally:
            self.held -= held.size

    @property
    def pending(self) -> int:
        """Events that are not durable yet."""
        return len(self._waiting) + self._in_flight

    def start(self) -> None:
        """Begin to write; call it on the event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Write what waits, then seal the segments."""
        while self.pending:
            await asyncio.sleep(0.005)
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        for writer in self._writers.values():
            writer.close()
        self._disk.shutdown()

    async def commit(self, event: Event) -> None:
        """Returns once the event is durable. Raises Busy, or LogNotWritten if it is not."""
        if self.pending >= self.max_pending:
            raise Busy
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((event, done))
        self._wake.set()
        await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            self._in_flight = len(batch)
            outcomes = await loop.run_in_executor(self._disk, self._write, [event for event, _ in batch])
            self._in_flight = 0
            self._answer(batch, outcomes)

    def _answer(
        self,
        batch: list[tuple[Event, "asyncio.Future[None]"]],
        outcomes: dict[tuple[str, str], LogNotWritten | None],
    ) -> None:
        self.counts.commits += 1
        for event, done in batch:
            error = outcomes[event.model, event.revision]
            self.counts.failed += error is not None
            self.counts.written += error is None
            self.counts.bytes += len(event.line) if error is None else 0
            if done.done():
                continue  # the connection is gone; the event is in the log all the same
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

    def _write(self, events: list[Event]) -> dict[tuple[str, str], LogNotWritten | None]:
        """One write and one sync per revision, on the disk's own thread."""
        lines: dict[tuple[str, str], list[bytes]] = {}
        for event in events:
            lines.setdefault((event.model, event.revision), []).append(event.line)
        outcomes: dict[tuple[str, str], LogNotWritten | None] = {}
        for key, group in lines.items():
            try:
                self._writer(key).append(b"".join(group))
                outcomes[key] = None
            except LogNotWritten as error:
                outcomes[key] = error
            except OSError as error:
                outcomes[key] = LogNotWritten(f"prediction log {self.directory}: {error.strerror or error}")
        return outcomes

    def _writer(self, key: tuple[str, str]) -> SegmentWriter:
        if key not in self._writers:
            if len(self._writers) >= self.max_writers:
                _, oldest = self._writers.popitem(last=False)
                oldest.close()
            self._writers[key] = SegmentWriter(self.directory / key[0], key[1], self.durability)
        self._writers.move_to_end(key)
        return self._writers[key]
