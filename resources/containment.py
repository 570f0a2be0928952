"""Boundaries: what one model, alert or report raises ends there, is said, and stops nobody else."""

import logging
import os
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pipelines.errors import RampgateError
from resources.ledger import Ledger
from resources.platform_alerts import platform_alert
from resources.settings import ROOT

MOST_WORDS = 1000
"""Characters of an error in an alert."""


@dataclass
class Trouble:
    """What a boundary kept in; empty where nothing was raised."""

    words: str = ""


@contextmanager
def contained(
    ledger: Ledger, log: logging.Logger, *, where: str, model: str = ""
) -> Generator[Trouble, None, None]:
    """Whatever the block raises ends here: in the log with its traceback, and in one alert."""
    trouble = Trouble()
    try:
        yield trouble
    except Exception as error:  # noqa: BLE001 -- nobody foresaw it, so that no list of types would hold it
        trouble.words = f"{where}: {in_words(error)}"
        tell(ledger, log, error, where=where, model=model)


def tell(ledger: Ledger, log: logging.Logger, error: Exception, *, where: str, model: str = "") -> None:
    """Log an error nobody foresaw, and alert once about it. Raises nothing: both may be on the disk that is full."""
    say(log, logging.ERROR, f"{where}: {in_words(error)}", error)
    try:
        platform_alert(
            ledger, topic=f"error:{where}", title=f"{where} failed", body=in_words(error), model=model
        )
    except Exception as second:  # noqa: BLE001 -- see `contained`
        say(log, logging.ERROR, f"{where}: no alert could be written: {in_words(second)}")


def say(log: logging.Logger, level: int, message: str, error: Exception | None = None) -> None:
    """A line in the log, with the error's traceback; a log whose disk is full ends nothing."""
    with suppress(OSError, ValueError):
        log.log(level, "%s", message, exc_info=error)


def in_words(error: Exception) -> str:
    """The error's type, and its text where we or the system wrote it; of others where it was raised.

    What a library says may quote rows, and these words go into alerts and the ledger. The log has all of it.
    """
    kind = type(error).__name__
    if isinstance(error, RampgateError | OSError):
        return f"{kind}: {error}"[:MOST_WORDS]
    return f"{kind}{_place(error)}; its text is in the log"


def _place(error: Exception) -> str:
    """The last line of ours on the error's way."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [
        frame
        for frame in frames
        if frame.filename.startswith(f"{ROOT}{os.sep}") and ".venv" not in frame.filename
    ]
    return f" at {os.path.relpath(ours[-1].filename, ROOT)}:{ours[-1].lineno}" if ours else ""
