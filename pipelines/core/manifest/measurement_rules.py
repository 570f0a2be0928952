"""Rules between the keys of metrics, data checks and drift."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from pipelines.core.manifest.document import Finding, shown
from pipelines.core.manifest.model import (
    Better,
    Check,
    DataChecks,
    Drift,
    Guardrail,
    Method,
    Metric,
    Primary,
    format_duration,
)
from pipelines.core.metric_types import TYPES, listed, needed_keys, owners, taken_keys

GATEWAY_THRESHOLDS_MS = (
    1, 2, 5, 10, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750,
    1000, 1500, 2000, 3000, 5000, 10000, 30000,
)  # fmt: skip
"""The upper bounds of the gateway's latency histogram: an SLO between two of them cannot be counted."""

ANSWERED = ("latency_ms", "status")
"""Columns of the prediction log beside a model's own, `predictions.<name>`: numbers, known with the answer."""

_SERVING = ("serving.errors", "serving.over_slo")

_DATA = re.compile(r"outcomes\.[A-Za-z_][A-Za-z0-9_]{0,62}|predictions\.(?P<column>.+)", re.DOTALL)

_SOURCES = "serving.errors, serving.over_slo, outcomes.<metric> or predictions.<column>"


def primary_findings(primary: Primary) -> Iterator[Finding]:
    """What is wrong with `experiment.primary`, places relative to it."""
    yield from _metric_findings(primary)
    if primary.mde <= 0:
        yield ("mde",), f"{primary.mde:g}: expected a change greater than 0, such as 5%"
    if primary.margin is not None:
        yield from _margin_findings(primary, primary.margin)


def guardrail_findings(guardrail: Guardrail) -> Iterator[Finding]:
    """What is wrong with one of `guardrails`, places relative to it."""
    yield from _metric_findings(guardrail)
    yield from _margin_findings(guardrail, guardrail.margin)


def _margin_findings(metric: Metric, margin: float) -> Iterator[Finding]:
    if margin <= 0:
        yield ("margin",), f"{margin:g}: expected a difference greater than 0, such as 0.5pp"
    elif margin >= 1 and metric.type.is_share:
        yield (
            ("margin",),
            f"{margin:g}: expected less than 1 (100pp) for a share; percentage points are written 5pp",
        )


def _metric_findings(metric: Metric) -> Iterator[Finding]:
    yield from _source_findings(metric)
    yield from _slo_findings(metric)
    for key in needed_keys():
        yield from _belongs(key, getattr(metric, key), key in metric.type.needs, owners(key))
    yield from _cap_findings(metric)
    yield from _missing_findings(metric)
    yield from _method_findings(metric)


def _source_findings(metric: Metric) -> Iterator[Finding]:
    if metric.source in _SERVING:
        if not metric.type.is_counted_by_answer:
            counted = listed(each for each in TYPES.values() if each.is_counted_by_answer)
            yield ("type",), f"{metric.type.name!r}: expected {counted} for source: {metric.source}"
        if metric.better is not Better.LOWER:
            yield ("better",), f"{metric.better.value!r}: expected 'lower' for source: {metric.source}"
    elif not _is_data(metric.source):
        yield ("source",), f"{shown(metric.source)}: expected {_SOURCES}"
    if metric.denominator is not None and not _is_data(metric.denominator):
        yield (
            ("denominator",),
            f"{shown(metric.denominator)}: expected predictions.<column> or outcomes.<metric>",
        )
    elif metric.denominator is not None and _column(metric.denominator) == _column(metric.source):
        yield (
            ("denominator",),
            f"{shown(metric.denominator)}: is what the metric measures, and their ratio is 1 whatever the version does;"
            " expected another source",
        )
    if metric.covariate is not None:
        yield from _covariate_findings(metric, metric.covariate)


def _column(source: str) -> str:
    """The source in one of its spellings: case does not count in columns, and an input need not say that it is one."""
    prefix, _, name = source.partition(".")
    return f"predictions.{name.lower().removeprefix('features.')}" if prefix == "predictions" else source


def _covariate_findings(metric: Metric, covariate: str) -> Iterator[Finding]:
    """What the version or its answer has had a part in would take the effect away with the noise."""
    prefix, _, column = covariate.partition(".")
    measured = [_column(source) for source in (metric.source, metric.denominator) if source is not None]
    if _column(covariate) in measured:
        yield ("covariate",), f"{shown(covariate)}: is what the metric measures; expected another column"
    elif (
        prefix != "predictions"
        or not _is_data(covariate)
        or column in ANSWERED
        or column.lower().startswith("outputs.")
    ):
        yield (
            ("covariate",),
            f"{shown(covariate)}: expected predictions.<input>, an input of the model: a covariate must be known"
            " before the answer",
        )


def input_name(written: str) -> str:
    """Of an input, which a manifest may write with or without `features.`."""
    return written.removeprefix("features.")


def slice_findings(slices: Sequence[str]) -> Iterator[Finding]:
    """Which part of the traffic a unit belongs to must be known before the answer, or the version had a part in it."""
    seen: dict[str, int] = {}
    for index, written in enumerate(slices):
        column = input_name(written)
        prefix = written.lower().partition(".")[0]
        if (
            prefix in ("outputs", "outcomes", "predictions", "serving")
            or column in ANSWERED
            or not (column.strip() and column.isprintable())
        ):
            yield (
                (index,),
                f"{shown(written)}: expected the name of an input of the model, such as carrier: a slice must be known before"
                " the answer",
            )
        elif column.lower() in seen:
            yield (index,), f"{shown(written)}: already in slices[{seen[column.lower()]}]"
        seen.setdefault(column.lower(), index)


def _is_data(source: str) -> bool:
    """A column may be called whatever a signature can call it, blanks and dots included."""
    found = _DATA.fullmatch(source)
    return found is not None and (found["column"] or "x").isprintable()


def _slo_findings(metric: Metric) -> Iterator[Finding]:
    wanted = metric.source == "serving.over_slo"
    yield from _belongs("slo", metric.slo, wanted, "source: serving.over_slo")
    if metric.slo is not None and metric.slo not in [
        timedelta(milliseconds=ms) for ms in GATEWAY_THRESHOLDS_MS
    ]:
        allowed = ", ".join(format_duration(timedelta(milliseconds=ms)) for ms in GATEWAY_THRESHOLDS_MS)
        yield ("slo",), f"{format_duration(metric.slo)!r}: expected one of {allowed}"


def _belongs(key: str, value: object, wanted: bool, owner: str) -> Iterator[Finding]:
    """`key` is required with its owner and refused without it."""
    if wanted and value is None:
        yield (key,), f"required key is missing: {owner} needs it"
    if not wanted and value is not None:
        yield (key,), f"only allowed with {owner}"


def _cap_findings(metric: Metric) -> Iterator[Finding]:
    if metric.cap is not None and metric.winsorise is not None:
        yield ("winsorise",), "only one of cap and winsorise may be given"
    for key in taken_keys():
        if getattr(metric, key) is not None and key not in metric.type.takes:
            yield (key,), f"only allowed with {owners(key)}, not {metric.type.name!r}"


def _missing_findings(metric: Metric) -> Iterator[Finding]:
    """What an answer tells is there with it, and a unit that does not return is no unit without a value."""
    read = [source for source in (metric.source, metric.denominator) if source is not None]
    if metric.missing is None:
        return
    if metric.type.is_seen_later:
        yield (
            ("missing",),
            f"{metric.missing.value!r}: not with type: {metric.type.name}, whose units return or do not",
        )
    elif not any(source.startswith("outcomes.") for source in read):
        yield (
            ("missing",),
            f"{metric.missing.value!r}: only allowed with source: outcomes.<metric>, not {shown(metric.source)}",
        )


def _method_findings(metric: Metric) -> Iterator[Finding]:
    if "looks" in metric.model_fields_set and metric.method is not Method.GROUP_SEQUENTIAL:
        yield ("looks",), "only allowed with method: group_sequential"


# Rules between the keys of data checks and drift.


_COLUMN = re.compile(r"^(features|outputs)\..+$")

_NEEDS = {
    "between": ("min", "max"),
    "mean_between": ("min", "max"),
    "in_set": ("values",),
    "matches": ("regex",),
}

_PARAMETERS = ("min", "max", "values", "regex")

_COMPILING_SECONDS = 2.0
"""For all patterns of a file. Ordinary ones take a millisecond, and the slowest a second each."""


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


def patient_check_findings() -> Callable[[Check], Iterator[Finding]]:
    """`check_findings` for the checks of one file, which gives up on patterns that cost too much to compile."""
    spent = 0.0

    def judge(check: Check) -> Iterator[Finding]:
        nonlocal spent
        if check.regex is not None and spent > _COMPILING_SECONDS:
            yield (
                ("regex",),
                f"{shown(check.regex)}: the patterns before this one took more than {_COMPILING_SECONDS:g} s to compile:"
                " expected simpler ones",
            )
            return
        began = time.monotonic()
        yield from check_findings(check)
        spent += time.monotonic() - began

    return judge


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
