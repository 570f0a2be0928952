"""How soon others' documented default rules find harm, and how often they stop a harmless version: the same counts for all.

100 requests a second, 10 % of them at the canary, one guardrail on errors, steps of an hour. Each rule gets the counters of
every five seconds; ours is looked at after each.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from benchmarks.sequential_parts.peer_rules import (
    Bucket,
    PeerAction,
    Series,
    argo_rollouts,
    flagger,
    growthbook,
)
from benchmarks.sequential_parts.rows import row
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts

ALPHA = 0.05

EVERY = timedelta(seconds=5)

RATE, SHARE = 100, 0.1

BEGUN = datetime(2026, 1, 1, tzinfo=UTC)

LONGEST = 720.0
"""Minutes."""

WALD = "the two-arm Wald test that knows the ratio, on the same counts"

Rule = Callable[[Sequence[Bucket]], float | None]
"""Minutes until a rule acts on these buckets; None where it does not."""


def rows(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    for base, ratio in ((0.01, 2.0), (0.01, 5.0), (0.001, 5.0)):
        yield from _found(rng, base, ratio, runs)
    for base in (0.01, 0.001):
        yield from _stopped(rng, base, runs)


def rules(ratio: float) -> dict[str, Rule]:
    """Ours, Wald's for that ratio, and the others'."""
    return {
        "Rampgate": _ours,
        "Wald": lambda buckets: _wald(buckets, ratio),
        "GrowthBook at every minute": lambda buckets: _by(
            growthbook, buckets, step=timedelta(minutes=1), every=timedelta(minutes=1)
        ),
        "GrowthBook": lambda buckets: _by(growthbook, buckets),
        "Flagger": lambda buckets: _by(flagger, buckets),
        "Argo Rollouts": lambda buckets: _by(argo_rollouts, buckets),
    }


def _found(rng: np.random.Generator, base: float, ratio: float, runs: int) -> Iterator[dict[str, Any]]:
    """Harm from the first request on; who has not acted after twelve hours counts with twelve."""
    found = _acted(rng, base, base * ratio, runs, rules(ratio))
    minutes = {name: np.array([LONGEST if t is None else t for t in times]) for name, times in found.items()}
    ours = minutes.pop("Rampgate")
    error = ours.std() / math.sqrt(runs)
    for name, theirs in minutes.items():
        never = sum(each is None for each in found[name])
        tail = f", does not act within 12 h in {never / runs:.0%}" * bool(never)
        limit = 1.34 * theirs.mean() if name == "Wald" else theirs.mean()
        yield row(
            f"minutes to detection, {ratio:g}x of {100 * base:g} % errors (+-{error:.2g}), beside {name}",
            ours.mean(),
            theirs.mean(),
            f"{WALD if name == 'Wald' else name}{tail} (+-{theirs.std() / math.sqrt(runs):.2g})",
            "minutes",
            round(limit, 5),
        )


def _stopped(rng: np.random.Generator, base: float, runs: int) -> Iterator[dict[str, Any]]:
    """How often `false_rollback` tells precisely of ours; here beside the others."""
    found = _acted(rng, base, base, runs, rules(2.0))
    shares = {name: sum(each is not None for each in times) / runs for name, times in found.items()}
    for name in sorted(shares.keys() - {"Rampgate", "Wald"}):
        yield row(
            f"harmless versions stopped within 12 h, {100 * base:g} % errors, {runs} rollouts, beside {name}",
            shares["Rampgate"],
            shares[name],
            name,
            "share of rollouts",
            None,
        )


def _acted(
    rng: np.random.Generator, champion: float, canary: float, runs: int, by: Mapping[str, Rule]
) -> dict[str, list[float | None]]:
    """Each rule's minutes, in `runs` rollouts that all of them see."""
    found: dict[str, list[float | None]] = {name: [] for name in by}
    for _ in range(runs):
        buckets = _counted(rng, champion, canary, timedelta(minutes=LONGEST))
        for name, rule in by.items():
            found[name].append(rule(buckets))
    return found


def _counted(
    rng: np.random.Generator, champion: float, canary: float, lasting: timedelta
) -> tuple[Bucket, ...]:
    number = int(lasting / EVERY)
    ours, theirs = (rng.poisson(RATE * EVERY.total_seconds() * each, number) for each in (SHARE, 1 - SHARE))
    bad, theirs_bad = rng.binomial(ours, canary), rng.binomial(theirs, champion)
    columns = (each.tolist() for each in (ours, bad, theirs, theirs_bad))
    return tuple(
        Bucket(BEGUN + EVERY * k, *map(float, each)) for k, each in enumerate(zip(*columns, strict=True), 1)
    )


def _ours(buckets: Sequence[Bucket]) -> float | None:
    process = ConditionalBinomial()
    for bucket in buckets:
        process = process.observe(Counts(*bucket[1:]))
        if process.log_e >= math.log(1 / ALPHA):
            return _after(bucket.at)
    return None


def _wald(buckets: Sequence[Bucket], ratio: float) -> float | None:
    log_e = 0.0
    for at, n1, x1, n0, x0 in buckets:
        log_e += x1 * math.log(ratio) - (x1 + x0) * math.log1p((ratio - 1) * n1 / (n1 + n0))
        if log_e >= math.log(1 / ALPHA):
            return _after(at)
    return None


def _by(rule: Callable[..., PeerAction], buckets: Sequence[Bucket], **settings: timedelta) -> float | None:
    series = [Series(name="errors", kind="errors", buckets=tuple(buckets))]
    at = rule(series, begun=BEGUN, ended=buckets[-1].at, **settings).at
    return None if at is None else _after(at)


def _after(at: datetime) -> float:
    return (at - BEGUN) / timedelta(minutes=1)
