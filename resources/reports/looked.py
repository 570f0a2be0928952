"""The stored looks, as the report needs them: every look's primary metric, the last look whole."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from resources.experiment.taking_looks import NAME
from resources.ledger import Ledger
from resources.reports.svg import Point

MOST_LOOKS = 300
"""Of more looks, so many are read, evenly spread, with the last."""


class Looked(NamedTuple):
    """What the looks say about the metrics."""

    taken: int
    """How many looks there are."""
    at: datetime | None
    """The time of the last one."""
    primary: str | None
    unit_margin: float | None
    """The margin of the primary metric, in its own unit, in the direction of harm."""
    points: tuple[Point, ...]
    """The primary metric's difference with its interval."""
    metrics: tuple[Mapping[str, Any], ...]
    """The last look's metrics, as stored."""
    sentences: tuple[str, ...]


def looked(ledger: Ledger, rollout_id: str) -> Looked:
    """Read them without recomputing anything."""
    numbers = ledger.counters.look_numbers(rollout_id, NAME)
    looks = ledger.counters.looks(rollout_id, NAME, _spread(numbers))
    bodies = [(look.at, json.loads(look.body)) for look in looks]
    if not bodies:
        return Looked(len(numbers), None, None, None, (), (), ())
    last = bodies[-1][1]["look"]
    primary = _primary(last)
    points = tuple(p for at, body in bodies if (p := _point(at, _primary(body["look"]))) is not None)
    return Looked(
        taken=len(numbers),
        at=bodies[-1][0],
        primary=None if primary is None else primary["name"],
        unit_margin=_margin(bodies[-1][1], primary),
        points=points,
        metrics=tuple(last["metrics"]),
        sentences=tuple(last["sentences"]),
    )


def _spread(numbers: list[int]) -> list[int]:
    if len(numbers) <= MOST_LOOKS:
        return numbers
    return sorted({numbers[round(k * (len(numbers) - 1) / (MOST_LOOKS - 1))] for k in range(MOST_LOOKS)})


def _primary(look: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((metric for metric in look["metrics"] if metric["is_primary"]), None)


def _point(at: datetime, primary: Mapping[str, Any] | None) -> Point | None:
    if primary is None or primary["effect"] is None or primary["interval"] is None:
        return None
    low, high = primary["interval"]
    return Point(at, primary["effect"], low, high)


def _margin(body: Mapping[str, Any], primary: Mapping[str, Any] | None) -> float | None:
    if primary is None or primary["margin"] is None:
        return None
    spec = next((m for m in body["spec"]["metrics"] if m["name"] == primary["name"]), None)
    higher = spec is not None and spec["better"] == "higher"
    return -primary["margin"] if higher else primary["margin"]
