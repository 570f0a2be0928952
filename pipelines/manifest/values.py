"""The small values a manifest is written in: durations (`15m`), shares (`5%`, `0.5pp`), steps."""

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
MAX_DURATION_SECONDS = 520 * 604800
_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*$")


def parse_duration(value: Any) -> timedelta:
    """`250ms`, `15m`, `2h`, `7d` as a timedelta."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("expected a duration such as 250ms, 30s, 15m, 2h, 7d or 1w")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > MAX_DURATION_SECONDS:
        raise ValueError("expected a duration of at most 520w")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as the same value: 24 h is `1d`."""
    milliseconds = round(value.total_seconds() * 1000)
    for unit in ("w", "d", "h", "m", "s"):
        whole, rest = divmod(milliseconds, round(_UNITS[unit] * 1000))
        if whole and not rest:
            return f"{whole}{unit}"
    return f"{milliseconds}ms"


def _suffixed(suffix: str, scale: float, example: str) -> Any:
    pattern = re.compile(rf"^\s*(-?\d+(?:\.\d+)?)\s*{re.escape(suffix)}\s*$")

    def parse(value: Any) -> float:
        match = pattern.match(value) if isinstance(value, str) else None
        if match is not None:
            return float(match[1]) * scale
        if isinstance(value, float | int) and not isinstance(value, bool):
            return float(value)
        raise ValueError(f"expected a number with the unit {suffix!r}, such as {example}")

    return parse


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": "string", "pattern": _DURATION.pattern, "examples": ["250ms", "15m", "7d"]}),
]
RelativeChange = Annotated[
    float,
    BeforeValidator(_suffixed("%", 0.01, "5%")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["5%", 0.05]}),
]
"""A share of the champion's value: `5%` is 0.05."""
Margin = Annotated[
    float,
    BeforeValidator(_suffixed("pp", 0.01, "0.5pp")),
    WithJsonSchema({"type": ["string", "number"], "examples": ["0.5pp", 0.005]}),
]
"""An absolute difference: `0.5pp` is 0.005; a bare number is in the metric's own unit."""


def _step(value: Any) -> Any:
    if value == "shadow" or (isinstance(value, float | int) and not isinstance(value, bool)):
        return value
    raise ValueError("expected a percentage such as 10, or shadow")


Step = Annotated[
    Literal["shadow"] | Annotated[float, WithJsonSchema({"type": "number"})], BeforeValidator(_step)
]
"""A share of traffic in percent, or `shadow`: a copy of live traffic whose answers reach nobody."""
