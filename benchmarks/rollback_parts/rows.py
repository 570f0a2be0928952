"""Rows of the result, and what they are made of."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Row = dict[str, Any]

ALONE = "the gateway alone: set_canary_percent(0), same percentile"


class NotMeasurable(Exception):
    """What should have come did not come."""


def row(
    name: str,
    ours: float,
    *,
    limit: float | None,
    reference: float | None = None,
    reference_is: str | None = None,
    unit: str = "s",
) -> Row:
    """One figure; less is better, and `limit` is the most that it may be."""
    return {
        "name": name,
        "ours": round(ours, 5),
        "reference": None if reference is None else round(reference, 5),
        "reference_is": reference_is,
        "ratio": round(ours / reference, 2) if reference else None,
        "unit": unit,
        "limit": limit,
    }


def percentiles(
    name: str,
    ours: Sequence[float],
    limits: Mapping[int, float | None],
    *,
    reference: Sequence[float],
    reference_is: str = ALONE,
) -> list[Row]:
    """A row for each percentile of `limits`, each beside the same one of the reference."""
    return [
        row(
            f"{name}: p{p}",
            percentile(ours, p),
            limit=limit,
            reference=percentile(reference, p),
            reference_is=reference_is,
        )
        for p, limit in limits.items()
    ]


def percentile(values: Sequence[float], percent: int) -> float:
    """The nearest rank: a measured value, and of few values the largest stands for the highest."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def seconds(start: datetime, end: datetime) -> float:
    """From one to the other."""
    return round((end - start) / timedelta(seconds=1), 3)


def held(found: Row) -> str:
    """Whether the row is within its limit, in a word."""
    if found["limit"] is None:
        return ""
    return "ok" if found["ours"] <= found["limit"] else f"ABOVE {found['limit']:g}"
