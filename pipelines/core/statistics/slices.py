"""Harm in a part of the traffic: each metric's bet is spread over all units together and over slices of them.

A metric's harm e-value is (1 - PART) E_all + PART sum of w_s E_s. E_s is the same bet on the units of one slice alone; the weights
are fixed before anything of a unit's outcome is known and add up to 1. Every term is an e-process given all units that were final
before, whichever slice they are in, and so is their convex combination (with what is not staked yet as cash): the error
budget, the sum over metrics and the boundary stay as they are. Harm that is everywhere pays ln(1 / (1 - PART)) for it, harm in one of
n slices ln(n / PART), however little of the traffic the slice is.

Which slices there are depends on who asked, never on what came of it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import numpy as np

from pipelines.core.statistics.binomial import last_log_e
from pipelines.core.statistics.columns import Columns, table_of
from pipelines.core.statistics.effects import EffectKind, stratified_effect
from pipelines.core.statistics.inputs import Array, ParameterError
from pipelines.core.statistics.look_spec import MetricSpec
from pipelines.core.statistics.sequences import AsymptoticSequence, are_enough

PART = 0.2
"""Of a metric's money, what lies on slices: harm that is everywhere is found some 3 % later for it."""

MOST_VALUES = 50
"""Of a column; all further ones together are one slice."""

MOST_NAMED = 5

FEWEST_UNITS = 200.0
"""Of either version in a slice, from which a mean is judged: the boundary is far out in a tail, where few units are not normal yet."""

TOLD = 3.0
"""Evidence, the price of all slices paid, from which a slice is named in words."""


class Slice(NamedTuple):
    """The units with one value of one column when they were first seen."""

    column: str
    value: str | None
    """None: without a value, or any other one."""
    is_other: bool = False

    @property
    def words(self) -> str:
        if self.is_other:
            return f"{self.column} is any other value"
        if self.value is None:
            return f"{self.column} is missing"
        plain = self.value.isprintable() and self.value.strip() == self.value != ""
        return f"{self.column} is {self.value if plain else repr(self.value)}"


class SliceColumn(NamedTuple):
    """A column that units are told apart by, with the values that are slices of their own."""

    name: str
    values: tuple[str, ...]

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Each value, then all others together, then the units without one."""
        named = (Slice(self.name, value) for value in self.values)
        return (*named, Slice(self.name, None, is_other=True), Slice(self.name, None))


def slices_of(columns: Sequence[SliceColumn]) -> tuple[Slice, ...]:
    """All slices, column after column: the order of `SliceSums`."""
    return tuple(each for column in columns for each in column.slices)


def log_weights(columns: Sequence[SliceColumn]) -> Array:
    """ln of each slice's part of the money on slices, shape (slices,): columns share alike, and so do the slices of one."""
    shares = [np.full(len(c.slices), 1 / len(c.slices) / len(columns)) for c in columns]
    return np.log(np.concatenate(shares)) if shares else np.zeros(0)


class SliceSums(NamedTuple):
    """One metric's sums in every slice, in batches: units of one step that became final together. Shares of traffic do not
    change within a step, so that a batch may be pooled whatever the base rate did meanwhile."""

    steps: Array
    """Shape (batches,), in the order of time."""
    champion: Array
    """Shape (slices, batches, 10): the fields of Sums."""
    challenger: Array
    reference: float = 0.0


@dataclass(frozen=True)
class Sliced:
    """What a look knows of slices."""

    columns: tuple[SliceColumn, ...]
    sums: Mapping[str, SliceSums]
    """By metric; one that is not there has nothing in any slice yet."""


class NamedSlice(NamedTuple):
    """A slice with evidence of harm, and what was found in it."""

    where: Slice
    log_e: float
    """ln of its e-value times its part of the money: the price of looking at all slices is paid."""
    champion: float
    challenger: float
    champion_units: float
    challenger_units: float
    share: float
    """Of the metric's units."""


@dataclass(frozen=True)
class SliceLook:
    """One metric's slices at one look."""

    log_e: float
    """ln of the weighted sum of their e-values; 0 is what it begins with."""
    count: int
    named: tuple[NamedSlice, ...]
    """With evidence of 1 to 1 or more, the strongest first."""
    is_local: bool
    """The first of them has more evidence than all units together, each as it is weighted: the harm is there, and not everywhere."""
    boundary: float | None = None
    """Where all units are tested elsewhere: what the slices' part of the evidence must reach by itself or with other metrics'."""
    together: float | None = None
    """ln of the sum with the other metrics' e-values, where it takes this one to reach the boundary."""

    @property
    def value(self) -> float:
        """ln of the slices' part of the metric's evidence."""
        return math.log(PART) + self.log_e

    @property
    def is_crossed(self) -> bool:
        if self.boundary is None:
            return False
        return max(self.value, -math.inf if self.together is None else self.together) >= self.boundary

    def mixed(self, log_e: float) -> float:
        """ln of the whole metric's evidence, given that of all its units together."""
        return float(np.logaddexp(math.log1p(-PART) + log_e, self.value))


def look_at_slices(spec: MetricSpec, sliced: Sliced, *, log_e: float, tau2: float | None) -> SliceLook:
    """The metric's evidence slice by slice.

    Args:
        spec: the metric; anytime, since what is looked at by plan has no e-value to be mixed.
        sliced: the slices and their sums.
        log_e: ln of the evidence on all units together.
        tau2: of the asymptotic sequence on all units, for means and ratios; None where it has no scale yet.

    Raises:
        NotMeasured: sums that no data can have.
        ParameterError: sums of other slices than the columns have.
    """
    slices, weights = slices_of(sliced.columns), log_weights(sliced.columns)
    sums = sliced.sums.get(spec.name)
    if sums is None or not slices:
        return SliceLook(0.0, len(slices), (), is_local=False)
    if len(sums.champion) != len(slices):
        raise ParameterError(f"{spec.name}: sums of {len(sums.champion)} slices, must be {len(slices)}")
    tables = [_table(spec, sums, place) for place in range(len(slices))]
    sizes = [float(len(c.slices)) for c in sliced.columns for _ in c.slices]
    found = np.array([_log_e(spec, *each, tau2) for each in zip(tables, sizes, strict=True)])
    weighted = weights + found
    # Each column's slices hold all units.
    units = (sums.champion[:, :, 0].sum() + sums.challenger[:, :, 0].sum()) / len(sliced.columns)
    order = [int(place) for place in np.argsort(-weighted, kind="stable")[:MOST_NAMED]]
    chosen = [place for place in order if weighted[place] >= 0]
    named = [
        each
        for place in chosen
        if (each := _named(spec, slices[place], tables[place], float(weighted[place]), units)) is not None
    ]
    local = bool(named) and math.log(PART) + named[0].log_e > math.log1p(-PART) + log_e
    return SliceLook(float(np.logaddexp.reduce(weighted)), len(slices), tuple(named), is_local=local)


def _table(spec: MetricSpec, sums: SliceSums, place: int) -> Columns:
    return table_of(
        spec.name, sums.steps, sums.champion[place], sums.challenger[place], sums.reference, spec.kind
    )


def _log_e(spec: MetricSpec, table: Columns, size: float, tau2: float | None) -> float:
    """A proportion's is exact at any size. A mean's bets on effects as large as a slice of average size can show."""
    if not len(table.steps):
        return 0.0
    match spec.kind:
        case EffectKind.PROPORTION:
            return _counted(spec, table)
        case EffectKind.MEAN | EffectKind.RATIO:
            return 0.0 if tau2 is None else _measured(spec, table, tau2 * size)
        case _:
            assert_never(spec.kind)


def _counted(spec: MetricSpec, table: Columns) -> float:
    buckets, more_is_worse = table.buckets(), spec.harm_sign() > 0
    if spec.baseline is not None and spec.baseline > 0.5:
        buckets, more_is_worse = buckets.complement(), not more_is_worse
    return last_log_e(*(buckets if more_is_worse else buckets.swapped()))


def _measured(spec: MetricSpec, table: Columns, tau2: float) -> float:
    found = table.effects_since(spec.kind)
    few = np.minimum(found.champion_units, found.challenger_units) < FEWEST_UNITS
    if few.all() or not are_enough(found).any():
        return 0.0
    # What is too small to be judged is a bet that has not begun.
    judged = found._replace(variance=np.where(few, 0.0, found.variance))
    return AsymptoticSequence(tau2).log_e_above_since(judged, spec.harm_sign())


def _named(spec: MetricSpec, where: Slice, table: Columns, log_e: float, units: float) -> NamedSlice | None:
    effect = stratified_effect(list(table.strata().values()), spec.kind)
    if effect is None:
        return None
    here = effect.champion_units + effect.challenger_units
    return NamedSlice(
        where,
        log_e,
        effect.champion,
        effect.challenger,
        effect.champion_units,
        effect.challenger_units,
        float(here / units),
    )
