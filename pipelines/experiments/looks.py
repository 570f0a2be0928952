"""Takes one look at a rollout's experiment: what became final since the last one, the analysis, the record."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from pipelines.core.errors import LakeError, LedgerConflict, NotMeasured
from pipelines.core.manifest.load import Model
from pipelines.core.manifest.model import Metric, Primary
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.effects import Cell
from pipelines.core.statistics.look import Look
from pipelines.core.statistics.look_spec import LookSpec
from pipelines.core.statistics.planning import duration_words
from pipelines.core.statistics.proportions import same_units
from pipelines.core.statistics.slices import SliceColumn, Sliced
from pipelines.core.statistics.srm import StepUnits
from pipelines.core.vocabulary import Evidence
from pipelines.experiments.analysing import analyse_next
from pipelines.experiments.evidence import (
    equal_evidence,
    look_evidence,
    staleness,
    unknown_evidence,
    waiting_evidence,
)
from pipelines.experiments.exposure import ExposureCheck, assignment_evidence, check_exposure
from pipelines.experiments.history import champion_history, is_counted_live, measured, metrics_of, outcomes_of
from pipelines.experiments.look_inputs import (
    bucket_width,
    is_final_look,
    lake_query,
    look_spec,
    newly_final,
    open_since,
    served_cells,
    shares,
    step_windows,
    watermark_of,
)
from pipelines.experiments.registering import RegisteredConstants, register
from pipelines.experiments.slicing import (
    StoredBatch,
    gathered,
    packed,
    set_columns,
    slice_count,
    slices_evidence,
    unpacked,
)
from resources.lake.buckets import Collected, Coverage, collect
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, Span
from resources.lake.measuring import OutcomeQuality, outcome_quality, outcomes_seen
from resources.ledger.counters import StoredLook as StoredLook
from resources.ledger.ledger import Ledger

NAME = "experiment"

_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class TakenLook:
    """A look and what it added to its predecessors; stored as it is, never recomputed.

    All that a look was computed from: the cells of every look up to it, and its own spec and units.
    """

    # A boundary that cannot be crossed is infinite; JSON has no word for it by default.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_inf_nan="constants")

    at: datetime
    watermark: datetime | None = None
    """Everything up to here was taken to be in the lake."""
    registered: tuple[RegisteredConstants, ...] = ()
    """Metrics whose constants were set at this look; at the first one from the champion's history."""
    spec: LookSpec
    cells: tuple[Cell, ...]
    """Buckets that became final since the look before."""
    units: tuple[StepUnits, ...]
    coverage: Coverage | None = None
    """None before any share of traffic was in force."""
    exposure: ExposureCheck | None = None
    """None where the serving side assigns every request by itself."""
    outcomes: OutcomeQuality | None = None
    look: Look
    slice_columns: tuple[SliceColumn, ...] = ()
    """Set at this look, for the whole rollout."""
    slices: StoredBatch | None = None
    """What became final since the look before, by slice."""
    bake: bool = False
    """Of the bake: a test of its own, on what became final since the last look before it."""


STORED = TypeAdapter(TakenLook)


@dataclass(frozen=True)
class _Place:
    """Where a look is taken."""

    lake: Lake
    ledger: Ledger
    model: Model
    state: RolloutState
    now: datetime
    sticky: bool
    watermark: datetime


def take_look(
    lake: Lake,
    ledger: Ledger,
    model: Model,
    state: RolloutState,
    *,
    now: datetime,
    complete: datetime | None = None,
    sticky: bool = False,
) -> tuple[TakenLook | None, tuple[Evidence, ...]]:
    """One look and its evidence. Where it cannot be taken: no look, and evidence that says unknown and why.

    Args:
        lake, ledger, model, state: of the rollout.
        now: when the look is taken.
        complete: when the oldest segment begins that is not in the lake yet (`complete_until`); default: now.
        sticky: assignment follows the unit id, so that it can be recomputed.

    Raises LedgerError where it cannot be stored.
    """
    try:
        watermark = watermark_of(lake, model.name, complete or now)
        place = _Place(lake, ledger, model, state, now, sticky, watermark)
        looks = _taken_and_stored(place)
        taken = looks[-1] if looks else None
        looked_at = {metric.name for metric in taken.look.metrics} if taken else set[str]()
        waiting = [metric for metric in metrics_of(model.rollout) if metric.name not in looked_at]
        seen = outcomes_seen(lake, model.name) if waiting else frozenset[str]()
        equal = _all_zero(place, waiting)
    except (LakeError, NotMeasured) as error:
        return None, unknown_evidence(model.rollout, f"the look could not be taken: {error}", at=now)
    waits = (
        *waiting_evidence(model.rollout, [m for m in waiting if m.name not in equal], at=now, seen=seen),
        *equal_evidence(model.rollout, [m for m in waiting if m.name in equal], equal, at=now),
    )
    if taken is None:
        return None, waits
    looked = look_evidence(model.rollout, state, taken.look, at=now)
    return taken, (*looked, *_assignment(place, taken), *_slices_told(place, looks), *waits)


def past_looks(ledger: Ledger, rollout_id: str) -> tuple[TakenLook, ...]:
    """The looks taken so far, in order."""
    return tuple(STORED.validate_json(look.body) for look in ledger.counters.looks(rollout_id, NAME))


def registered_in(looks: Sequence[TakenLook]) -> dict[str, RegisteredConstants]:
    """Every metric's constants, by name, as the looks fixed them."""
    return {constants.spec.name: constants for look in looks for constants in look.registered}


def cells_of(looks: Sequence[TakenLook]) -> tuple[Cell, ...]:
    """What the last of these looks was computed from."""
    return tuple(cell for look in looks for cell in look.cells)


def slice_columns_in(looks: Sequence[TakenLook]) -> tuple[SliceColumn, ...]:
    """What these looks told units apart by; none where nobody asked, or nobody was there yet."""
    return next((look.slice_columns for look in looks if look.slice_columns), ())


def has_counted(looks: Sequence[TakenLook]) -> bool:
    """Whether any of these looks had a unit."""
    return any(look.coverage is not None and look.coverage.units > 0 for look in looks)


def _assignment(place: _Place, taken: TakenLook) -> tuple[Evidence, ...]:
    if taken.coverage is None:
        return ()
    valid_for = staleness(place.model.rollout)
    return (
        assignment_evidence(
            taken.coverage, taken.exposure, units=taken.units, at=place.now, valid_for=valid_for
        ),
    )


def _slices_told(place: _Place, looks: Sequence[TakenLook]) -> tuple[Evidence, ...]:
    return slices_evidence(
        place.lake,
        place.model.rollout,
        slice_columns_in(looks),
        is_late=has_counted(looks),
        at=place.now,
        valid_for=staleness(place.model.rollout),
    )


def _taken_and_stored(place: _Place) -> tuple[TakenLook, ...]:
    """All looks with the new one; none where there is none. Of two that look at once, one is stored; the other looks again at
    what is left."""
    for attempt in range(1, _ATTEMPTS + 1):
        past = past_looks(place.ledger, place.state.rollout_id)
        taken = _take(_not_before(place, past), past)
        if taken is None:
            return ()
        stored = StoredLook(len(past) + 1, place.now, STORED.dump_json(taken).decode())
        try:
            place.ledger.counters.add_look(place.state.rollout_id, NAME, stored)
        except LedgerConflict:
            if attempt == _ATTEMPTS:
                raise
            continue
        return (*past, taken)
    return ()


def _not_before(place: _Place, past: Sequence[TakenLook]) -> _Place:
    """The place with a watermark that never goes back: what became final at a look must not do so again."""
    marks = [look.watermark for look in past if look.watermark is not None]
    return replace(place, watermark=max([place.watermark, *marks]))


def _take(place: _Place, past: Sequence[TakenLook]) -> TakenLook | None:
    manifest, state = place.model.rollout, place.state
    baking = state.promotion is not None
    series = [look for look in past if look.bake is baking]
    known = registered_in(past)
    fresh = _register(place, [m for m in metrics_of(place.model.rollout) if m.name not in known])
    constants = known | {r.spec.name: r for r in fresh}
    in_use = [
        constants[metric.name] for metric in metrics_of(place.model.rollout) if metric.name in constants
    ]
    if not in_use:
        return None
    after = past[-1].watermark if past else None
    chosen = _slices(place, past)
    columns = chosen or slice_columns_in(past)
    spans = {r.spec.name: Span(after if r.spec.name in known else None, place.watermark) for r in in_use}
    query = _query(place, {r.spec.name: r for r in in_use}, spans, columns)
    collected = None if query is None else collect(place.lake, place.model.name, query)
    added = _newly_final(place, spans, query, collected)
    by_step = shares(state)
    units = tuple(
        StepUnits(u.step, u.champion, u.challenger, by_step[u.step], u.champion_drawn, u.challenger_drawn)
        for u in (collected.units if collected else ())
    )
    final = is_final_look(state, place.now, look_every=manifest.experiment.look_every)
    is_final = final and not any(look.spec.is_final for look in series)
    spec = look_spec(manifest, by_step, in_use, is_final=is_final, baking=baking)
    names = {r.spec.name for r in in_use}
    cells = [cell for cell in (*cells_of(series), *added) if cell.metric in names]
    batch = collected.batch if collected else None
    kinds = {m.name: m.type.unit_value for m in metrics_of(manifest)}
    stored = None if batch is None else packed(batch, kinds)
    look = analyse_next(
        cells,
        spec,
        units,
        sliced=_sliced(columns, [*(look.slices for look in series), stored], in_use),
        past=[taken.look for taken in series],
        planned_looks={r.spec.name: r.looks for r in in_use if r.looks is not None},
        is_last_step=state.step + 1 >= len(state.policy.ramp),
    )
    return TakenLook(
        at=place.now,
        watermark=place.watermark,
        registered=tuple(fresh),
        spec=spec,
        cells=tuple(added),
        units=units,
        coverage=collected.coverage if collected else None,
        exposure=_exposure(place) if collected else None,
        outcomes=None if query is None else outcome_quality(place.lake, place.model.name, query),
        look=look,
        slice_columns=chosen,
        slices=stored,
        bake=baking,
    )


def _query(
    place: _Place,
    registered: Mapping[str, RegisteredConstants],
    spans: dict[str, Span],
    slices: Sequence[SliceColumn],
) -> ExperimentQuery | None:
    """What the lake is asked; None before any share of traffic was in force."""
    windows = step_windows(place.state, place.now)
    if not windows:
        return None
    query = lake_query(
        place.model.rollout, place.state, windows, registered, watermark=place.watermark, slices=slices
    )
    sliced = {
        name: span
        for name, span in spans.items()
        if slices and (place.state.promotion is not None or not registered[name].spec.method.is_planned)
    }
    return replace(query, values_since=open_since(query, spans), sliced=sliced)


def _slices(place: _Place, past: Sequence[TakenLook]) -> tuple[SliceColumn, ...]:
    """Where they are not set yet and nobody has been counted: evidence that is there already has been told without them."""
    manifest, state = place.model.rollout, place.state
    if not manifest.experiment.slices or slice_columns_in(past) or has_counted(past):
        return ()
    return set_columns(place.lake, manifest, state, watermark=place.watermark)


def _sliced(
    columns: Sequence[SliceColumn],
    stored: Sequence[StoredBatch | None],
    registered: Sequence[RegisteredConstants],
) -> Sliced | None:
    if not columns:
        return None
    batches = (unpacked(batch, slice_count(columns)) for batch in stored if batch is not None)
    return gathered(columns, batches, {r.spec.name: r.reference for r in registered})


def _newly_final(
    place: _Place,
    spans: dict[str, Span],
    query: ExperimentQuery | None,
    collected: Collected | None,
) -> list[Cell]:
    """Cells that no look has seen: final since the last one, or of a metric that is new."""
    manifest, state = place.model.rollout, place.state
    live = {m.name for m in metrics_of(manifest) if is_counted_live(manifest, m)}
    counted = {name: span for name, span in spans.items() if name in live}
    buckets = [b for b in place.ledger.counters.buckets(state.rollout_id) if b.step in shares(state)]
    added = served_cells(buckets, bucket_width(state), counted)
    if query is not None and collected is not None:
        added += newly_final(collected.cells, query, spans)
    return added


def _exposure(place: _Place) -> ExposureCheck | None:
    return check_exposure(place.lake, place.state, until=place.watermark) if place.sticky else None


def _register(place: _Place, metrics: Sequence[Metric]) -> list[RegisteredConstants]:
    """Constants from the champion's history before the rollout; failing that, from its units in the rollout."""
    manifest, state = place.model.rollout, place.state
    metrics = _with_outcomes(place, metrics)
    if not metrics or state.champion is None:
        return []
    experiment = manifest.experiment
    history = champion_history(place.lake, manifest, state.champion, metrics, until=state.started_at)
    days = (history.end - history.start) / timedelta(days=1)
    origin = f"the champion's history of {duration_words(days)} before the rollout"
    every = len(metrics_of(manifest))
    found = [
        register(metric, experiment, history.metrics, origin=origin, metrics=every) for metric in metrics
    ]
    left = [metric for metric, constants in zip(metrics, found, strict=True) if constants is None]
    windows = step_windows(state, place.now)
    if left and windows:
        units = measured(place.lake, manifest, state.champion, left, windows, watermark=place.watermark)
        origin = f"the champion's units up to {place.now:%Y-%m-%d %H:%M:%S} UTC, there was no history"
        found += [register(metric, experiment, units, origin=origin, metrics=every) for metric in left]
    return [constants for constants in found if constants is not None]


def _with_outcomes(place: _Place, metrics: Sequence[Metric]) -> list[Metric]:
    """Those of whose outcomes there has been a value: where a missing one counts as 0, a mistyped name would be
    0 for everybody, and no worse than the champion for ever."""
    if not any(outcomes_of(metric) for metric in metrics):
        return list(metrics)
    seen = outcomes_seen(place.lake, place.model.name)
    return [metric for metric in metrics if seen.issuperset(outcomes_of(metric))]


def _all_zero(place: _Place, waiting: Sequence[Metric]) -> dict[str, str]:
    """Of the metrics without constants those that are 0 for every unit of both versions, with the words for it.

    No change can be a share of 0, so that they would wait for ever; but equal values are within any margin.
    """
    state, windows = place.state, step_windows(place.state, place.now)
    # An A/B test asks whether the version is better, and equal is not.
    asked = [m for m in waiting if state.policy.ab_test is None or not isinstance(m, Primary)]
    metrics = [metric for metric in _with_outcomes(place, asked) if not metric.type.is_share]
    if not metrics or not windows or state.champion is None:
        return {}
    manifest, needed = place.model.rollout, same_units(place.model.rollout.experiment.alpha)
    sides = [
        measured(place.lake, manifest, version, metrics, windows, watermark=place.watermark)
        for version in (state.version, state.champion)
    ]
    found: dict[str, str] = {}
    for metric in metrics:
        known = [side.get(metric.name) for side in sides]
        if all(k is not None and k.value == k.variance == 0 and k.units >= needed for k in known):
            counts = " and ".join(f"{k.units:,}" for k in known if k is not None)
            found[metric.name] = (
                f"0 at every one of {counts} units of challenger and champion. Equal values are within any margin."
            )
    return found
