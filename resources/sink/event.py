"""One event of KServe's payload logger: a binary-mode CloudEvent over HTTP, as a line of the prediction log."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import orjson

from pipelines.errors import RampgateError
from resources.prediction_log.cloudevents import REQUEST, RESPONSE, REVISION_ANNOTATION

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
        raise BadEvent(
            f"body: not JSON ({error}); the prediction log holds Open Inference Protocol v2 JSON"
        ) from error
