"""Two windows made ready to compare, column by column."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import pandas as pd

_LEVELS = 50
_RARE = 5
_FINE = 1e-3
"""Below this standard deviation Evidently's normed distance divides by a constant and goes blind."""
_LONG = 60
OTHER = "(rare)"
MISSING = " is null"


@dataclass(frozen=True, kw_only=True)
class Column:
    """One comparison: a column's values, or which of them are null."""

    column: str
    """The column as the manifest names it."""
    label: str
    """The column in the report: the same, or `<column> is null`."""
    method: Literal["wasserstein", "jensenshannon"]
    reference: pd.Series
    current: pd.Series
    """Numbers for `wasserstein`, strings for `jensenshannon`; nulls kept."""
    note: str = ""
    """What a reader should know: constant, new categories, rescaled."""

    @property
    def of_nulls(self) -> bool:
        return self.label.endswith(MISSING)


def prepare(
    reference: pd.DataFrame, current: pd.DataFrame, wanted: Sequence[str]
) -> tuple[tuple[Column, ...], dict[str, str]]:
    """What can be compared, and for each column that cannot be, why.

    Nulls are compared as a column of their own: distances ignore them, and a column that went missing
    is the drift that hurts most.
    """
    ready: list[Column] = []
    skipped: dict[str, str] = {}
    for name in wanted:
        why = _why_not(name, reference, current)
        if why is not None:
            skipped[name] = why
            continue
        was, now = _clean(series(reference, name)), _clean(series(current, name))
        if was.isna().any() or now.isna().any():
            ready.append(_nulls(name, was, now))
        if now.count():
            ready.append(_numbers(name, was, now) if _is_number(was) else _categories(name, was, now))
    return tuple(ready), skipped


def comparable(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[str, ...]:
    """Every feature and output that either side has, in the reference's order, then the new ones."""
    every = dict.fromkeys([*map(str, reference.columns), *map(str, current.columns)])
    return tuple(name for name in every if name.startswith(("features.", "outputs.")))


def series(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column, typed."""
    return cast(pd.Series, frame[name])


def _why_not(name: str, reference: pd.DataFrame, current: pd.DataFrame) -> str | None:
    for side, frame in (("reference", reference), ("current", current)):
        if name not in frame:
            return f"not in the {side} window"
    was, now = series(reference, name), series(current, name)
    if was.count() == 0:
        return "no values in the reference window"
    if pd.api.types.is_datetime64_any_dtype(was):
        return "a time: it always moves on"
    if now.count() and _is_number(was) != _is_number(now):
        return f"{was.dtype} in the reference window, {now.dtype} in the current one"
    if not _is_number(was) and isinstance(was.dropna().iloc[0], list | dict | np.ndarray):
        return "not a single value per row"
    return None


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _clean(values: pd.Series) -> pd.Series:
    """Numbers as float64 with NaN for null and infinite; the rest as strings with None for null."""
    if _is_number(values):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(numbers), numbers, np.nan))
    text = values.reset_index(drop=True)
    return text.map(lambda value: _harmless(str(value)), na_action="ignore").astype(object)


def _harmless(text: str) -> str:
    """A category fit for a legend. Callers send these, and reports put them into a script as they are."""
    if len(text) > _LONG:
        text = f"{text[:_LONG]}…{zlib.crc32(text.encode()):08x}"
    return text.replace("<", "‹").replace(">", "›")


def _nulls(name: str, was: pd.Series, now: pd.Series) -> Column:
    gone = now.isna().mean()
    return Column(
        column=name,
        label=f"{name}{MISSING}",
        method="jensenshannon",
        reference=was.isna().map({True: "null", False: "value"}),
        current=now.isna().map({True: "null", False: "value"}),
        note=f"{gone:.1%} null, {was.isna().mean():.1%} in the reference",
    )


def _numbers(name: str, was: pd.Series, now: pd.Series) -> Column:
    spread = float(np.std(was.dropna()))
    note = ""
    if spread == 0:
        still = set(now.dropna()) == set(was.dropna())
        note = "constant" if still else "constant in the reference, not any more"
    elif spread < _FINE:
        was, now, note = was / spread, now / spread, f"shown in units of {spread:.3g}, its standard deviation"
    return Column(column=name, label=name, method="wasserstein", reference=was, current=now, note=note)


def _categories(name: str, was: pd.Series, now: pd.Series) -> Column:
    old = set(was.dropna())
    fresh = [value for value in now.dropna() if value not in old]
    note = "constant" if len(old) == 1 and not fresh else ""
    if fresh:
        note = f"{len(set(fresh))} new categories in {len(fresh) / len(now):.1%} of rows"
    kept = _frequent(was, now)
    was, now = (side.where(side.isin(kept) | side.isna(), OTHER) for side in (was, now))
    return Column(column=name, label=name, method="jensenshannon", reference=was, current=now, note=note)


def _frequent(was: pd.Series, now: pd.Series) -> set[str]:
    """The levels worth their own bar: rare ones only add noise, however many there are.

    Counted on both sides together, so that the choice does not favour either.
    """
    counts = Counter([*was.dropna(), *now.dropna()]).most_common(_LEVELS)
    return {level for level, count in counts if count >= _RARE}
