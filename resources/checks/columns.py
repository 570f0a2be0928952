"""Two windows made ready to compare, column by column."""

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from resources.registry.signature import ColumnKind

_LEVELS = 50

_RARE = 5

_FINE = 1e-3
"""Below this standard deviation Evidently's normed distance divides by a constant and goes blind."""

_HUGE = 1e12
"""Beyond it squares leave the range of the arithmetic: of floats in Evidently, of float32 in the shuffles."""

_FAR = 1e6
"""Standard deviations of the reference; a value further out counts as this far."""

_OUTSIDE = 25.0
"""Widths of the middle of both windows; a value further out counts as this far, or one caller's single value would be the
reference's standard deviation, which every distance is held against."""

_MIDDLES = ((0.25, 0.75), (0.1, 0.9), (0.05, 0.95), (0.01, 0.99))
"""Quantiles between which the middle lies: the first pair that are not the same."""

_ROUNDING = 16
"""Units in the last place by which values may differ and still be the same: sums in another order differ by some."""

_LONG = 60

OTHER = "(rare)"


@dataclass(frozen=True, kw_only=True)
class FrameColumn:
    """One comparison: a column's values, or which of them are null."""

    column: str
    """The column as the manifest names it."""
    label: str
    """The column in the report: the same, or `<column> is null`; unique among those compared."""
    method: Literal["wasserstein", "jensenshannon"]
    reference: pd.Series
    current: pd.Series
    """Numbers for `wasserstein`, strings for `jensenshannon`; nulls kept."""
    note: str = ""
    """What a reader should know: constant, new categories, rescaled."""
    of_nulls: bool = False
    """Whether it is about which values are null."""


def kind_of(values: pd.Series) -> ColumnKind:
    """What the values are, whatever type pandas keeps them in: booleans with nulls are objects to it."""
    if pd.api.types.is_bool_dtype(values):
        return ColumnKind.BOOLEANS
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values):
        return ColumnKind.NUMBERS
    if pd.api.types.is_datetime64_any_dtype(values):
        return ColumnKind.TIMES
    return _kind_of_objects(values.astype(object))


def _kind_of_objects(values: pd.Series) -> ColumnKind:
    match pd.api.types.infer_dtype(values, skipna=True):
        case "boolean":
            return ColumnKind.BOOLEANS
        case "integer" | "floating" | "mixed-integer-float" | "decimal":
            return ColumnKind.NUMBERS
        case "string":
            return ColumnKind.TEXT
        case "datetime64" | "datetime" | "date":
            return ColumnKind.TIMES
        case _:
            return ColumnKind.LISTS if values.map(_is_list).any() else ColumnKind.OTHERS


def _is_list(value: object) -> bool:
    return isinstance(value, list | dict | np.ndarray)


def prepare(
    reference: pd.DataFrame, current: pd.DataFrame, wanted: Sequence[str]
) -> tuple[tuple[FrameColumn, ...], dict[str, str]]:
    """What can be compared, and for each column that cannot be, why.

    Nulls are compared as a column of their own: distances ignore them, and a column that went missing
    is the drift that hurts most.
    """
    ready: list[FrameColumn] = []
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(wanted):
        why = _why_not(name, reference, current)
        if why is not None:
            skipped[name] = why
            continue
        old, new = series(reference, name), series(current, name)
        kind = kind_of(old)
        was, now = _clean(old, kind), _clean(new, kind)
        if was.count() == 0:
            skipped[name] = "no finite values in the reference window"
            continue
        if was.isna().any() or now.isna().any():
            ready.append(_nulls(name, was, now, taken=wanted))
        if now.count():
            ready.append(
                _numbers(name, was, now, precision=_precision(old, new))
                if kind is ColumnKind.NUMBERS
                else _categories(name, was, now)
            )
    return tuple(ready), skipped


def comparable(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[str, ...]:
    """Every feature and output that either side has, in the reference's order, then the new ones."""
    every = dict.fromkeys([*map(str, reference.columns), *map(str, current.columns)])
    return tuple(name for name in every if name.startswith(("features.", "outputs.")))


def as_written(frame: pd.DataFrame, names: Iterable[str]) -> pd.DataFrame:
    """The frame with its columns under each of `names` as well that differs by case alone: the lake keeps the spelling
    that came first.
    """
    held = {str(column).lower(): column for column in frame}
    more = {name: held[name.lower()] for name in names if name not in frame and name.lower() in held}
    return frame.assign(**{name: frame[column] for name, column in more.items()}) if more else frame


def series(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column, typed."""
    return cast(pd.Series, frame[name])


def numbers(values: pd.Series) -> pd.Series:
    """Values of a kind that counts, as pandas computes with them; decimals and booleans beside nulls are objects."""
    return cast(pd.Series, pd.to_numeric(values, errors="coerce"))


def _why_not(name: str, reference: pd.DataFrame, current: pd.DataFrame) -> str | None:
    for side, frame in (("reference", reference), ("current", current)):
        if name not in frame:
            return f"not in the {side} window"
    was, now = series(reference, name), series(current, name)
    if was.count() == 0:
        return "no values in the reference window"
    old, new = kind_of(was), kind_of(now)
    if now.count() and old is not new:
        return f"{old} in the reference window, {new} in the current one"
    return incomparable(old)


def incomparable(kind: ColumnKind) -> str | None:
    """Why values of this kind have no drift; None for those that have."""
    match kind:
        case ColumnKind.TIMES:
            return "a time: it always moves on"
        case ColumnKind.LISTS:
            return "not a single value per row"
        case ColumnKind.NUMBERS | ColumnKind.BOOLEANS | ColumnKind.TEXT | ColumnKind.OTHERS:
            return None
        case _:
            assert_never(kind)


def _clean(values: pd.Series, kind: ColumnKind) -> pd.Series:
    """Numbers as float64 with NaN for null and infinite; the rest as strings with None for null."""
    if kind is ColumnKind.NUMBERS:
        found = numbers(values).to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(np.where(np.isfinite(found), found, np.nan))
    text = values.reset_index(drop=True).astype(object)
    return text.map(lambda value: _harmless(str(value)), na_action="ignore").astype(object)


def _harmless(text: str) -> str:
    """A category fit for a legend. Callers send these, and reports put them into a script as they are."""
    if len(text) > _LONG:
        text = f"{text[:_LONG]}…{zlib.crc32(text.encode()):08x}"
    return text.replace("<", "‹").replace(">", "›")


def _nulls(name: str, was: pd.Series, now: pd.Series, *, taken: Sequence[str]) -> FrameColumn:
    label = f"{name} is null"
    return FrameColumn(
        column=name,
        label=label if label not in taken else f"{name} is null or not",
        method="jensenshannon",
        reference=was.isna().map({True: "null", False: "value"}),
        current=now.isna().map({True: "null", False: "value"}),
        note=f"{now.isna().mean():.1%} null or infinite, {was.isna().mean():.1%} in the reference",
        of_nulls=True,
    )


def _precision(*sides: pd.Series) -> float:
    """The relative difference that is none, of the coarser side."""
    single = any(side.dtype in (np.float32, "Float32") for side in sides)
    return _ROUNDING * float(np.finfo(np.float32 if single else np.float64).eps)


def _numbers(name: str, was: pd.Series, now: pd.Series, *, precision: float) -> FrameColumn:
    was, now, far = _within_reach(*_rounded(was, now, precision), precision)
    note = f"{far} values far outside count as {_OUTSIDE:g} widths away" if far else ""
    constant = was.min() == was.max()
    if constant:
        still = set(now.dropna()) == set(was.dropna())
        note += f"{'; ' if note else ''}{'constant' if still else 'constant in the reference, not any more'}"
    largest = float(max(was.abs().max(), now.abs().max()))
    # A constant has no spread: it is as fine as it is near 0.
    size = largest if constant else _spread(was)
    if largest > _HUGE or 0 < size < _FINE:
        was, now, unit = _standardised(was, now, largest)
        note += f"{'; ' if note else ''}shown as the distance from its mean in units of {unit:.3g}"
    return FrameColumn(column=name, label=name, method="wasserstein", reference=was, current=now, note=note)


def _spread(values: pd.Series) -> float:
    scale = float(values.abs().max())
    return scale * float(np.std(values.dropna() / scale)) if scale else 0.0


def _rounded(was: pd.Series, now: pd.Series, precision: float) -> tuple[pd.Series, pd.Series]:
    """With what differs from the reference's median by rounding alone set to it: else the last place were the spread."""
    middle = float(np.quantile(was.dropna(), 0.5, method="lower"))
    with np.errstate(over="ignore"):
        was, now = (
            side.where(~((side - middle).abs() <= precision * abs(middle)), middle) for side in (was, now)
        )
    return was, now


def _within_reach(was: pd.Series, now: pd.Series, precision: float) -> tuple[pd.Series, pd.Series, int]:
    """Both sides with their far values brought nearer, by the same bounds, and how many there were."""
    both = np.concatenate([was.dropna(), now.dropna()])
    with np.errstate(over="ignore"):
        middle, width = _middle(both, precision)
        low, high = middle - _OUTSIDE * width, middle + _OUTSIDE * width
    far = int(((both < low) | (both > high)).sum())
    return (was.clip(low, high), now.clip(low, high), far) if far else (was, now, 0)


def _middle(values: NDArray[np.float64], precision: float) -> tuple[float, float]:
    """The median, and the width of the middle; where almost all are the same, how far the others usually are from it."""
    median = float(np.quantile(values, 0.5, method="lower"))
    for low, high in _MIDDLES:
        a, b = (float(np.quantile(values, q, method="lower")) for q in (low, high))
        if b - a > precision * max(abs(a), abs(b)):
            return median, b - a
    others = np.abs(values[values != median] - median)
    if not len(others):
        return median, 0.0
    usual = float(np.quantile(others, 0.5, method="lower"))
    return median, min(usual, abs(median)) if median and len(others) < _RARE else usual


def _standardised(was: pd.Series, now: pd.Series, largest: float) -> tuple[pd.Series, pd.Series, float]:
    """Distances from the reference's mean in its standard deviations, and what one of these is.

    The score is the same by definition. First everything is brought to the reference's size, so that no square overflows
    or vanishes; of a constant reference the largest of both sides is the scale.
    """
    constant = was.min() == was.max()
    scale = largest if constant else float(was.abs().max())
    with np.errstate(over="ignore"):
        was, now = was / scale, now / scale
    middle = was.mean()
    spread = 1.0 if constant else float(np.std(was.dropna()))
    was, now = (((side - middle) / spread).clip(-_FAR, _FAR) for side in (was, now))
    return was, now, spread * scale


def _categories(name: str, was: pd.Series, now: pd.Series) -> FrameColumn:
    old = set(was.dropna())
    fresh = [value for value in now.dropna() if value not in old]
    note = "constant" if len(old) == 1 and not fresh else ""
    if fresh:
        note = f"{len(set(fresh))} new categories in {len(fresh) / len(now):.1%} of rows"
    kept = _frequent(was, now)
    was, now = (side.where(side.isin(kept) | side.isna(), OTHER) for side in (was, now))
    return FrameColumn(column=name, label=name, method="jensenshannon", reference=was, current=now, note=note)


def _frequent(was: pd.Series, now: pd.Series) -> set[str]:
    """The levels worth their own bar: rare ones only add noise, however many there are.

    Counted on both sides together, so that the choice does not favour either.
    """
    counts = Counter([*was.dropna(), *now.dropna()]).most_common(_LEVELS)
    return {level for level, count in counts if count >= _RARE}
