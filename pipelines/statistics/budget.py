"""One error budget per rollout: however many guardrails watch it, a harmless version is safe.

Each of m harm tests may be wrong with probability alpha / m; by the union bound, a harmless version is
ever rolled back with probability alpha at most, at any number of looks, dependent metrics included.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.errors import NotMeasured
from pipelines.statistics.inputs import ParameterError, require_between


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
        """ln(m / alpha): the ln e-value from which a test calls for a rollback."""
        return math.log(self.tests / self.alpha)

    def is_harm(self, log_e: float) -> bool:
        """Whether this ln e-value calls for a rollback.

        Raises:
            NotMeasured: not a number.
        """
        if math.isnan(log_e):
            raise NotMeasured("error budget: a log e-value that is not a number")
        return log_e >= self.log_boundary

    def harmful(self, log_e_values: Mapping[str, float]) -> list[str]:
        """The names of the tests that call for a rollback, the strongest evidence first.

        Raises:
            NotMeasured: a value that is not a number.
            ParameterError: more values than the budget was made for.
        """
        if len(log_e_values) > self.tests:
            raise ParameterError(f"{len(log_e_values)} harm tests on a budget for {self.tests}")
        crossed = [name for name, value in log_e_values.items() if self.is_harm(value)]
        return sorted(crossed, key=lambda name: -log_e_values[name])
