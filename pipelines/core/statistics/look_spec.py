"""One error budget per rollout: however many guardrails watch it, a harmless version is safe.

The m harm tests of a rollout are told apart into parts: those that learn of a unit at the same moment and ask for the same.
Within a part the e-values are added up. The sum of k of them has a mean of at most k, so by Ville's inequality it ever
reaches m / alpha with probability k alpha / m at most, dependent metrics included; over all parts that is alpha (union bound). The
sum is never later than the largest of its e-values would be. Across parts nothing is added: what is fair given one part's past
need not be fair given what the other part knows already of the same units.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.inputs import ParameterError, require_between, require_positive
from pipelines.core.statistics.power import SequentialMethod


@dataclass(frozen=True)
class ErrorBudget:
    """alpha, shared equally among the harm tests of one rollout."""

    alpha: float = 0.05
    """Probability to roll back a harmless version, over the whole rollout."""
    tests: int = 1
    """m: every harm test of the rollout, live counters and outcomes alike; fixed when it starts."""

    def __post_init__(self) -> None:
        require_between("alpha", self.alpha, 0, 0.5)
        if self.tests < 1:
            raise ParameterError(f"tests == {self.tests}, must be at least 1")

    @property
    def alpha_each(self) -> float:
        """What one test may spend."""
        return self.alpha / self.tests

    @property
    def log_boundary(self) -> float:
        """ln(m / alpha): what a part's summed e-values must reach to call for a rollback."""
        return math.log(self.tests / self.alpha)

    def is_harm(self, log_e: float) -> bool:
        """Whether this ln e-value calls for a rollback by itself.

        Raises:
            NotMeasured: not a number.
        """
        if math.isnan(log_e):
            raise NotMeasured("error budget: a log e-value that is not a number")
        return log_e >= self.log_boundary

    def harmful(self, log_e_values: Mapping[str, float]) -> list[str]:
        """The names of the tests of one part that call for a rollback, the strongest evidence first.

        Their sum decides. Named are the strongest that it takes to reach the boundary, and all that reach it alone.

        Raises:
            NotMeasured: a value that is not a number.
            ParameterError: more values than the budget was made for.
        """
        if len(log_e_values) > self.tests:
            raise ParameterError(f"{len(log_e_values)} harm tests on a budget for {self.tests}")
        alone = sum(self.is_harm(value) for value in log_e_values.values())
        names = sorted(log_e_values, key=lambda name: -log_e_values[name])
        sums = np.logaddexp.accumulate([log_e_values[name] for name in names]).tolist() if names else []
        needed = next((count for count, total in enumerate(sums, 1) if self.is_harm(total)), 0)
        return names[: max(needed, alone)]


def log_sum(log_e_values: Iterable[float]) -> float:
    """ln of the sum of e-values, given their ln; -inf without any."""
    return float(np.logaddexp.reduce([-math.inf, *log_e_values]))


# What one look analyses: the metrics, their directions and margins, and the error it may spend.


class Direction(StrEnum):
    """Which way the metric should move."""

    LOWER = "lower"
    HIGHER = "higher"


class Conclusion(StrEnum):
    """What is known of the challenger on one metric."""

    BETTER = "better"
    NON_INFERIOR = "non-inferior"
    WORSE = "worse"
    NOT_YET = "not yet"


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """One metric of the look."""

    name: str
    kind: EffectKind
    better: Direction = Direction.LOWER
    is_primary: bool = False
    margin: float | None = None
    """Absolute: how much worse is still acceptable. Default: mde times the champion's value."""
    mde: float | None = None
    """Relative: the smallest change worth detecting."""
    baseline: float | None = None
    """The champion's value as known before the rollout; tunes the tests, never their validity."""
    planned_information: float | None = None
    """1 / variance of the effect at the planned end. Default: what the mde or margin needs."""
    method: SequentialMethod = SequentialMethod.ANYTIME
    past_fractions: tuple[float, ...] = ()
    """Group sequential: information fractions of the looks already taken, as `MetricLook` gave them."""
    use_covariate: bool = False
    """CUPED, from the x sums. Not for proportions, whose tests read counts."""
    part: str | None = ""
    """The part of the error budget's tests whose e-values this one's is added to; None: tested elsewhere, and shown here."""
    sliced_part: str | None = None
    """Where `part` is None: the part that the e-value of its slices is added to, which are tested here alone."""
    holds_back: bool = True
    """A promotion waits for its margin; not so for what only warns."""
    leaves_units_out: bool = False
    """Units without a value are not counted: as many must be left out at both versions, or nothing follows from the metric."""
    is_coarse: bool = False
    """Whether harm and the margin are all that is asked: of a proportion no interval is sought then, and no over-dispersion,
    which takes most of a look's time. Who is better is told as who is not worse."""

    def __post_init__(self) -> None:
        for name, value in (("margin", self.margin), ("mde", self.mde)):
            if value is not None:
                require_positive(f"{self.name}: {name}", value)
        if self.planned_information is not None:
            require_positive(f"{self.name}: planned_information", self.planned_information)
        if self.margin is None and self.mde is None:
            raise ParameterError(f"{self.name}: neither margin nor mde, must have at least one")
        if self.method.is_planned and self.planned_information is None:
            raise ParameterError(f"{self.name}: {self.method.replace('_', ' ')} needs planned_information")

    def harm_sign(self) -> int:
        """+1 where more is worse, -1 where less is."""
        return 1 if self.better is Direction.LOWER else -1


@dataclass(frozen=True, kw_only=True)
class LookSpec:
    """A rollout's experiment, as the analysis sees it."""

    metrics: tuple[MetricSpec, ...]
    """The primary and the guardrails."""
    alpha: float = 0.05
    harm_alpha: float | None = None
    """Of it, what the tests for harm may spend at these looks. Default: all of it."""
    tests: int | None = None
    """m of the error budget: every harm test of the rollout, also those on live counters. Default: the metrics."""
    shares: Mapping[int, float] = field(default_factory=dict[int, float])
    """The challenger's planned share of units per step, 0 to 1; without it the sample ratio is not checked."""
    srm_alpha: float = 0.01
    """Probability that a sound split is ever called broken; and, over all metrics together, that equal loss is called unequal."""
    loss_tests: int | None = None
    """Metrics of the rollout that leave units out. Default: those among `metrics`."""
    is_final: bool = False
    """The last look: group sequential tests spend what is left, the sample ratio gets its chi-square test."""

    def __post_init__(self) -> None:
        require_between("alpha", self.alpha, 0, 0.5)
        require_between("srm_alpha", self.srm_alpha, 0, 0.5)
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names) or not names:
            raise ParameterError(f"metrics {names}, must be at least one and all different")
        if sum(metric.is_primary for metric in self.metrics) > 1:
            raise ParameterError(f"metrics {names}: more than one primary")

    @property
    def loss_alpha(self) -> float:
        """What one metric's test for unequal loss may spend."""
        return self.srm_alpha / max(self.loss_tests or sum(m.leaves_units_out for m in self.metrics), 1)

    @property
    def budget(self) -> ErrorBudget:
        """The rollout's error budget, or its bake's."""
        alpha = self.alpha if self.harm_alpha is None else self.harm_alpha
        return ErrorBudget(alpha, self.tests or len(self.metrics))
