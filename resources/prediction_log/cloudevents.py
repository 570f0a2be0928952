"""The lines of the log: structured-mode CloudEvents in the shape that KServe's payload logger emits.

One prediction is two lines, request and response, with the same id. They are built and written together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson

REQUEST = "org.kubeflow.serving.inference.request"

RESPONSE = "org.kubeflow.serving.inference.response"

VERSION_ANNOTATION = "rampgate.io/version"

REVISION_ANNOTATION = "rampgate.io/revision"

LONGEST_ID = 256
"""Bytes of a unit's or a request's id; what is longer names nothing."""

LEFT_OUT = "x-left-out"
"""In a record's metadata, beside the headers: which of them were too long to be an id."""

_BLANKS = " \t"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What serves: the same for every prediction of one process."""

    service: str
    """Name of the InferenceService."""
    version: str
    revision: str
    namespace: str = "default"

    def attributes(self) -> dict[str, Any]:
        """The event attributes that do not change from one prediction to the next."""
        return {
            "specversion": "1.0",
            "source": self.revision,
            "datacontenttype": "application/json",
            "inferenceservicename": self.service,
            "namespace": self.namespace,
            "component": "predictor",
            "endpoint": "",
            "annotations": {VERSION_ANNOTATION: self.version, REVISION_ANNOTATION: self.revision},
        }


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answered request, good or bad."""

    record_id: str
    """Made for this answer alone: whatever callers send, no two records share it."""
    metadata: Mapping[str, str]
    """Request headers worth keeping: name in lower case -> value."""
    requested_at: datetime
    """Timezone-aware UTC."""
    latency_ms: float
    status: int
    """The HTTP status that the caller gets."""
    inputs: Sequence[Mapping[str, Any]]
    """v2 tensors as they came: name, shape, datatype, data."""
    answer: Mapping[str, Any]
    """The v2 response, or `{"error": ...}`."""


def prediction_lines(attributes: Mapping[str, Any], prediction: Prediction) -> bytes:
    """Request and response line of one prediction, both ended by a newline.

    NaN and infinity become null, integers beyond 64 bits strings of digits.
    `attributes` come from `Origin.attributes()`, made once per process.
    """
    shared = {
        **attributes,
        "id": prediction.record_id,
        "metadata": {name: [value] for name, value in prediction.metadata.items()},
    }
    responded_at = prediction.requested_at + timedelta(milliseconds=prediction.latency_ms)
    request = shared | {
        "type": REQUEST,
        "time": _timestamp(prediction.requested_at),
        "data": {"inputs": prediction.inputs},
    }
    response = shared | {
        "type": RESPONSE,
        "time": _timestamp(responded_at),
        "latencyms": round(prediction.latency_ms, 3),
        "status": prediction.status,
        "data": prediction.answer,
    }
    return _line(request) + _line(response)


def header_text(value: str) -> str:
    """A header's text, from a server that decodes bytes as Latin-1 (as ASGI's do); empty if it is blank.

    HTTP names no character set: what is UTF-8 is read as UTF-8, anything else as Latin-1. Blanks around it are HTTP's;
    any other white space belongs to the value, as the gateway has it.
    """
    try:
        return value.encode("latin-1").decode().strip(_BLANKS)
    except UnicodeError:
        return value.strip(_BLANKS)


def usable_ids(headers: Mapping[str, str]) -> dict[str, str]:
    """Those of `headers` (name -> text) that can be ids; under `LEFT_OUT`, in words, those that are longer."""
    sizes = {name: len(text.encode(errors="surrogatepass")) for name, text in headers.items()}
    long = [f"{name} of {size} bytes" for name, size in sizes.items() if size > LONGEST_ID]
    usable = {name: text for name, text in headers.items() if text and sizes[name] <= LONGEST_ID}
    return usable | ({LEFT_OUT: ", ".join(long)} if long else {})


def _line(event: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)
    except (
        TypeError
    ):  # an integer beyond 64 bits: a caller may send one, and the record must still be written
        return orjson.dumps(_with_small_integers(event), option=orjson.OPT_APPEND_NEWLINE)


def _with_small_integers(value: Any) -> Any:
    """The same value, with integers beyond 64 bits as strings of digits."""
    if isinstance(value, Mapping):
        return {name: _with_small_integers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_with_small_integers(one) for one in value]
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def _timestamp(moment: datetime) -> str:
    """RFC 3339 with microseconds, always six digits."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
