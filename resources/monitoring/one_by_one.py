"""What a library raises over one column or check is said of that one; the others are judged."""

import logging
from collections.abc import Callable, Mapping
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


def as_many_as_possible(
    items: Mapping[str, T], run: Callable[[Mapping[str, T]], R]
) -> tuple[R | None, dict[str, str]]:
    """`run` on all items, or on those that it takes; and of each that it does not take, why.

    The result is None where it takes none of them.
    """
    done, why = _tried(items, run)
    if why is None:
        return done, {}
    alone = {name: _tried({name: item}, run)[1] for name, item in items.items()}
    broken = {name: told for name, told in alone.items() if told is not None}
    left = {name: item for name, item in items.items() if name not in broken}
    if not left:
        return None, broken
    done, why = _tried(left, run)
    return done, broken if why is None else broken | dict.fromkeys(left, why)


def in_short(error: Exception) -> str:
    """The exception's kind. Its text, which may quote data, goes to the log of the run and nowhere else."""
    log.warning("%s", type(error).__name__, exc_info=error)
    return (
        f"OSError: {error.strerror}"
        if isinstance(error, OSError) and error.strerror
        else type(error).__name__
    )


def _tried(items: Mapping[str, T], run: Callable[[Mapping[str, T]], R]) -> tuple[R | None, str | None]:
    try:
        return run(items), None
    except Exception as error:  # noqa: BLE001 -- the libraries have no common root, and any value may be the one
        return None, in_short(error)
