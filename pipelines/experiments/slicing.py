"""The slices of one rollout: set once from who asked before it, their sums stored with each look, and read back ever after."""

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

import numpy as np

from pipelines.core.errors import LakeError, NotMeasured
from pipelines.core.manifest.measurement_rules import input_name
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.metric_types import UnitValue
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.effects import Sums
from pipelines.core.statistics.inputs import Array
from pipelines.core.statistics.slices import Slice, SliceColumn, Sliced, SliceSums, slices_of
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.history import LOOKED_BACK
from pipelines.experiments.look_inputs import lake_query, step_windows
from pipelines.experiments.registering import RegisteredConstants
from resources.lake.connection import Lake
from resources.lake.examples import Example, bad_examples
from resources.lake.slices import SliceBatch, frequent_values, inputs_held
from resources.lake.sums import added_up, stacked

SLICES = "slices"


def set_columns(
    lake: Lake, manifest: RolloutManifest, state: RolloutState, *, watermark: datetime
) -> tuple[SliceColumn, ...]:
    """The columns that the manifest names and the lake has values of, each with its most frequent values: of the champion's
    requests in the two weeks before the rollout, or failing that of all in the rollout so far. Raises `LakeError`."""
    held = {name.lower(): name for name in inputs_held(lake, manifest.model)}
    found: list[SliceColumn] = []
    for name in manifest.experiment.slices:
        column = held.get(input_name(name).lower())
        values = () if column is None else _values(lake, manifest.model, column, state, watermark)
        if column is not None and values:
            found.append(SliceColumn(column, values))
    return tuple(found)


def _values(lake: Lake, model: str, column: str, state: RolloutState, watermark: datetime) -> tuple[str, ...]:
    began = state.started_at
    champion = [] if state.champion is None else [state.champion]
    spans = (
        (champion, began - LOOKED_BACK, began),
        ([*champion, state.version], began, watermark),
    )
    for versions, start, until in spans:
        found = frequent_values(lake, model, column, versions=versions, start=start, until=until)
        if found:
            return found
    return ()


# What a look adds, as it is stored: fifty slices of twenty metrics would be thousands of numbers in words.


class PackedSums(NamedTuple):
    """One metric's sums of one look, by slice."""

    metric: str
    kind: UnitValue
    packed: str
    """Base64 of zlib of float64, byte by byte in planes: shape (kept fields, steps, slices, 2)."""


class StoredBatch(NamedTuple):
    """`SliceBatch` as text."""

    steps: tuple[int, ...]
    sums: tuple[PackedSums, ...]


def packed(batch: SliceBatch, kinds: Mapping[str, UnitValue]) -> StoredBatch:
    """To store; `unpacked` gives it back to the last bit."""
    sums = tuple(
        PackedSums(name, kinds[name], _text(made[..., _places(kinds[name])]))
        for name, made in batch.sums.items()
        if made[..., 0].any()
    )
    return StoredBatch(batch.steps, sums)


def _text(sums: Array) -> str:
    # In planes of one byte each, the numbers' likeness stands side by side.
    planes = np.moveaxis(sums, -1, 0).astype("<f8").reshape(-1, 1).view(np.uint8).T
    return base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()


def unpacked(stored: StoredBatch, slices: int) -> SliceBatch:
    """What was packed, of so many slices. Raises NotMeasured for a text that is not of that size."""
    return SliceBatch(
        stored.steps, {each.metric: _sums(each, len(stored.steps), slices) for each in stored.sums}
    )


def _places(kind: UnitValue) -> list[int]:
    """Of what is added up in Sums."""
    return [Sums._fields.index(name) for name in added_up(kind)]


def _sums(each: PackedSums, steps: int, slices: int) -> Array:
    names = added_up(each.kind)
    shape = (len(names), steps, slices, 2)
    try:
        planes = np.frombuffer(zlib.decompress(base64.b64decode(each.packed)), np.uint8)
        kept = np.ascontiguousarray(planes.reshape(8, -1).T).view("<f8").reshape(shape)
    except (ValueError, zlib.error) as error:
        raise NotMeasured(f"{each.metric}: stored sums of slices cannot be read: {error}") from error
    return stacked(dict(zip(names, kept, strict=True)))


def gathered(
    columns: Sequence[SliceColumn], batches: Iterable[SliceBatch], references: Mapping[str, float]
) -> Sliced:
    """All that the looks have of slices, in the order of time.

    `references`: what was subtracted from each value, by metric; the others are left out.
    """
    steps: dict[str, list[int]] = {name: [] for name in references}
    sums: dict[str, list[Array]] = {name: [] for name in references}
    for batch in batches:
        for name in batch.sums.keys() & references.keys():
            steps[name] += batch.steps
            sums[name].append(batch.sums[name])
    return Sliced(
        tuple(columns),
        {name: _in_slices(steps[name], found, references[name]) for name, found in sums.items() if found},
    )


def _in_slices(steps: Sequence[int], sums: Sequence[Array], reference: float) -> SliceSums:
    champion, challenger = (np.concatenate(sums)[:, :, side].swapaxes(0, 1) for side in (0, 1))
    return SliceSums(np.array(steps, float), champion, challenger, reference)


def slice_count(columns: Sequence[SliceColumn]) -> int:
    """Over all columns."""
    return len(slices_of(columns))


def slices_evidence(
    lake: Lake,
    manifest: RolloutManifest,
    columns: Sequence[SliceColumn],
    *,
    is_late: bool,
    at: datetime,
    valid_for: timedelta,
) -> tuple[Evidence, ...]:
    """What the metrics are compared by; it warns where a column is not there, and everything else goes on.

    `is_late`: units have been counted, so that nothing is set any more.
    """
    asked = manifest.experiment.slices
    if not asked:
        return ()
    known = {column.name.lower() for column in columns}
    lacking = [name for name in asked if input_name(name).lower() not in known]
    if lacking and not columns and not is_late:
        return ()  # nobody has asked yet: they are set at the first look that has somebody
    by = ", ".join(f"{column.name} ({len(column.values)} values)" for column in columns)
    reason = f"metrics are compared by {by} as well" if columns else "metrics are not compared by any slice"
    if lacking:
        reason += f": {_why(lake, manifest.model, lacking, is_late=is_late and not columns)}"
    return (
        Evidence(
            name=SLICES,
            source="experiment",
            verdict=Verdict.FAIL if lacking else Verdict.PASS,
            reason=reason,
            at=at,
            on_fail=OnFail.WARN,
            valid_for=valid_for,
        ),
    )


def _why(lake: Lake, model: str, lacking: Sequence[str], *, is_late: bool) -> str:
    names = ", ".join(repr(name) for name in lacking)
    if is_late:
        return f"{names} had no value when the rollout's first units were counted; slices are set once"
    try:
        held = f"the lake holds {', '.join(inputs_held(lake, model)) or 'none'}"
    except LakeError as error:
        held = f"what there is cannot be told: {error}"
    return f"{names} is no input that requests had a value of when slices were set; {held}"


def examples_in(
    lake: Lake,
    manifest: RolloutManifest,
    state: RolloutState,
    constants: RegisteredConstants,
    where: Slice,
    columns: Sequence[SliceColumn],
    *,
    until: datetime,
) -> list[Example]:
    """Units of the challenger in the slice that count against it by a metric, as far as the lake holds them.

    `until`: the watermark of the look that found it. None without live traffic. Raises `LakeError`.
    """
    windows = step_windows(state, until)
    column = next((column for column in columns if where in column.slices), None)
    if not windows or column is None:
        return []
    registered = {constants.spec.name: constants}
    query = lake_query(manifest, state, windows, registered, watermark=until, slices=[column])
    place = column.slices.index(where)
    more_is_worse = constants.spec.harm_sign() > 0
    return bad_examples(lake, manifest.model, query, place=place, more_is_worse=more_is_worse)
