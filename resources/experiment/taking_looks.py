"""Takes one look at a rollout's experiment: cells from the lake and the counters, the analysis, the record."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import TypeAdapter

from pipelines.errors import LakeError, NotMeasured
from pipelines.manifest.load import Model
from pipelines.rollout.evidence import Evidence
from pipelines.rollout.state import RolloutState
from pipelines.statistics.look import Look, analyse
from pipelines.statistics.look_spec import LookSpec
from pipelines.statistics.srm import StepUnits
from pipelines.statistics.sums import Cell
from resources.experiment.design import (
    is_served,
    lake_query,
    look_spec,
    metric_spec,
    metrics_of,
    shares,
    step_windows,
)
from resources.experiment.evidence import look_evidence, unknown_evidence
from resources.experiment.serving_cells import serving_cells
from resources.lake.buckets import cells as lake_cells
from resources.lake.buckets import units_per_step
from resources.lake.connection import Lake
from resources.ledger import Ledger
from resources.ledger import Look as StoredLook

NAME = "experiment"
INGESTION_LAG = timedelta(seconds=4)
"""What was answered this long ago is taken to be in the lake: a segment closes after two seconds."""


@dataclass(frozen=True, kw_only=True)
class TakenLook:
    """A look and all that it was computed from; stored as it is, never recomputed."""

    at: datetime
    spec: LookSpec
    cells: tuple[Cell, ...]
    units: tuple[StepUnits, ...]
    look: Look


STORED = TypeAdapter(TakenLook)


def take_look(
    lake: Lake, ledger: Ledger, model: Model, state: RolloutState, *, now: datetime
) -> tuple[TakenLook | None, tuple[Evidence, ...]]:
    """One look and its evidence. Where it cannot be taken: no look, and evidence that says unknown and why."""
    try:
        taken = _take(lake, ledger, model, state, now)
    except (LakeError, NotMeasured) as error:
        return None, unknown_evidence(model.rollout, f"the look could not be taken: {error}", at=now)
    number = len(ledger.counters.looks(state.rollout_id, NAME)) + 1
    body = STORED.dump_json(taken).decode()
    ledger.counters.add_look(state.rollout_id, NAME, StoredLook(number, now, body))
    return taken, look_evidence(model.rollout, state, taken.look, at=now)


def past_looks(ledger: Ledger, rollout_id: str) -> tuple[TakenLook, ...]:
    """The looks taken so far, in order."""
    return tuple(STORED.validate_json(look.body) for look in ledger.counters.looks(rollout_id, NAME))


def _take(lake: Lake, ledger: Ledger, model: Model, state: RolloutState, now: datetime) -> TakenLook:
    manifest = model.rollout
    windows = step_windows(state, now)
    if not windows:
        raise NotMeasured("no share of traffic has been in force for the canary yet")
    query = lake_query(manifest, state, windows, watermark=now - INGESTION_LAG)
    served = [metric.name for metric in metrics_of(manifest) if is_served(metric)]
    found = [
        *lake_cells(lake, model.name, query),
        *serving_cells(ledger.counters.buckets(state.rollout_id), served),
    ]
    by_step = shares(state)
    units = tuple(
        StepUnits(u.step, u.champion, u.challenger, by_step[u.step])
        for u in units_per_step(lake, model.name, query)
    )
    spec = look_spec(manifest, by_step, [metric_spec(metric) for metric in metrics_of(manifest)])
    return TakenLook(
        at=now, spec=spec, cells=tuple(found), units=units, look=analyse(found, spec, units=units)
    )
