"""Mean number of events until a regression is found, against Wald's test that knows its size.

Wald's is exact: at a constant share its likelihood ratio depends on (events, canary events) alone, so the distribution of
the stopping time follows by recursion over the events. Ours remembers when it staked what, and is simulated.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.sequential_parts.late import delays
from benchmarks.sequential_parts.rows import row

ALPHA = 0.05

RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 50.0)

MOST_EVENTS = 30_000


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for share in (0.01, 0.1, 0.5):
        for ratio in RATIOS:
            yield from _compared(rng, paths, share, ratio, guardrails=1)
    for ratio in RATIOS:
        yield from _compared(rng, paths, 0.1, ratio, guardrails=20)


def _compared(
    rng: np.random.Generator, paths: int, share: float, ratio: float, guardrails: int
) -> Iterator[dict[str, Any]]:
    p = share * ratio / (1 - share + share * ratio)
    information = p * math.log(p / share) + (1 - p) * math.log((1 - p) / (1 - share))
    boundary = math.log(guardrails / ALPHA)
    horizon = int(8 * boundary / information + 50)
    if horizon > MOST_EVENTS:
        return
    found = delays(rng, share=share, ratio=ratio, boundary=math.exp(boundary), paths=paths)
    ours, error = found.mean(), found.std() / math.sqrt(paths)
    known = _mean_events(math.log(ratio), share, boundary, p, horizon)
    name = f"events to detection, {ratio:g}x at {100 * share:g} %, {guardrails} guardrails (+-{error:.2g})"
    limit = 1.34 if ratio <= 5 else None
    yield row(name, ours, known, "two-arm Wald test that knows the ratio, exact", "events", limit)
    wald = boundary / information
    yield row(
        f"{name} (approximation)", ours, wald, "Wald's approximation, without overshoot", "events", None
    )


def _mean_events(d: float, share: float, boundary: float, p: float, horizon: int) -> float:
    """Mean of the stopping time, cut at the horizon, by forward recursion over the canary's events."""
    slope = math.log1p(share * math.expm1(d))
    alive, width, critical, mean = np.zeros(horizon + 2), 1, 0, 0.0
    alive[0] = 1.0
    for events in range(1, horizon + 1):
        mean += float(alive[:width].sum())
        alive[1 : width + 1] = alive[1 : width + 1] * (1 - p) + alive[:width] * p
        alive[0] *= 1 - p
        width = min(width + 1, horizon + 1)
        while critical <= events and critical * d - events * slope < boundary:
            critical += 1
        alive[critical:width] = 0.0
        width = min(width, critical)
    return mean
