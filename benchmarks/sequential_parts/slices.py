"""Harm in a part of the traffic: how soon slices find it, whether they name the right one, and what they cost.

One guardrail of 20 is harmed, errors of 1 %, a canary of 10 %, one column with 50 values (and the two slices that every column has:
other values, and none). The benchmark's paths are what `look_at_slices` computes, many rollouts at once.
"""

import copy
import math
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.sequential_parts.paths import Paths
from benchmarks.sequential_parts.rows import row, upper_95
from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.effects import EffectKind, effects
from pipelines.core.statistics.look_spec import MetricSpec
from pipelines.core.statistics.sequences import are_enough, log_e_above, planned_scale
from pipelines.core.statistics.slices import (
    FEWEST_UNITS,
    PART,
    SliceColumn,
    Sliced,
    SliceSums,
    log_weights,
    look_at_slices,
)
from pipelines.core.statistics.starts import LATER, log_cash, log_started
from pipelines.experiments.slicing import packed
from resources.lake.buckets import collect
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, MetricQuery, Span, StepWindow
from resources.lake.schema import ensure_tables
from resources.registry.signature import Column, ModelSchema

ALPHA, GUARDRAILS, VALUES, BASE = 0.05, 20, 50, 0.01

BOUNDARY = GUARDRAILS / ALPHA

WEIGHT = float(np.exp(log_weights([SliceColumn("c", tuple(map(str, range(VALUES))))]))[0])

MOST = 1e200
"""Money from which no more is counted: the path is long over its boundary."""


class Planted(NamedTuple):
    """Harm in a share of the traffic."""

    share: float
    ratio: float
    requests: int
    """Of both versions between two looks."""
    looks: int


PLANTED = (
    Planted(0.01, 5.0, 10_000, 300),
    Planted(0.05, 5.0, 4_000, 250),
    Planted(0.2, 5.0, 1_000, 200),
    Planted(0.01, 2.0, 100_000, 300),
    Planted(0.05, 2.0, 20_000, 300),
    Planted(0.2, 2.0, 5_000, 300),
)


def rows(paths: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    yield from _times(50 * paths)
    runs = max(paths // 50, 100)
    for planted in PLANTED:
        yield from _planted(rng, planted, runs)
    for ratio, requests in ((5.0, 200), (2.0, 1_000)):
        yield from _everywhere(rng, ratio, requests, runs)
    for canary, base in ((0.1, 0.01), (0.5, 0.01)):
        yield _false_counts(rng, canary, base, max(paths // 50, 60))
    for sign in (1, -1):
        yield _false_means(rng, sign, max(paths // 100, 20))


class Found(NamedTuple):
    """Of each rollout: requests until it is found with slices and without (infinite: not in time), and what was said then."""

    sliced: np.ndarray
    whole: np.ndarray
    right: np.ndarray
    """Whether the slice with the most evidence was the harmed one."""
    local: np.ndarray
    """Whether it had more than all units together."""


def play(
    rng: np.random.Generator, shares: np.ndarray, ratios: np.ndarray, given: Planted, runs: int
) -> Found:
    """Rollouts with the slices' shares of traffic and rate ratios; the first slice is the harmed one."""
    n = len(shares)
    each, whole = Paths(runs * n), Paths(runs)
    found = Found(*(np.full(runs, math.inf) for _ in range(2)), *(np.zeros(runs, bool) for _ in range(2)))
    for look in range(1, given.looks + 1):
        n1 = rng.poisson(0.1 * given.requests * shares, (runs, n))
        n0 = rng.poisson(0.9 * given.requests * shares, (runs, n))
        x1, x0 = rng.binomial(n1, BASE * ratios), rng.binomial(n0, BASE)
        both = (n1 > 0) & (n0 > 0)
        share = np.where(both, n1 / np.maximum(n1 + n0, 1), 0.5)
        e = each.take((x1 * both).ravel(), (x0 * both).ravel(), share.ravel()).reshape(runs, n)
        all_units = whole.take(x1.sum(1), x0.sum(1), n1.sum(1) / (n1 + n0).sum(1))
        for path in (each, whole):
            np.minimum(path.mass, MOST, out=path.mass)
        first, at = e.argmax(axis=1), look * given.requests
        crossed = (1 - PART) * all_units + PART * WEIGHT * (e.sum(axis=1) + 2) >= BOUNDARY
        new = crossed & np.isinf(found.sliced)
        found.right[new] = first[new] == 0
        found.local[new] = (PART * WEIGHT * e.max(axis=1) > (1 - PART) * all_units)[new]
        found.sliced[new] = at
        found.whole[(all_units >= BOUNDARY) & np.isinf(found.whole)] = at
        if np.isfinite(found.sliced).all() and np.isfinite(found.whole).all():
            break
    return found


def _planted(rng: np.random.Generator, given: Planted, runs: int) -> Iterator[dict[str, Any]]:
    shares = np.full(VALUES, (1 - given.share) / (VALUES - 1))
    shares[0] = given.share
    ratios = np.ones(VALUES)
    ratios[0] = given.ratio
    found = play(rng, shares, ratios, given, runs)
    most = given.requests * given.looks
    ours, theirs = (np.minimum(times, most) for times in (found.sliced, found.whole))
    missed, never = (float(np.isinf(times).mean()) for times in (found.sliced, found.whole))
    what = f"{given.ratio:g}x in {100 * given.share:g} % of the traffic"
    yield row(
        f"requests until {what} is found (+-{ours.std() / math.sqrt(runs):.2g}; {100 * missed:.0f} % not within {most:,})",
        ours.mean(),
        theirs.mean(),
        f"without slices (+-{theirs.std() / math.sqrt(runs):.2g}; {100 * never:.0f} % not within {most:,}, counted as that)",
        "requests",
        round(float(theirs.mean()), 0),
    )
    wrong = int((~found.right).sum())
    yield row(
        f"another slice is named than the one that is harmed, {what}: upper 95 % bound",
        upper_95(wrong, runs),
        wrong / runs,
        f"the simulated rate itself, {runs} rollouts; in {100 * found.local.mean():.0f} % it is told that the harm is there alone",
        "share of rollouts",
        ALPHA,
    )


def _everywhere(rng: np.random.Generator, ratio: float, requests: int, runs: int) -> Iterator[dict[str, Any]]:
    """The price of slices where harm is in no slice alone."""
    given = Planted(1.0, ratio, requests, 400)
    found = play(rng, np.full(VALUES, 1 / VALUES), np.full(VALUES, ratio), given, runs)
    yield row(
        f"requests until {ratio:g}x in all of the traffic is found, with slices"
        f" (+-{found.sliced.std() / math.sqrt(runs):.2g})",
        found.sliced.mean(),
        found.whole.mean(),
        "without slices, on the same requests",
        "requests",
        round(1.1 * float(found.whole.mean()), 0),
    )
    yield row(
        f"harm of {ratio:g}x everywhere that is told to be in one slice: upper 95 % bound",
        upper_95(int(found.local.sum()), runs),
        float(found.local.mean()),
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _false_counts(rng: np.random.Generator, canary: float, base: float, runs: int) -> dict[str, Any]:
    """20 guardrails, 50 slices each: at 200 looks every 2,000 requests."""
    hits, at_once = 0, 20
    for begin in range(0, runs, at_once):
        hits += _crossed_once(rng, canary, base, min(at_once, runs - begin))
    return row(
        f"false rollback, {GUARDRAILS} guardrails x {VALUES} slices, counts at {100 * canary:g} %, base rate"
        f" {100 * base:g} %: upper 95 % bound",
        upper_95(hits, runs),
        hits / runs,
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _crossed_once(rng: np.random.Generator, canary: float, base: float, runs: int) -> int:
    shape = (runs, GUARDRAILS, VALUES)
    each, whole = Paths(math.prod(shape)), Paths(runs * GUARDRAILS)
    crossed = np.zeros(runs, bool)
    for _ in range(200):
        # All guardrails of a rollout are about the same requests.
        n1 = np.broadcast_to(rng.poisson(canary * 40, (runs, 1, VALUES)), shape)
        n0 = np.broadcast_to(rng.poisson((1 - canary) * 40, (runs, 1, VALUES)), shape)
        x1, x0 = rng.binomial(n1, base), rng.binomial(n0, base)
        both = (n1 > 0) & (n0 > 0)
        share = np.where(both, n1 / np.maximum(n1 + n0, 1), 0.5)
        e = _taken(each, (x1 * both).ravel(), (x0 * both).ravel(), share.ravel()).reshape(shape)
        units = n1.sum(2) / (n1 + n0).sum(2)
        all_units = whole.take(x1.sum(2).ravel(), x0.sum(2).ravel(), units.ravel())
        for path in (each, whole):
            np.minimum(path.mass, MOST, out=path.mass)
        mixed = (1 - PART) * all_units.reshape(runs, GUARDRAILS) + PART * WEIGHT * (e.sum(axis=2) + 2)
        crossed |= mixed.sum(axis=1) >= BOUNDARY
    return int(crossed.sum())


def _taken(paths: Paths, canary: np.ndarray, champion: np.ndarray, share: np.ndarray) -> np.ndarray:
    """`take`, where most paths have no event."""
    some = np.flatnonzero(canary + champion)
    part = copy.copy(paths)
    part.mass, part.events = paths.mass[some], paths.events[some]
    part.take(canary[some], champion[some], share[some])
    paths.mass[some], paths.events[some] = part.mass, part.events
    return paths.e


_LOOKS, _UNITS = 12, 30_000

_PLANNED = (_LOOKS * _UNITS * 0.1 * 0.9) / 40


def _false_means(rng: np.random.Generator, sign: int, runs: int) -> dict[str, Any]:
    """Revenue of which 2 % of the units have any, log-normal, at a canary of 10 %; a look every 30,000 units."""
    hits = sum(_mean_crosses(rng, sign) for _ in range(runs))
    return row(
        f"false rollback, {GUARDRAILS} guardrails x {VALUES} slices, skewed means at 10 %, harm is"
        f" {'more' if sign > 0 else 'less'}: upper 95 % bound",
        upper_95(hits, runs),
        hits / runs,
        f"the simulated rate itself, {runs} rollouts",
        "share of rollouts",
        ALPHA,
    )


def _mean_crosses(rng: np.random.Generator, sign: int) -> bool:
    units = np.array([0.9, 0.1])[:, None, None] * _UNITS / VALUES
    n = np.broadcast_to(
        rng.poisson(units, (2, _LOOKS, VALUES))[:, :, None, :], (2, _LOOKS, GUARDRAILS, VALUES)
    )
    sums = _purchases(rng, n)
    tau2 = planned_scale(alpha=ALPHA, information=_PLANNED)
    for look in range(1, _LOOKS + 1):
        seen = np.cumsum(sums[:, :look][:, ::-1], axis=1)[:, ::-1]
        whole = seen.sum(axis=3)
        e = np.exp(np.minimum(_mixed(seen, sign, tau2 * (VALUES + 2), FEWEST_UNITS), 50))
        all_units = np.exp(np.minimum(_mixed(whole, sign, tau2, 0.0), 50))
        mixed = (1 - PART) * all_units + PART * WEIGHT * (e.sum(axis=-1) + 2)
        if mixed.sum() >= BOUNDARY:
            return True
    return False


def _purchases(rng: np.random.Generator, n: np.ndarray) -> np.ndarray:
    """Sums over the units of each place: shape (*n.shape, 10)."""
    buyers = rng.binomial(n, 0.02)
    place = np.repeat(np.arange(n.size), buyers.ravel())
    spent = rng.lognormal(3, 1, place.size)
    found = np.zeros((n.size, 10))
    found[:, 1] = np.bincount(place, spent, n.size)
    found[:, 2] = np.bincount(place, spent**2, n.size)
    found[:, 0] = found[:, 3] = found[:, 4] = n.ravel()
    found[:, 5] = found[:, 1]
    return found.reshape(*n.shape, 10)


def _mixed(since: np.ndarray, sign: int, tau2: float, fewest: float) -> np.ndarray:
    """`log_e_above_since` of many paths at once; `since`: shape (2, buckets, *paths, 10)."""
    zero, one = (each.reshape(-1, 1, 10) for each in since)
    found = effects(zero, one, np.zeros(1), EffectKind.MEAN)
    enough = are_enough(found) & (np.minimum(found.champion_units, found.challenger_units) >= fewest)
    log_e = log_e_above(sign * found.value, np.where(enough, found.variance, 1.0), tau2)
    log_e = np.where(enough, log_e, 0.0).reshape(since.shape[1:-1])
    ticks = np.arange(len(log_e), dtype=float)
    started = log_started(ticks, ticks + 1, LATER)
    started[:1] = np.logaddexp(started[:1], math.log1p(-LATER))
    bets = np.logaddexp.reduce(started.reshape(-1, *[1] * (log_e.ndim - 1)) + log_e, axis=0)
    return np.logaddexp(bets, log_cash(float(len(log_e)), LATER))


# What a look at slices takes, from a real lake.


_START, _DAYS, _METRICS = datetime(2026, 1, 1, tzinfo=UTC), 14, 20

_COLUMN = SliceColumn("carrier", tuple(f"c{k}" for k in range(VALUES)))


def _times(requests: int) -> Iterator[dict[str, Any]]:
    """20 metrics, half shares and half means, of so many requests; the first look has to take in all of them."""
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(f"sqlite:{folder}/lake/catalog.db", f"{folder}/lake/data", Path(folder))
        _log(lake, requests)
        plain, sliced = _query(()), _query((_COLUMN,))
        took = {
            name: min(_seconds(lake, query) for _ in range(3))
            for name, query in (("p", plain), ("s", sliced))
        }
        batch = collect(lake, "benchmark", sliced).batch
    what = f"{requests:,} requests, {_METRICS} metrics"
    yield row(
        f"{what}, {VALUES} slices, from the lake to sums, s",
        took["s"],
        took["p"],
        "without slices",
        "s",
        3 * took["p"],
    )
    assert batch is not None
    stored = packed(batch, {metric.name: metric.kind for metric in sliced.metrics})
    room = sum(len(each.packed) for each in stored.sums)
    yield row(
        f"what a look at {what} and {VALUES} slices stores, kB",
        room / 1000,
        sum(sums.nbytes for sums in batch.sums.values()) / 1000,
        "the sums as they are in memory",
        "kB",
        60,
    )
    for batches, most in ((100, 3.0), (1_000, 20.0)):
        took_each = _analysed(batches)
        yield row(
            f"evidence of {_METRICS} metrics in {VALUES} slices after {batches:,} looks that added something, s",
            took_each,
            batches,
            "looks",
            "s",
            most,
        )


def _query(slices: tuple[SliceColumn, ...]) -> ExperimentQuery:
    end = _START + timedelta(days=_DAYS)
    metrics = tuple(
        MetricQuery(
            name=f"m{k}",
            kind=UnitValue.ANY if k % 2 else UnitValue.AMOUNT,
            source=f"predictions.outputs.o{k}",
        )
        for k in range(_METRICS)
    )
    return ExperimentQuery(
        champion="1",
        challenger="2",
        steps=(StepWindow(_START, end, 0),),
        metrics=metrics,
        outcome_window=timedelta(hours=1),
        watermark=end + timedelta(days=1),
        bucket=timedelta(minutes=20),
        slices=slices,
        sliced={metric.name: Span(None, end + timedelta(days=1)) for metric in metrics} if slices else {},
    )


def _log(lake: Lake, requests: int) -> None:
    outputs = [f"o{k}" for k in range(_METRICS)]
    schema = ModelSchema((Column("carrier", "string"),), tuple(Column(name, "double") for name in outputs))
    values = ", ".join(
        f"'{name}': {f'(hash(i, {k}) % 50 = 0)::DOUBLE' if k % 2 else f'(hash(i, {k}) % 1000)::DOUBLE'}"
        for k, name in enumerate(outputs)
    )
    with lake.connect() as connection:
        ensure_tables(lake, connection, "benchmark", schema)
        connection.execute(
            f"""INSERT INTO lake.benchmark.predictions BY NAME
            SELECT 'r' || i AS request_id, 0 AS "row", 'u' || i AS unit_id, 'b-1' AS revision,
                CASE WHEN hash(i) % 10 = 0 THEN '2' ELSE '1' END AS version, 'weighted' AS assignment,
                $start + to_microseconds(i * {_DAYS * 86_400_000_000 // requests}) AS requested_at, 3.0 AS latency_ms,
                200 AS status, {{'carrier': 'c' || (hash(i, 99) % {VALUES + 5})}} AS features, {{{values}}} AS outputs,
                's' AS segment
            FROM range({requests}) t(i)""",
            {"start": _START},
        )


def _seconds(lake: Lake, query: ExperimentQuery) -> float:
    begin = time.perf_counter()
    collect(lake, "benchmark", query)
    return time.perf_counter() - begin


def _analysed(batches: int) -> float:
    """Of one share and one mean, times ten."""
    rng, spent = np.random.default_rng(0), 0.0
    n0, n1 = (rng.poisson(mean, (VALUES + 2, batches)) for mean in (18, 2))
    for kind in (EffectKind.PROPORTION, EffectKind.MEAN):
        arms = []
        for n in (n0, n1):
            arm, events = np.zeros((VALUES + 2, batches, 10)), rng.binomial(n, 0.02)
            arm[..., [0, 3, 4]], arm[..., [1, 2, 5]] = n[..., None], events[..., None]
            arms.append(arm)
        spec = MetricSpec(name="m", kind=kind, margin=0.01)
        sliced = Sliced((_COLUMN,), {"m": SliceSums(np.zeros(batches), arms[0], arms[1])})
        begin = time.perf_counter()
        look_at_slices(spec, sliced, log_e=0.0, tau2=1e-4)
        spent += time.perf_counter() - begin
    return spent * _METRICS / 2
