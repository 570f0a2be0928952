"""One root finder for monotone functions: slow, certain, without derivatives."""

from collections.abc import Callable


def crossing(
    rises: Callable[[float], float], low: float, high: float, *, steps: int = 80, tolerance: float = 1e-12
) -> float:
    """Where a function that is negative at `low` and positive at `high` changes its sign, by bisection.

    Args:
        rises: the function; only its sign is used.
        low, high: the bracket, low < high.
        steps: at most this many halvings.
        tolerance: stop once the bracket is this small relative to its size at the start.
    """
    width = high - low
    for _ in range(steps):
        middle = 0.5 * (low + high)
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
        if high - low <= tolerance * width:
            break
    return 0.5 * (low + high)
