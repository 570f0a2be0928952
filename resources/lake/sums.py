"""Which of an experiment's sums are added up, and how the others follow from them: one rule for looks, slices and rehearsals."""

from collections.abc import Mapping
from typing import Any, assert_never

import numpy as np

from pipelines.core.metric_types import UnitValue
from pipelines.core.statistics.effects import Sums
from pipelines.core.statistics.inputs import Array


def added_up(kind: UnitValue, *, covariate: bool = False) -> tuple[str, ...]:
    """The fields of `Sums` that are not known from others: the square of 0 or 1 is itself, d is 1 but for a ratio, x is 0 without a
    covariate."""
    return (*_own(kind), *(("sx", "sxx", "sxy") if covariate else ()), *_both(kind, covariate))


def _own(kind: UnitValue) -> tuple[str, ...]:
    match kind:
        case UnitValue.ANY | UnitValue.RETURN:
            return ("n", "sy")
        case UnitValue.AMOUNT:
            return ("n", "sy", "syy")
        case UnitValue.RATIO:
            return ("n", "sy", "syy", "sd", "sdd", "syd")
        case _:
            assert_never(kind)


def _both(kind: UnitValue, covariate: bool) -> tuple[str, ...]:
    return ("sxd",) if kind is UnitValue.RATIO and covariate else ()


def terms(y: str, d: str, x: str) -> dict[str, str]:
    """SQL of each sum, given that of a unit's value, denominator and covariate."""
    return {
        "n": f"count({y})", "sy": f"sum({y})", "syy": f"sum(({y}) * ({y}))",
        "sd": f"sum({d})", "sdd": f"sum(({d}) * ({d}))", "syd": f"sum(({y}) * ({d}))",
        "sx": f"sum({x})", "sxx": f"sum(({x}) * ({x}))", "sxy": f"sum(({x}) * ({y}))", "sxd": f"sum(({x}) * ({d}))",
    }  # fmt: skip


def with_the_rest(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was added up (numbers, or arrays of one shape), with what follows from it; a field that is not there is 0."""
    n, sy = found["n"], found["sy"]
    follows = {"syy": sy, "sd": n, "sdd": n, "syd": sy} | ({"sxd": found["sx"]} if "sx" in found else {})
    return follows | dict(found)


def stacked(found: Mapping[str, Array]) -> Array:
    """The same as an array of all fields of `Sums`, shape (..., 10)."""
    every = with_the_rest(found)
    return np.stack([every.get(name, np.zeros_like(every["n"])) for name in Sums._fields], axis=-1)
