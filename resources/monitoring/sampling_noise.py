"""How large a drift score can be by chance alone: a permutation null, family-wise over columns.

The score between two finite windows of one distribution is not zero; it shrinks with the square root of
the row count. Here the labels "reference" and "current" are shuffled (whole units where the assignment
was by unit), every column is scored again, and the thresholds are such that without drift any of the columns
passes its own with probability `FAMILY_WISE` (max-z, Westfall and Young 1993).
The assignment to a canary is randomised, so there the shuffle is the true null. Two windows in time are
not exchangeable, so there it is only a floor under a threshold from elsewhere.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from resources.monitoring.columns import Column

SHUFFLES = 400
FAMILY_WISE = 0.01
"""The chance that any column passes its threshold without drift, per comparison."""
_ROWS = 4000
_SEED = 20260102
_FEWEST = 20
"""Values of a column among the rows that are shuffled; fewer do not say what chance gives."""
_UNEVEN = 4.0
"""Deviations from the mean at which a column's score is reached by chance in `FAMILY_WISE` of the shuffles, from
which it is ruled by a few far values: of a score near normal it is 2.3."""

_ROUNDING = 1e-3
"""What Evidently's score and that of a shuffle may differ by: a score that chance reaches as well is no drift."""

Labels = NDArray[np.float32]
"""rows x shuffles: 1 where the row counts as current."""


def noise_thresholds(
    columns: Sequence[Column], *, units: tuple[pd.Series, pd.Series] | None = None
) -> tuple[float, ...]:
    """One threshold per column, in the units of its score; NaN for a column whose values do not tell.

    One column's values never spoil the threshold of another.
    `units` holds the unit ids of the reference and the current rows; rows of one unit stay together.
    Above 4,000 rows a sample is shuffled and the result scaled by the square root of the row counts.
    """
    if not columns:
        return ()
    sizes = len(columns[0].reference), len(columns[0].current)
    rng = np.random.default_rng(_SEED)
    clusters = _clusters(sizes, units)
    kept = _subset(sizes, clusters, rng)
    labels = _shuffles(clusters[kept], kept >= sizes[0], rng)
    scores = np.stack([_scores(column, kept, labels) for column in columns])
    shrink = np.sqrt(
        _per_row(sizes) / _per_row((int((kept < sizes[0]).sum()), int((kept >= sizes[0]).sum())))
    )
    return tuple(float(t) for t in _family_wise(scores) * shrink * (1 + _ROUNDING))


def _per_row(sizes: tuple[int, int]) -> float:
    return 1 / sizes[0] + 1 / sizes[1]


def _clusters(sizes: tuple[int, int], units: tuple[pd.Series, pd.Series] | None) -> NDArray[np.intp]:
    """Rows of one unit share a number; without units, or where a unit is on both sides, each row is alone."""
    alone = np.arange(sum(sizes))
    if units is None:
        return alone
    codes = pd.factorize(pd.concat(units, ignore_index=True))[0]
    codes = np.where(codes < 0, codes.max() + 1 + alone, codes)
    both = np.intersect1d(codes[: sizes[0]], codes[sizes[0] :])
    return alone if len(both) else pd.factorize(codes)[0]


def _subset(sizes: tuple[int, int], clusters: NDArray[np.intp], rng: np.random.Generator) -> NDArray[np.intp]:
    """Row numbers to shuffle: the smaller side whole if it fits, whole clusters, about `_ROWS` in all."""
    smaller = min(min(sizes), _ROWS // 2)
    keep: list[NDArray[np.intp]] = []
    for start, size in ((0, sizes[0]), (sizes[0], sizes[1])):
        mine = clusters[start : start + size]
        ids = np.unique(mine)
        share = min(1.0, (smaller if size == min(sizes) else _ROWS - smaller) / size)
        chosen = rng.permutation(ids)[: max(1, round(share * len(ids)))]
        keep.append(start + np.flatnonzero(np.isin(mine, chosen)))
    return np.concatenate(keep)


def _shuffles(clusters: NDArray[np.intp], current: NDArray[np.bool_], rng: np.random.Generator) -> Labels:
    """Random labels, as many current clusters as there are."""
    ids, first, rows = np.unique(clusters, return_index=True, return_inverse=True)
    mine = int(current[first].sum())
    drawn = np.zeros((len(ids), SHUFFLES), dtype=np.float32)
    for shuffle in range(SHUFFLES):
        drawn[rng.permutation(len(ids))[:mine], shuffle] = 1
    return drawn[rows]


def _scores(column: Column, kept: NDArray[np.intp], labels: Labels) -> NDArray[np.float64]:
    """The column's score under each shuffle."""
    values = pd.concat([column.reference, column.current], ignore_index=True).to_numpy()[kept]
    present = pd.notna(values)
    if present.sum() < _FEWEST:
        return np.full(labels.shape[1], np.nan)
    if column.method == "wasserstein":
        return _wasserstein(values[present].astype(np.float64), labels[present])
    return _jensen_shannon(values[present], labels[present])


def _wasserstein(values: NDArray[np.float64], labels: Labels) -> NDArray[np.float64]:
    """Area between the two distribution functions over the reference's standard deviation."""
    order = np.argsort(values, kind="stable")
    values, ours = values[order], labels[order]
    now = np.maximum(ours.sum(axis=0), 1)
    was = np.maximum(len(values) - ours.sum(axis=0), 1)
    gaps = np.cumsum(ours, axis=0)[:-1]
    gaps *= 1 / now + 1 / was
    gaps -= np.arange(1, len(values), dtype=np.float32)[:, None] / was
    area = np.diff(values).astype(np.float32) @ np.abs(gaps, out=gaps)
    centred = (values - values.mean()).astype(np.float32)
    mean = (centred.sum() - centred @ ours) / was
    square = ((centred**2).sum() - (centred**2) @ ours) / was
    return area / np.maximum(np.sqrt(np.maximum(square - mean**2, 0)), 1e-3)


def _jensen_shannon(values: NDArray[np.object_], labels: Labels) -> NDArray[np.float64]:
    codes, levels = pd.factorize(values)
    every = np.bincount(codes, minlength=len(levels)).astype(np.float64)[:, None]
    now = np.stack([labels[codes == level].sum(axis=0) for level in range(len(levels))]).astype(np.float64)
    was = every - now
    p, q = was / np.maximum(was.sum(axis=0), 1), now / np.maximum(now.sum(axis=0), 1)
    middle = (p + q) / 2
    return np.sqrt(np.maximum(_divergence(p, middle) + _divergence(q, middle), 0) / 2)


def _divergence(p: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio = np.divide(p, middle, out=np.ones_like(p), where=p > 0)
    return (p * np.log(ratio)).sum(axis=0)


def _family_wise(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per column (rows of `scores`): mean + z * deviation, with one z for all columns.

    A column that a few far values rule lands many deviations out whenever they change sides: with a part in the
    one z it would blind all the others. It gets the largest of its own scores instead.
    """
    told = np.isfinite(scores).all(axis=1)
    thresholds = np.full(len(scores), np.nan)
    thresholds[told] = scores[told].max(axis=1)
    mean, deviation = scores[told].mean(axis=1), scores[told].std(axis=1)
    z = (scores[told] - mean[:, None]) / np.where(deviation > 0, deviation, np.inf)[:, None]
    rank = math.ceil((SHUFFLES + 1) * (1 - FAMILY_WISE)) - 1
    even = np.sort(z, axis=1)[:, rank] <= _UNEVEN
    if even.any():
        shared = np.sort(z[even].max(axis=0))[rank]
        thresholds[np.flatnonzero(told)[even]] = (mean + shared * deviation)[even]
    return thresholds
