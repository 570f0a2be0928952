"""What a library raises over one column or check is said of that one; the others are judged."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from pipelines.core.errors import NotMeasured
from pipelines.core.manifest.model import Check, DataChecks
from pipelines.core.vocabulary import OnFail, Verdict
from resources.checks.columns import as_written
from resources.checks.data_docs import write_page
from resources.checks.expectations import (
    CheckResult,
    check_names,
    evaluate,
    read_result,
    refuse_unusable,
    unknown,
)

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


# Data checks on one window of the prediction log, run by Great Expectations.


SEED = 20260101
"""Samples are drawn the same way every time, so that a window checked twice says the same twice."""

_FLOOR = 0.5


@dataclass(frozen=True, kw_only=True)
class DataCheckReport:
    """What the data checks say about one window."""

    model: str
    window_start: datetime
    window_end: datetime
    rows: int
    rows_checked: int
    results: tuple[CheckResult, ...]
    page: Path | None
    """The Data Docs page; None where no check could run, or it could not be written."""
    unsaved: str = ""
    """Why the page could not be written."""
    incomplete: str = ""
    """Why the window could not be judged as a whole: it is unknown then, whatever was found in it."""

    @property
    def verdict(self) -> Verdict:
        """Fail if a check failed (one that only warns never does), else unknown if one is, else pass."""
        if self.incomplete:
            return Verdict.UNKNOWN
        verdicts = {r.verdict for r in self.results if r.on_fail is not OnFail.WARN}
        for worst in (Verdict.FAIL, Verdict.UNKNOWN):
            if worst in verdicts:
                return worst
        return Verdict.PASS

    @property
    def reason(self) -> str:
        """In words: what failed first, then what is unknown, warnings included."""
        if self.incomplete:
            return self.incomplete
        failed = [r.reason for r in self.results if r.verdict is Verdict.FAIL]
        if failed:
            return "; ".join(failed)
        unsure = [r.reason for r in self.results if r.verdict is Verdict.UNKNOWN]
        if unsure:
            return "; ".join(dict.fromkeys(unsure))
        return f"{len(self.results)} checks passed on {self.rows_checked:,} rows"


def default_checks(frame: pd.DataFrame) -> tuple[Check, ...]:
    """For a manifest that names none: every feature and output mostly has a value.

    Types were already enforced when the rows were loaded. A model may live with an optional feature that
    is always null, so an empty feature warns; an answered prediction without an output holds.
    """
    return tuple(
        Check(
            column=str(column), type="not_null", mostly=_FLOOR,
            on_fail=OnFail.WARN if str(column).startswith("features.") else OnFail.HOLD,
        )
        for column in frame.columns
        if str(column).startswith(("features.", "outputs."))
    )  # fmt: skip


def check_window(
    frame: pd.DataFrame,
    checks: DataChecks,
    *,
    model: str,
    window_start: datetime,
    window_end: datetime,
    docs_dir: Path,
    keep: int = 50,
) -> DataCheckReport:
    """Run a manifest's checks on a window's answered predictions (one row each).

    `docs_dir/<model>/` receives a Data Docs page that needs no network; the `keep` newest stay.
    A check that cannot run (missing column, wrong type, an exception) is unknown, never failed.
    """
    frame = as_written(frame, [check.column for check in checks.checks])
    planned = checks.checks or default_checks(frame)
    names = check_names(planned)
    sample = frame
    page, unsaved = None, ""
    if len(frame) < checks.min_rows:
        short = f"insufficient data: {len(frame)} rows, {checks.min_rows} needed"
        results = tuple(unknown(c, n, short, pending=True) for c, n in zip(planned, names, strict=True))
    else:
        if len(frame) > checks.sample_rows:
            sample = frame.sample(checks.sample_rows, random_state=SEED)
        results, record = _run(sample, planned, names, model)
        if record is not None:
            page, unsaved = _page(record, results, docs_dir, model=model, at=window_start, keep=keep)
    return DataCheckReport(
        model=model, window_start=window_start, window_end=window_end, rows=len(frame),
        rows_checked=len(sample), results=results, page=page, unsaved=unsaved,
    )  # fmt: skip


def unjudged(
    checks: DataChecks, why: str, *, model: str, window_start: datetime, window_end: datetime
) -> DataCheckReport:
    """The report on a window that is not whole in the lake: every check is unknown."""
    names = check_names(checks.checks)
    results = tuple(unknown(c, n, why) for c, n in zip(checks.checks, names, strict=True))
    return DataCheckReport(
        model=model, window_start=window_start, window_end=window_end, rows=0, rows_checked=0,
        results=results, page=None, incomplete=why,
    )  # fmt: skip


def _page(
    record: Any, results: Sequence[CheckResult], docs_dir: Path, *, model: str, at: datetime, keep: int
) -> tuple[Path | None, str]:
    """The page, or why it could not be written: that is no reason to lose the verdict."""
    try:
        return write_page(record, results, docs_dir, model=model, at=at, keep=keep), ""
    except Exception as error:  # noqa: BLE001 -- a full disk, or whatever the renderer makes of odd values
        return None, in_short(error)


def _run(
    frame: pd.DataFrame, checks: tuple[Check, ...], names: tuple[str, ...], model: str
) -> tuple[tuple[CheckResult, ...], Any | None]:
    results: dict[str, CheckResult] = {}
    usable: dict[str, Check] = {}
    for check, name in zip(checks, names, strict=True):
        try:
            refuse_unusable(check, frame)
        except NotMeasured as why:
            results[name] = unknown(check, name, str(why))
        else:
            usable[name] = check
    record, broken = as_many_as_possible(usable, lambda some: evaluate(frame, some, model))
    for name, why in broken.items():
        results[name] = unknown(usable[name], name, f"the check on {usable[name].column} broke: {why}")
    for outcome in record.results if record is not None else ():
        name = outcome.expectation_config.meta["check"]
        results[name] = read_result(usable[name], name, outcome)
    return tuple(results[name] for name in names), record
