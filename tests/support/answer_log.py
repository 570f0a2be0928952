"""The prediction log as the predictors wrote it, without the lake."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from resources.settings import Settings


class Logged(NamedTuple):
    """One answer of one predictor."""

    request_id: str
    version: str
    assignment: str
    requested_at: datetime
    responded_at: datetime
    status: int


def logged_answers(settings: Settings, model: str) -> list[Logged]:
    """Every complete pair of lines, open segments included, in the order of the answers."""
    return sorted(_pairs(settings, model), key=lambda each: each.responded_at)


def _pairs(settings: Settings, model: str) -> Iterator[Logged]:
    folder = settings.prediction_log / model
    for path in {path.with_suffix("") for path in folder.glob("*.*") if path.suffix in (".open", ".jsonl")}:
        lines = _lines(path)
        for request, response in zip(lines[::2], lines[1::2], strict=False):
            yield Logged(
                request_id=response["metadata"].get("x-request-id", [response["id"]])[0],
                version=response["annotations"]["rampgate.io/version"],
                assignment=response["metadata"].get("x-assignment", [""])[0],
                requested_at=datetime.fromisoformat(request["time"]),
                responded_at=datetime.fromisoformat(response["time"]),
                status=response["status"],
            )


def _lines(path: Path) -> list[dict[str, Any]]:
    """A segment is renamed when it is closed, and its writer may be in the middle of a line."""
    for ending in (".open", ".jsonl"):
        try:
            text = path.with_name(path.name + ending).read_text()
        except FileNotFoundError:
            continue
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return []
