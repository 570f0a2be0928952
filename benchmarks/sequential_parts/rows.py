"""One row of a benchmark's result, and exact binomial error of a simulated rate."""

from typing import Any

from scipy.stats import beta


def row(
    name: str, ours: float, reference: float, reference_is: str, unit: str, limit: float | None
) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 5),
        "reference": round(reference, 5),
        "reference_is": reference_is,
        "ratio": round(ours / reference, 4) if reference else None,
        "unit": unit,
        "limit": limit,
    }


def upper_95(hits: int, runs: int) -> float:
    """Clopper-Pearson upper end of the two-sided 95 % interval."""
    return 1.0 if hits == runs else float(beta.ppf(0.975, hits + 1, runs - hits))
