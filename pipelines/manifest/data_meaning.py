"""Rules between the keys of data checks and drift."""

import re
from collections.abc import Iterator

from pipelines.manifest.model import Check, DataChecks, Drift
from pipelines.manifest.problem import Finding, shown

_COLUMN = re.compile(r"^(features|outputs)\..+$")
_NEEDS = {
    "between": ("min", "max"),
    "mean_between": ("min", "max"),
    "in_set": ("values",),
    "matches": ("regex",),
}
_PARAMETERS = ("min", "max", "values", "regex")


def check_findings(check: Check) -> Iterator[Finding]:
    """What is wrong with one of `data_checks.checks`, places relative to it."""
    yield from column_findings(("column",), check.column)
    needed = _NEEDS.get(check.type, ())
    if needed and all(getattr(check, key) is None for key in needed):
        yield (needed[0],), f"required key is missing: type: {check.type} needs {' or '.join(needed)}"
    for key in _PARAMETERS:
        if key not in needed and getattr(check, key) is not None:
            owners = " or ".join(kind for kind, keys in _NEEDS.items() if key in keys)
            yield (key,), f"only allowed with type: {owners}, not {check.type!r}"
    yield from _value_findings(check)


def drift_findings(drift: Drift) -> Iterator[Finding]:
    """What is wrong with `drift`, places relative to it."""
    for index, column in enumerate(drift.columns):
        yield from column_findings(("columns", index), column)
        if column in drift.columns[:index]:
            yield ("columns", index), f"{shown(column)}: already in columns[{drift.columns.index(column)}]"
    yield from row_findings(drift)


def row_findings(window: DataChecks | Drift) -> Iterator[Finding]:
    """No more rows than `sample_rows` are ever looked at."""
    if window.min_rows > window.sample_rows:
        yield (
            ("min_rows",),
            f"{window.min_rows}: expected at most sample_rows, which is {window.sample_rows},"
            " or no window ever has enough",
        )


def column_findings(place: tuple[str | int, ...], column: str) -> Iterator[Finding]:
    """A column is `features.<name>` or `outputs.<name>`."""
    if not _COLUMN.match(column):
        yield place, f"{shown(column)}: expected features.<name> or outputs.<name>"


def _value_findings(check: Check) -> Iterator[Finding]:
    if check.min is not None and check.max is not None and check.min > check.max:
        yield ("min",), f"{check.min:g}: expected at most max, which is {check.max:g}"
    if check.values is not None and not check.values:
        yield ("values",), "(): expected at least one value"
    if check.type == "mean_between" and "mostly" in check.model_fields_set:
        yield ("mostly",), "only allowed with checks on rows, not 'mean_between'"
    if check.regex is not None:
        wrong = _not_linear(check.regex)
        if wrong:
            yield (
                ("regex",),
                f"{shown(check.regex)}: expected a regular expression of RE2, which has no lookaround, backreferences or"
                f" repetitions beyond 1000: {wrong}",
            )


def _not_linear(pattern: str) -> str | None:
    """Why RE2 does not take it; None where it does. RE2 takes time that grows with the text alone, whatever the pattern."""
    import duckdb

    try:
        duckdb.execute("SELECT regexp_matches('', $pattern)", {"pattern": pattern}).fetchone()
    except (duckdb.Error, UnicodeError) as error:
        return str(error).removeprefix("Invalid Input Error: ").splitlines()[0]
    return None
