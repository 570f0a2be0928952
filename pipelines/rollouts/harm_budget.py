"""What the tests for harm of one rollout may spend, and who shares it."""

from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.statistics.look_spec import ErrorBudget
from pipelines.core.statistics.slices import PART as SLICES_PART


def harm_tests(manifest: RolloutManifest) -> int:
    """How many tests for harm share the rollout's error budget.

    What the serving side counts is tested on its live counters alone, everything else at the looks.
    """
    return 1 + len(manifest.guardrails)


BAKE_PART = 0.2
"""Of the error budget, what the bake may spend; the ramp has the rest. Without a bake it has all of it."""


def harm_budget(manifest: RolloutManifest, *, baking: bool = False, live: bool = False) -> ErrorBudget:
    """What the tests for harm may spend: the ramp's and the bake's together make the manifest's alpha.

    A bake has its part and no more, even where the manifest asks for none any more. `live`: what the live counters alone may
    spend; where the looks test slices of what they count, the rest is for that.
    """
    part = BAKE_PART if baking else 1 - BAKE_PART if manifest.bakes_for else 1.0
    if live and manifest.experiment.slices:
        part *= 1 - SLICES_PART
    return ErrorBudget(manifest.experiment.alpha * part, harm_tests(manifest))


def harm_boundary(manifest: RolloutManifest, *, baking: bool = False) -> float:
    """ln(m / alpha) of the live counters: one error budget over all tests for harm of the ramp, another over those of the bake."""
    return harm_budget(manifest, baking=baking, live=True).log_boundary
