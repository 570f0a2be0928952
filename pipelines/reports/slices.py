"""Where the harm is, for the page: the slices that the last look told, and requests in the first of them."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from pipelines.core.errors import LakeError
from pipelines.core.manifest.model import RolloutManifest
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.effects import EffectKind
from pipelines.core.statistics.metric_look import slice_words
from pipelines.core.statistics.slices import TOLD, SliceColumn, SliceLook
from pipelines.experiments.looks import NAME, STORED
from pipelines.experiments.registering import RegisteredConstants
from pipelines.experiments.slicing import examples_in
from pipelines.reports.story import Examples, Looked, ToldSlice
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger

_SLICE_LOOK = TypeAdapter(SliceLook)


def slices_told(looked: Looked) -> tuple[ToldSlice, ...] | None:
    """Of all metrics of the last look, the strongest evidence first; None where nobody asked for slices."""
    asked = [metric for metric in looked.metrics if metric.get("slices") is not None]
    if not asked:
        return None
    told = [each for metric in asked for each in _of_metric(metric)]
    return tuple(sorted(told, key=lambda each: -each.log_e))


def _of_metric(metric: Mapping[str, Any]) -> list[ToldSlice]:
    found, kind = _SLICE_LOOK.validate_python(metric["slices"]), EffectKind(metric["kind"])
    strong = (each for each in found.named if each.log_e >= math.log(TOLD))
    return [ToldSlice(metric["name"], each.where, each.log_e, slice_words(each, kind)) for each in strong]


def read_examples(
    lake: Lake,
    ledger: Ledger,
    manifest: RolloutManifest,
    state: RolloutState,
    told: Sequence[ToldSlice] | None,
) -> Examples:
    """Of the first slice, where the lake can be read; the rest of the page is written without."""
    if not told:
        return Examples(())
    metric, where = told[0].metric, told[0].where
    fixed = _fixed(ledger, state.rollout_id, metric)
    if fixed is None:
        return Examples((), "What the metric was measured by is not in the ledger any more.")
    try:
        found = examples_in(
            lake, manifest, state, fixed.constants, where, fixed.columns, until=fixed.watermark
        )
    except LakeError as error:
        return Examples((), f"They could not be read: {error}")
    return Examples(tuple(found))


class _Fixed(NamedTuple):
    """What looks fixed that slices were read with."""

    columns: tuple[SliceColumn, ...]
    constants: RegisteredConstants
    watermark: datetime
    """Of the last look."""


def _fixed(ledger: Ledger, rollout_id: str, metric: str) -> _Fixed | None:
    """Mostly of the first look: of many, only so many are read as it takes."""
    numbers = ledger.counters.look_numbers(rollout_id, NAME)
    columns, constants = (), None
    for number in numbers:
        look = STORED.validate_json(ledger.counters.looks(rollout_id, NAME, [number])[0].body)
        columns = columns or look.slice_columns
        constants = constants or next((each for each in look.registered if each.spec.name == metric), None)
        if columns and constants is not None:
            last = json.loads(ledger.counters.looks(rollout_id, NAME, numbers[-1:])[0].body)
            return _Fixed(columns, constants, datetime.fromisoformat(last["watermark"]))
    return None
