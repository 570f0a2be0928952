"""A rehearsal: rollouts of this manifest on the champion's own last weeks, of the same version, and of one with harm put in.

A random choice of units takes the challenger's place. The looks, the live tests, the budgets and the rules are those of a rollout;
it is looked at when a step is a sixth older than at the look before, where a rollout looks every `look_every`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pipelines.core.manifest.model import Guardrail, Metric
from pipelines.core.rollout.policy import Policy
from pipelines.core.vocabulary import OnFail
from pipelines.experiments.rehearsal_draws import Draws, InjectedHarm
from pipelines.experiments.rehearsal_rollout import Rehearsed, RehearsedRollout
from pipelines.experiments.rehearsal_stage import RehearsalStage

SAME, HARMED = 50, 10
"""Rollouts of the same version, and of each harm."""

LEVELS = (0.01, 0.05, 0.2)

_SEED = 20261128


class RehearsedVersion(NamedTuple):
    """All rollouts of one version."""

    harm: InjectedHarm | None
    """None: the same version."""
    rollouts: tuple[Rehearsed, ...]

    def of(self, *ends: str) -> int:
        return sum(each.end in ends for each in self.rollouts)

    @property
    def found(self) -> tuple[Rehearsed, ...]:
        return tuple(each for each in self.rollouts if each.found)

    def days(self, quantile: float = 0.5) -> float | None:
        """Until the promotion, of those that were promoted; None without any."""
        times = [each.seconds / 86400 for each in self.rollouts if each.end in ("promoted", "undone")]
        return float(np.quantile(times, quantile)) if times else None

    def seconds(self, quantile: float = 0.5) -> float | None:
        """Until harm was found, where it was; None where it never was."""
        times = [each.seconds for each in self.found]
        return float(np.quantile(times, quantile)) if times else None

    @property
    def hit(self) -> float | None:
        """Units or answers that were harmed until it was found; the median."""
        return float(np.median([each.hit for each in self.found])) if self.found else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Rehearsal:
    """What a rehearsal found."""

    stage: RehearsalStage
    same: RehearsedVersion
    harmed: tuple[RehearsedVersion, ...]


def rehearse(
    stage: RehearsalStage,
    *,
    same: int = SAME,
    harmed: int = HARMED,
    levels: Sequence[float] = LEVELS,
    seed: int = _SEED,
) -> Rehearsal:
    """Play the rollouts. Seeded: the same history, the same answer.

    Args:
        stage: what is played.
        same: rollouts of the same version.
        harmed: rollouts of each metric and level of harm; metrics that only warn are left out.
        levels: see `InjectedHarm`.
        seed: of the random numbers.
    """
    harms = [InjectedHarm(m.name, level) for m in stage.metrics if _rolls_back(m) for level in levels]
    wanted: list[InjectedHarm | None] = [None] * same + [harm for harm in harms for _ in range(harmed)]
    found: dict[InjectedHarm | None, list[Rehearsed]] = {harm: [] for harm in (None, *harms)}
    policy, rng = rehearsed_policy(stage), np.random.default_rng(seed)
    for number in range(stage.starts):
        scene = stage.scene(number)
        mine = wanted[number :: stage.starts]
        draws = Draws(stage, scene, mine, rng, policy)
        for row, harm in enumerate(mine):
            found[harm].append(RehearsedRollout(stage, scene, policy, draws, row, harm).played())
    return Rehearsal(
        stage=stage,
        same=RehearsedVersion(None, tuple(found[None])),
        harmed=tuple(RehearsedVersion(harm, tuple(found[harm])) for harm in harms),
    )


def _rolls_back(metric: Metric) -> bool:
    return not isinstance(metric, Guardrail) or metric.on_fail is not OnFail.WARN


def rehearsed_policy(stage: RehearsalStage) -> Policy:
    """The manifest's, without what no history tells: shadow steps, validation, approvals; shares as whole bins of units."""
    whole = [
        step if step == "shadow" else max(round(step * stage.bins / 100), 1) * 100 / stage.bins
        for step in stage.manifest.steps
    ]
    return replace(
        Policy.of(stage.manifest),
        steps=tuple(step for step in whole if step != "shadow"),
        validate=False,
        dry_run=False,
        approval="none",
    )
