"""One metric's cells, checked and in the forms that the tests read: strata and time-ordered buckets."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import Cell, EffectKind, Stratum, Sums
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.proportions import Buckets

MIN_TRIALS = 10.0
"""Buckets smaller than this are merged with the next of their step; a bucket of n loses 1/n of its information."""

_COUNTS = ("n", "syy", "sdd", "sxx")


class Columns(NamedTuple):
    """Cells of one metric, ordered by step and time."""

    metric: str
    steps: Array
    """Shape (cells,)."""
    champion: Array
    """Shape (cells, 10): the fields of Sums."""
    challenger: Array
    references: Array

    def strata(self) -> dict[int, Stratum]:
        """Per step, both variants' sums.

        Raises:
            NotMeasured: a reference that changes within a step.
        """
        return {int(step): self._stratum(step) for step in np.unique(self.steps)}

    def _stratum(self, step: float) -> Stratum:
        rows = self.steps == step
        references = np.unique(self.references[rows])
        if references.size > 1:
            raise NotMeasured(
                f"{self.metric}, step {step:g}: {references.size} reference values, must be one"
            )
        champion, challenger = (
            Sums(*map(float, a[rows].sum(axis=0))) for a in (self.champion, self.challenger)
        )
        return Stratum(champion, challenger, float(references[0]))

    def buckets(self) -> Buckets:
        """Trials and events of a proportion per bucket, small buckets merged within their step."""
        n1, n0 = self.challenger[:, 0], self.champion[:, 0]
        x1 = np.clip(self.challenger[:, 1] + self.references * n1, 0, n1)
        x0 = np.clip(self.champion[:, 1] + self.references * n0, 0, n0)
        ends = list(_ends(self.steps, n1, n0))
        if not ends:
            return Buckets(*(np.zeros(0) for _ in range(4)))
        starts = [0, *ends[:-1]]
        kept = max(ends)
        # reduceat sums each stretch from its start up to the next one.
        return Buckets(*(np.add.reduceat(column[:kept], starts) for column in (n1, x1, n0, x0)))


def columns(cells: Sequence[Cell], metric: str, kind: EffectKind) -> Columns:
    """This metric's cells, ordered and checked; no rows if there are none.

    Raises:
        NotMeasured: NaN, infinite or negative sums, more events than units, two cells for one bucket, or
            sums that no data can have.
    """
    chosen = sorted(
        (cell for cell in cells if cell.metric == metric), key=lambda cell: (cell.step, cell.bucket)
    )
    for one, two in pairwise(chosen):
        if (one.step, one.bucket) == (two.step, two.bucket):
            raise NotMeasured(f"{metric}, step {one.step}, bucket {one.bucket:g}: counted twice")
    made = Columns(
        metric=metric,
        steps=np.array([cell.step for cell in chosen], float),
        champion=np.array([cell.champion for cell in chosen], float).reshape(-1, len(Sums._fields)),
        challenger=np.array([cell.challenger for cell in chosen], float).reshape(-1, len(Sums._fields)),
        references=np.array([cell.reference for cell in chosen], float),
    )
    for variant, sums in (("champion", made.champion), ("challenger", made.challenger)):
        _check(f"{metric}, {variant}", sums, made.references, kind)
    return made


def _check(place: str, sums: Array, references: Array, kind: EffectKind) -> None:
    bad = ~np.isfinite(sums)
    if bad.any() or not np.isfinite(references).all():
        names = [name for name, column in zip(Sums._fields, bad.T, strict=True) if column.any()]
        raise NotMeasured(
            f"{place}: {', '.join(names) or 'reference'} not finite in {int(bad.any(1).sum())} bucket(s)"
        )
    for name in _COUNTS:
        column = sums[:, Sums._fields.index(name)]
        if (column < 0).any():
            raise NotMeasured(f"{place}: {name} == {column.min():g}, must not be negative")
    n, sy, syy = sums[:, 0], sums[:, 1], sums[:, 2]
    impossible = sy**2 > n * syy * (1 + 1e-9) + 1e-12
    if impossible.any():
        raise NotMeasured(
            f"{place}: (sum of y)^2 above n times sum of y^2 in {int(impossible.sum())} bucket(s)"
        )
    if kind.is_count:
        _check_events(place, n, sy + references * n)


def _check_events(place: str, n: Array, events: Array) -> None:
    slack = 1e-6 * (1 + n)
    outside = (events < -slack) | (events > n + slack)
    if outside.any():
        at = int(np.flatnonzero(outside)[0])
        raise NotMeasured(
            f"{place}: {events[at]:g} events in {n[at]:g} units, must be within 0 and the units"
        )


def _ends(steps: Array, n1: Array, n0: Array) -> Iterator[int]:
    """Where buckets end once small ones are merged: decided by steps and trials alone, never by events."""
    canary = champion = 0.0
    for row, (step, one, zero) in enumerate(zip(steps.tolist(), n1.tolist(), n0.tolist(), strict=True)):
        canary, champion = canary + one, champion + zero
        is_full = canary > 0 and champion > 0 and canary + champion >= MIN_TRIALS
        if is_full or (row + 1 < len(steps) and steps[row + 1] != step):
            yield row + 1
            canary = champion = 0.0
