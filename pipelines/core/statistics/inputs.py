"""What the analyses accept: checks that name the place, the value and what is allowed."""

import math

import numpy as np
import numpy.typing as npt

from pipelines.core.errors import NotMeasured, RampgateError

Array = npt.NDArray[np.float64]
"""A float64 array; the docstring that mentions it says its shape."""


Flags = npt.NDArray[np.bool_]
"""An array of booleans; the docstring that mentions it says its shape."""


class ParameterError(RampgateError, ValueError):
    """A parameter of an analysis or a plan is outside its range: a mistake of the caller, not of the data."""


def require_between(name: str, value: float, low: float, high: float) -> float:
    """`value`, if low < value < high.

    Raises:
        ParameterError: names the parameter, its value and the open range.
    """
    if not (math.isfinite(value) and low < value < high):
        raise ParameterError(f"{name} == {value}, must be above {low:g} and below {high:g}")
    return value


def require_positive(name: str, value: float) -> float:
    """`value`, if it is finite and above 0.

    Raises:
        ParameterError: names the parameter and its value.
    """
    if not (math.isfinite(value) and value > 0):
        raise ParameterError(f"{name} == {value}, must be finite and above 0")
    return value


def require_counts(place: str, **counts: Array | float) -> None:
    """Every count must be finite and not negative.

    Raises:
        NotMeasured: names the place, the count and the first bad value.
    """
    for name, values in counts.items():
        array = np.asarray(values, dtype=np.float64)
        bad = array[~(np.isfinite(array) & (array >= 0))]
        if bad.size:
            raise NotMeasured(f"{place}: {name} == {bad.flat[0]}, must be finite and not negative")


def require_no_more(place: str, *, events: Array | float, trials: Array | float) -> None:
    """There cannot be more events than trials.

    Raises:
        NotMeasured: names the place and the first pair that breaks it.
    """
    events, trials = np.broadcast_arrays(np.asarray(events, float), np.asarray(trials, float))
    bad = events > trials * (1 + 1e-9)
    if bad.any():
        raise NotMeasured(f"{place}: {events[bad].flat[0]:g} events in {trials[bad].flat[0]:g} trials")
