"""Which units each rehearsed rollout takes for the challenger's, what they add up to, and the harm that is put into them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipelines.core.manifest.model import Better, Metric
from pipelines.core.rollout.policy import Policy
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import Array
from pipelines.experiments.history import is_served
from pipelines.experiments.rehearsal_stage import RehearsalStage, Scene
from resources.lake.champion_history import kept_sums


class InjectedHarm(NamedTuple):
    """What is put into the challenger's units."""

    metric: str
    level: float
    """Of a share of units or answers that becomes an event; of a mean or a ratio how much worse it is."""


class Taken(NamedTuple):
    """What one side adds up to; the first axis is the rollout."""

    answers: Array
    """By tick: shape (rollouts, ticks, 2, 1 + served)."""
    units: Array
    """Cumulated in time: shape (rollouts, buckets + 1, 2)."""
    sums: tuple[Array, ...]
    """Of each metric, cumulated in time: shape (rollouts, buckets + 1, its sums)."""


class BothSides(NamedTuple):
    """Both sides at one share."""

    champion: Taken
    challenger: Taken


class Draws:
    """Which units each rollout takes at each share, and what they add up to."""

    def __init__(
        self,
        stage: RehearsalStage,
        scene: Scene,
        harms: Sequence[InjectedHarm | None],
        rng: np.random.Generator,
        policy: Policy,
    ) -> None:
        self._stage, self._scene, self._harms, self._rng = stage, scene, harms, rng
        # A larger share only adds units, as in a rollout.
        self._order = np.array([rng.permutation(stage.bins) for _ in harms]).reshape(len(harms), stage.bins)
        percents = [*shares_of(policy), *([baked_percent(policy)] if policy.bake else [])]
        self._every = [each.sum(axis=0) for each in (scene.answers, scene.units, *scene.sums)]
        self.every = self._every[0]
        self.shares = {percent: self._share(percent) for percent in percents}

    def _share(self, percent: float) -> BothSides:
        members = (self._order < round(percent * self._stage.bins / 100)).astype(float)
        scene = self._scene
        challenger = [_added(members, each) for each in (scene.answers, scene.units, *scene.sums)]
        champion = [every - mine for every, mine in zip(self._every, challenger, strict=True)]
        for row, harm in enumerate(self._harms):
            if harm is not None:
                answers, _, *sums = challenger
                self._put(harm, answers[row], [each[row] for each in sums])
        return BothSides(_taken(champion), _taken(challenger))

    def _put(self, harm: InjectedHarm, answers: Array, sums: Sequence[Array]) -> None:
        metrics = self._stage.metrics
        served = [metric.name for metric in metrics if is_served(metric)]
        if harm.metric in served:
            _harm_answers(self._rng, answers, 1 + served.index(harm.metric), harm.level)
        at = next(i for i, metric in enumerate(metrics) if metric.name == harm.metric)
        reference = self._scene.constants[at].reference
        names = kept_sums(self._stage.queries[at])
        _harm_sums(self._rng, sums[at], names, metrics[at], reference, harm.level)


def _taken(added: Sequence[Array]) -> Taken:
    answers, units, *sums = added
    return Taken(answers, _cumulated(units), tuple(_cumulated(each) for each in sums))


def _added(members: Array, table: Array) -> Array:
    """Over the bins of each rollout."""
    flat = members @ table.reshape(len(table), -1)
    return flat.reshape(len(members), *table.shape[1:])


def _cumulated(values: Array) -> Array:
    """Along the buckets, from 0 on."""
    return np.concatenate([np.zeros_like(values[:, :1]), np.cumsum(values, axis=1)], axis=1)


def _harm_answers(rng: np.random.Generator, answers: Array, column: int, level: float) -> None:
    """Of the answers that were none, a share become events; first ones are some of all."""
    every, first = answers[:, 0], answers[:, 1]
    spared = np.maximum(first[:, 0] - first[:, column], 0)
    others = np.maximum(every[:, 0] - every[:, column] - spared, 0)
    of_first = rng.binomial(np.round(spared).astype(np.int64), level)
    of_others = rng.binomial(np.round(others).astype(np.int64), level)
    first[:, column] += of_first
    every[:, column] += of_first + of_others


def _harm_sums(
    rng: np.random.Generator,
    sums: Array,
    names: Sequence[str],
    metric: Metric,
    reference: float,
    level: float,
) -> None:
    """In place; `sums` by bucket, with one column for each of `names`."""
    at = {name: names.index(name) for name in names}
    if metric.type.kind is EffectKind.PROPORTION:
        events = np.round(sums[:, at["sy"]]).astype(np.int64)
        if metric.better is Better.HIGHER:
            sums[:, at["sy"]] -= rng.binomial(events, level)
        else:
            free = np.maximum(np.round(sums[:, at["n"]]).astype(np.int64) - events, 0)
            sums[:, at["sy"]] += rng.binomial(free, level)
        return
    factor = 1 + (level if metric.better is Better.LOWER else -level)
    shift = (factor - 1) * reference
    # y is the value less its reference: factor * (y + reference) - reference.
    n, sy, syy = (sums[:, at[name]].copy() for name in ("n", "sy", "syy"))
    sums[:, at["sy"]] = factor * sy + shift * n
    sums[:, at["syy"]] = factor**2 * syy + 2 * factor * shift * sy + shift**2 * n
    if "syd" in at:
        sums[:, at["syd"]] *= factor
    if "sxy" in at:
        sums[:, at["sxy"]] = factor * sums[:, at["sxy"]] + shift * sums[:, at["sx"]]


def baked_percent(policy: Policy) -> float:
    """The promoted version's share during the bake."""
    return 100 - policy.holdback


def shares_of(policy: Policy) -> list[float]:
    """Of the steps before the promotion, in percent; a shadow step has none."""
    return [step for step in policy.ramp if step != "shadow"]
