"""Segments on an object store as a source: closed ones are copied beside the local ones, and loaded from there.

Two layouts. `<prefix>/<model>/<segment>.jsonl` is our own. `<prefix>/<namespace>/<model>/<component>/.../<id>-request.json`
(and `-response.json`) is what KServe's logger writes in blob mode: one record or a batch of records, without a
time, a status or a latency. The time of such a record is that of its object, its latency unknown.

A copy has a name that follows from the object's key, and the lake remembers the names that it loaded: whatever dies
on the way, power included, an object is loaded exactly once.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from duckdb import DuckDBPyConnection

from resources.files import write_whole
from resources.prediction_log.cloudevents import REVISION_ANNOTATION

Loaded = Callable[[list[str]], Collection[str]]
"""Of these segment names, those that the lake has loaded."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.jsonl")

_TYPE = "org.kubeflow.serving.inference."


def fetch_segments(connection: DuckDBPyConnection, prefix: str, directory: Path, loaded: Loaded) -> int:
    """Copy the closed segments below `prefix` (`s3://bucket/path/<model>`) that are not loaded yet.

    `connection` can read the store (`Lake.connect` of a lake on S3). Returns how many were copied.
    """
    keys = _keys(connection, f"{prefix.rstrip('/')}/*.jsonl")
    wanted = {key.rpartition("/")[2]: key for key in keys}
    wanted = {name: key for name, key in wanted.items() if _NAME.fullmatch(name)}
    missing = _missing(wanted, directory, loaded)
    for name in missing:
        rows = connection.execute("SELECT content FROM read_blob($key)", {"key": wanted[name]}).fetchall()
        write_whole(directory / name, rows[0][0], durable=True)
    return len(missing)


def fetch_blobs(
    connection: DuckDBPyConnection, prefix: str, directory: Path, loaded: Loaded, *, batch: int = 500
) -> int:
    """Turn the objects of KServe's blob logger below `prefix` (`s3://bucket/path/<namespace>/<model>`) into segments."""
    keys = _keys(connection, f"{prefix.rstrip('/')}/**/*.json")
    wanted = {blob_segment(key): key for key in keys}
    missing = _missing(wanted, directory, loaded)
    for start in range(0, len(missing), batch):
        names = {wanted[name]: name for name in missing[start : start + batch]}
        rows = connection.execute(
            "SELECT filename, content, last_modified FROM read_text($keys)", {"keys": list(names)}
        ).fetchall()
        for key, text, at in rows:
            lines = blob_lines(text, at=at.isoformat(timespec="microseconds"))
            write_whole(directory / names[key], "".join(lines), durable=True)
    return len(missing)


def blob_segment(key: str) -> str:
    """The segment's name for an object: ids are the callers' own, so they cannot be one."""
    return f"blob-{hashlib.sha256(key.encode()).hexdigest()[:24]}.jsonl"


def blob_lines(text: str, *, at: str) -> list[str]:
    """Lines of the prediction log for the records in one object; a record that is none stays as it is, for the
    quarantine.
    """
    try:
        held = json.loads(text)
    except (ValueError, RecursionError):
        return [text.replace("\n", " ") + "\n"]
    return [_line(record, at) for record in (held if isinstance(held, list) else [held])]


def _line(record: Any, at: str) -> str:
    if not isinstance(record, Mapping):
        return json.dumps(record) + "\n"
    fields = {str(key).lower(): value for key, value in record.items()}
    annotations = dict(fields.get("annotations") or {})
    model = str(fields.get("inferenceservice") or "")
    kind = str(fields.get("reqtype") or "").rpartition(".")[2]
    line = {
        "specversion": "1.0",
        "id": fields.get("id"),
        "type": f"{_TYPE}{kind}",
        "source": annotations.get(REVISION_ANNOTATION) or model,
        "time": at,
        "datacontenttype": "application/json",
        "inferenceservicename": model,
        "namespace": fields.get("namespace") or "",
        "component": fields.get("component") or "",
        "endpoint": fields.get("endpoint") or "",
        "metadata": {str(k).lower(): v for k, v in (fields.get("metadata") or {}).items()},
        "annotations": {**annotations, REVISION_ANNOTATION: annotations.get(REVISION_ANNOTATION) or model},
        "data": _data(fields.get("bytes")),
    }
    return json.dumps(line) + "\n"


def _data(content: Any) -> Any:
    """The body: base64 of JSON. What is neither, or is nested too deep, stays a string, for the quarantine."""
    try:
        return json.loads(base64.b64decode(str(content or ""), validate=True))
    except (ValueError, RecursionError):
        return str(content)


def _keys(connection: DuckDBPyConnection, pattern: str) -> list[str]:
    return [key for (key,) in connection.execute("FROM glob($pattern)", {"pattern": pattern}).fetchall()]


def _missing(names: Iterable[str], directory: Path, loaded: Loaded) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    absent = sorted(name for name in names if not (directory / name).exists())
    there = set(loaded(absent)) if absent else set[str]()
    return [name for name in absent if name not in there]
