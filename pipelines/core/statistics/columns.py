"""One metric's cells, checked and in the forms that the tests read: strata and time-ordered buckets."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import (
    Cell,
    EffectColumns,
    EffectKind,
    Stratum,
    Sums,
    adjust,
    effects,
    pooled_theta,
    stratified_effect,
)
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.proportions import Buckets
from pipelines.core.statistics.sequences import are_enough, is_enough, log_e

MIN_TRIALS = 10.0
"""Buckets smaller than this are merged with the next of their step; a bucket of n loses 1/n of its information."""

_COUNTS = ("n", "syy", "sdd", "sxx")


STRETCHES = 24
"""Of time, in which differences are compared with each other."""


_APART, _APART_ALPHA = 0.1, 0.01
"""Difference between the versions' covariates that is looked for, in standard deviations, and the probability of finding one in vain."""


class Dispersion(NamedTuple):
    """The variance of the difference between stretches of time."""

    ratio: float
    """Over what independent units would give."""
    p: float
    """How likely chance alone gives so much."""


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

    def adjusted(self, kind: EffectKind) -> "Columns":
        """CUPED: y less what the covariate explains, by one slope over all steps and both variants."""
        strata = self.strata()
        theta = pooled_theta(list(strata.values()), kind)
        mean = {step: _mean_covariate(stratum) for step, stratum in strata.items()}
        means = np.array([mean[int(step)] for step in self.steps])
        if theta == 0:
            return self
        champion, challenger = (_adjusted(a, theta, means) for a in (self.champion, self.challenger))
        return self._replace(champion=champion, challenger=challenger)

    def is_balanced(self) -> bool:
        """Whether the covariate is as large at both versions, as far as one can tell: what was known before the answer is."""
        strata = [Stratum(_covariate(s.champion), _covariate(s.challenger)) for s in self.strata().values()]
        effect = stratified_effect(strata, EffectKind.MEAN)
        if effect is None or not is_enough(effect):
            return True
        n1, n0 = effect.challenger_units, effect.champion_units
        scale = (_APART**2) * effect.variance * n1 * n0 / (n1 + n0)
        return log_e(effect.value, effect.variance, scale) < -math.log(_APART_ALPHA)

    def effects_since(self, kind: EffectKind) -> EffectColumns:
        """The effect of each cell and all that come after it, over their steps; shape (cells,) each."""
        _, first = np.unique(self.steps, return_index=True)
        ends = [*first[1:].tolist(), len(self.steps)]
        spans = list(zip(first.tolist(), ends, strict=True))
        champion, challenger = (_sums_since(a, spans) for a in (self.champion, self.challenger))
        return effects(champion, challenger, self.references[first], kind)

    def dispersion(self, kind: EffectKind) -> "Dispersion | None":
        """How the difference varies over some `STRETCHES` stretches of time; None where fewer than half can be judged.

        Cochran's Q over its degrees of freedom: about 1 where units are independent and the effect is the same at all times.
        """
        from scipy.special import chdtrc

        rows = np.arange(len(self.steps))
        marks = np.stack([self.steps, rows * STRETCHES // max(len(rows), 1)])
        starts = np.flatnonzero(np.r_[True, (np.diff(marks) != 0).any(axis=0)])[: len(rows)]
        if not starts.size:
            return None
        zero, one = (np.add.reduceat(a, starts, axis=0)[:, None] for a in (self.champion, self.challenger))
        found = effects(zero, one, self.references[starts, None], kind)
        judged = are_enough(found)
        free = int(judged.sum()) - 1
        if 2 * (free + 1) < STRETCHES:
            return None
        value, weight = found.value[judged], 1 / found.variance[judged]
        q = float((weight * (value - np.average(value, weights=weight)) ** 2).sum())
        return Dispersion(q / free, float(chdtrc(free, q)))

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


def _covariate(sums: Sums) -> Sums:
    """The covariate in the value's place."""
    return Sums(n=sums.n, sy=sums.sx, syy=sums.sxx, sd=sums.n, sdd=sums.n, syd=sums.sx)


def _mean_covariate(stratum: Stratum) -> float:
    units = stratum.champion.n + stratum.challenger.n
    return (stratum.champion.sx + stratum.challenger.sx) / units if units else 0.0


def _adjusted(sums: Array, theta: float, means: Array) -> Array:
    rows: Any = sums.T
    return np.array(adjust(Sums(*rows), theta, cast(Any, means))).T


def _sums_since(sums: Array, spans: Sequence[tuple[int, int]]) -> Array:
    """Shape (cells, steps, 10): what comes from each cell on, in each step."""
    found = np.zeros((len(sums), len(spans), sums.shape[1]))
    for place, (start, end) in enumerate(spans):
        since = np.cumsum(sums[start:end][::-1], axis=0)[::-1]
        found[start:end, place] = since
        found[:start, place] = since[0]
    return found


def columns(cells: Sequence[Cell], metric: str, kind: EffectKind) -> Columns:
    """This metric's cells, ordered and checked; no rows if there are none. Cells without a counted unit say nothing.

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
    chosen = [cell for cell in chosen if cell.champion.n != 0 or cell.challenger.n != 0]
    return _checked(
        Columns(
            metric=metric,
            steps=np.array([cell.step for cell in chosen], float),
            champion=np.array([cell.champion for cell in chosen], float).reshape(-1, len(Sums._fields)),
            challenger=np.array([cell.challenger for cell in chosen], float).reshape(-1, len(Sums._fields)),
            references=np.array([cell.reference for cell in chosen], float),
        ),
        kind,
    )


def table_of(
    metric: str, steps: Array, champion: Array, challenger: Array, reference: float, kind: EffectKind
) -> Columns:
    """The same from arrays in the order of time, shapes (cells,) and (cells, 10). Raises NotMeasured as `columns`."""
    kept = (champion[:, 0] != 0) | (challenger[:, 0] != 0)
    references = np.full(int(kept.sum()), reference)
    return _checked(Columns(metric, steps[kept], champion[kept], challenger[kept], references), kind)


def _checked(table: Columns, kind: EffectKind) -> Columns:
    for variant, sums in (("champion", table.champion), ("challenger", table.challenger)):
        _check(f"{table.metric}, {variant}", sums, table.references, kind)
    return table


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
