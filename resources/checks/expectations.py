"""A manifest's data checks as Great Expectations expectations, and their results as verdicts."""

import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, assert_never

import numpy as np
import pandas as pd

from pipelines.core.errors import NotMeasured
from pipelines.core.manifest.model import Check
from pipelines.core.vocabulary import OnFail, Verdict
from resources.checks.columns import kind_of, numbers, series
from resources.lake.connection import literal
from resources.registry.signature import ColumnKind

log = logging.getLogger(__name__)

_KIND = re.compile(r"[A-Za-z_][\w.]{0,99}(?=:|$)")
"""An exception's class, as the last line of its traceback begins."""

_LONGEST_TEXT = 10_000


_EXAMPLES = 5
"""Values of a column that a Data Docs page quotes."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What one data check says about one window."""

    name: str
    """Unique within the window and fit for a Dagster asset check: `features_distance__between`."""
    column: str
    verdict: Verdict
    observed: float | None
    """The mean for `mean_between`; otherwise the share of rows that satisfy the check."""
    expected: str
    unexpected_share: float | None
    on_fail: OnFail
    reason: str
    pending: bool = False
    """Unknown only because there is too little data yet."""


def check_names(checks: Sequence[Check]) -> tuple[str, ...]:
    """One name per check, in order; repeated ones are numbered: `features_distance__between_2`."""
    plain = [f"{re.sub(r'[^A-Za-z0-9]', '_', check.column)}__{check.type}" for check in checks]
    seen = Counter[str]()
    names: list[str] = []
    for name in plain:
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(names)


def _wanted(check: Check) -> str:
    match check.type:
        case "not_null":
            return "not null"
        case "unique":
            return "unique"
        case "between":
            return _interval(check)
        case "mean_between":
            return f"mean {_interval(check)}"
        case "in_set":
            return f"one of {', '.join(map(str, check.values or ()))}"
        case "matches":
            return f"matches {check.regex}"
        case _:
            assert_never(check.type)


def expected(check: Check) -> str:
    """The check in words: `between 0 and 5000 in at least 99 % of rows`."""
    what = _wanted(check)
    if check.type == "mean_between":
        return what
    return f"{what} in {'all rows' if check.mostly == 1 else f'at least {100 * check.mostly:.6g} % of rows'}"


def _interval(check: Check) -> str:
    if check.min is None:
        return f"at most {check.max:g}" if check.max is not None else "between two bounds"
    return f"at least {check.min:g}" if check.max is None else f"between {check.min:g} and {check.max:g}"


def refuse_unusable(check: Check, frame: pd.DataFrame) -> None:
    """Raise NotMeasured where the check cannot say anything about this frame.

    Great Expectations would answer some of these with success (all values null), some with failure
    (a regular expression on numbers), some with an exception that quotes the data.
    """
    if check.column not in frame:
        raise NotMeasured(f"no column {check.column!r}; available: {', '.join(map(str, frame.columns))}")
    values = series(frame, check.column)
    if check.type == "not_null":
        return
    if values.count() == 0:
        raise NotMeasured(f"{check.column} holds no values in this window")
    kind = kind_of(values)
    needed = needs(check, kind)
    if needed is not None:
        raise NotMeasured(f"{check.column} holds {kind}, {needed}")
    _refuse_incomplete(check)


def needs(check: Check, kind: ColumnKind) -> str | None:
    """What the check needs instead of values of this kind, in words; None where it can speak of them."""
    counts = kind.counts
    match check.type:
        case "not_null":
            return None
        case "unique":
            return "unique needs single values" if kind is ColumnKind.LISTS else None
        case "between" | "mean_between":
            return None if counts else f"{check.type} needs numbers"
        case "matches":
            return None if kind is ColumnKind.TEXT else "matches needs text"
        case "in_set":
            return _other_values(check, kind)
        case _:
            assert_never(check.type)


def _other_values(check: Check, kind: ColumnKind) -> str | None:
    """A number never equals a text: a set of the wrong kind says nothing about the data."""
    text, numbers = ColumnKind.TEXT, (ColumnKind.NUMBERS, ColumnKind.BOOLEANS)
    if kind is not text and kind not in numbers:
        return "in_set needs text or numbers"
    if any(isinstance(value, str) is (kind is text) for value in check.values or ()):
        return None
    return f"in_set needs {'text' if kind is text else 'numbers'} among its values"


def as_checked(values: pd.Series) -> pd.Series:
    """Booleans as 0 and 1, other numbers that pandas keeps as objects or would sum in single precision as double."""
    if values.dtype != object and values.dtype != np.float32 and not pd.api.types.is_bool_dtype(values):
        return values
    if not kind_of(values).counts:
        return values
    return numbers(values.astype(object)).astype(np.float64)


def in_precision(check: Check, values: pd.Series) -> Check:
    """The check with its numbers as the column can hold them: in single precision, 0.1 is more than 0.1."""
    if not pd.api.types.is_float_dtype(values):
        return check
    kept = {
        key: None if (bound := getattr(check, key)) is None else _held(bound, values)
        for key in ("min", "max")
    }
    return check.model_copy(
        update=kept | {"values": check.values and tuple(_held(v, values) for v in check.values)}
    )


def _held(value: Any, values: pd.Series) -> Any:
    if isinstance(value, str):
        return value
    with np.errstate(over="ignore"):
        held = float(np.asarray(value, dtype=np.float64).astype(values.to_numpy().dtype))
    return held if np.isfinite(held) else value


def _refuse_incomplete(check: Check) -> None:
    if check.type in ("between", "mean_between") and check.min is None and check.max is None:
        raise NotMeasured(f"{check.type} on {check.column} has neither min nor max")
    if check.type == "in_set" and not check.values:
        raise NotMeasured(f"in_set on {check.column} has no values")
    if check.type == "matches" and not check.regex:
        raise NotMeasured(f"matches on {check.column} has no regex")


def to_expectation(check: Check, name: str) -> Any:
    """The Great Expectations expectation; its `meta` carries the check's name back out of the result."""
    import great_expectations.expectations as gxe

    common: dict[str, Any] = {"column": check.column, "meta": {"check": name}}
    if check.type != "mean_between":
        common["mostly"] = check.mostly
    match check.type:
        case "not_null":
            return gxe.ExpectColumnValuesToNotBeNull(**common)
        case "unique":
            return gxe.ExpectColumnValuesToBeUnique(**common)
        case "between":
            return gxe.ExpectColumnValuesToBeBetween(min_value=check.min, max_value=check.max, **common)
        case "mean_between":
            return gxe.ExpectColumnMeanToBeBetween(min_value=check.min, max_value=check.max, **common)
        case "in_set":
            return gxe.ExpectColumnValuesToBeInSet(value_set=list(check.values or ()), **common)
        case "matches":
            _match_in_linear_time()
            return gxe.ExpectColumnValuesToMatchRegex(regex=str(check.regex), **common)
        case _:
            assert_never(check.type)


@cache
def _match_in_linear_time() -> None:
    """Have Great Expectations match by RE2: with pandas' own engine, one value can take hours."""
    from great_expectations.execution_engine import PandasExecutionEngine
    from great_expectations.expectations.metrics.map_metric_provider import (
        ColumnMapMetricProvider,
        column_condition_partial,
    )

    class ColumnValuesMatchRegex(ColumnMapMetricProvider):  # pyright: ignore[reportUnusedClass] -- registers itself
        condition_metric_name = "column_values.match_regex"
        condition_value_keys = ("regex",)

        @column_condition_partial(engine=PandasExecutionEngine)
        def _pandas(cls, column: pd.Series, regex: str, **_: Any) -> pd.Series:
            return matches(column, regex)


def matches(values: pd.Series, pattern: str) -> pd.Series:
    """Which texts hold a match of the RE2 `pattern`; one of more than 10,000 characters holds none.

    Raises `duckdb.Error` where the pattern is none.
    """
    import duckdb

    texts = pd.DataFrame({"place": np.arange(len(values)), "text": values.astype(str).to_numpy()})
    with duckdb.connect() as connection:
        connection.register("texts", texts)
        # As a literal it is compiled once, as a parameter once a row.
        found = f"length(text) <= {_LONGEST_TEXT} AND regexp_matches(left(text, {_LONGEST_TEXT}), {literal(pattern)})"
        query = f"SELECT {found} AS found FROM texts ORDER BY place"
        found = connection.execute(query).df()["found"]
    return pd.Series(found.to_numpy(dtype=bool), index=values.index)


def read_result(check: Check, name: str, outcome: Any) -> CheckResult:
    """One expectation's result (an ExpectationValidationResult) as a verdict."""
    broke = _exception(outcome.exception_info)
    if broke is not None:
        return unknown(check, name, f"the check on {check.column} broke: {broke}")
    if check.type == "mean_between":
        return _mean_result(check, name, outcome)
    return _row_result(check, name, outcome)


def unknown(check: Check, name: str, reason: str, *, pending: bool = False) -> CheckResult:
    return CheckResult(
        name=name, column=check.column, verdict=Verdict.UNKNOWN, observed=None, expected=expected(check),
        unexpected_share=None, on_fail=check.on_fail, reason=reason, pending=pending,
    )  # fmt: skip


def _mean_result(check: Check, name: str, outcome: Any) -> CheckResult:
    mean = outcome.result.get("observed_value")
    if mean is None or not math.isfinite(mean):
        return unknown(check, name, f"{check.column} has no finite mean in this window")
    says = f"mean of {check.column} is {float(mean):.6g}; expected {expected(check)}"
    return _decided(check, name, ok=bool(outcome.success), observed=float(mean), bad=None, reason=says)


def _row_result(check: Check, name: str, outcome: Any) -> CheckResult:
    percent = outcome.result.get("unexpected_percent")
    if percent is None:
        return unknown(check, name, f"{check.column} holds no values in this window")
    bad = float(percent) / 100
    count = int(outcome.result["unexpected_count"])
    says = f"{check.column}: {bad:.2%} of values ({count}) break the check; expected {expected(check)}"
    return _decided(check, name, ok=bool(outcome.success), observed=1 - bad, bad=bad, reason=says)


def _decided(
    check: Check, name: str, *, ok: bool, observed: float, bad: float | None, reason: str
) -> CheckResult:
    return CheckResult(
        name=name, column=check.column, verdict=Verdict.PASS if ok else Verdict.FAIL, observed=observed,
        expected=expected(check), unexpected_share=bad, on_fail=check.on_fail, reason=reason,
    )  # fmt: skip


def _exception(info: Mapping[str, Any]) -> str | None:
    """The kind of the first exception in an `exception_info`, flat or keyed by metric. Its text may quote data."""
    for entry in (info, *(value for value in info.values() if isinstance(value, Mapping))):
        if entry.get("raised_exception"):
            log.warning("%s", entry.get("exception_traceback") or entry.get("exception_message"))
            lines = str(entry.get("exception_traceback") or "").strip().splitlines()
            found = _KIND.match(lines[-1]) if lines else None
            return found[0] if found else "an error that the run's log tells"
    return None


def evaluate(frame: pd.DataFrame, checks: Mapping[str, Check], model: str) -> Any:
    """Great Expectations' own result object for these checks; nothing is kept outside memory."""
    import great_expectations as gx
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    window = context.data_sources.add_pandas("lake").add_dataframe_asset("predictions")
    columns = {check.column: series(frame, check.column) for check in checks.values()}
    expectations = [to_expectation(in_precision(c, columns[c.column]), name) for name, c in checks.items()]
    suite = gx.ExpectationSuite(model, expectations=expectations)
    checked = pd.DataFrame({name: as_checked(values) for name, values in columns.items()})
    batch = window.add_batch_definition_whole_dataframe("window").get_batch({"dataframe": checked})
    detail = {"result_format": "SUMMARY", "partial_unexpected_count": _EXAMPLES}
    # A mean that overflows comes back as infinite, which is unknown.
    with np.errstate(over="ignore", invalid="ignore"):
        return batch.validate(suite, result_format=detail)
