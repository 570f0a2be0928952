"""What is measured of the demo, from the records it leaves: ledger, lake, prediction log, the clients' tally."""

import math
import resource
import subprocess
import sys
from datetime import datetime
from typing import Any

from pipelines.core.rollout.events import Decided, DecisionKind, End, Event
from pipelines.core.rollout.fold import fold
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.binomial import ConditionalBinomial, Counts
from pipelines.experiments.looks import past_looks
from pipelines.platform.systems import Systems
from pipelines.rollouts.harm_budget import harm_boundary
from resources.lake.connection import table
from resources.lake.schema import ANSWERED
from resources.ledger.ledger import RolloutRow
from resources.settings import ROOT

BUCKET_SECONDS = 0.2
"""How finely the boundary's crossing is looked for in the prediction log."""


def rollout_record(systems: Systems, row: RolloutRow) -> dict[str, Any]:
    """One rollout as `report.json` has it; times that make no sense for it are None."""
    events = systems.ledger.events(row.rollout_id)
    state = fold(events)
    record: dict[str, Any] = {
        "version": row.version,
        "rollout": row.rollout_id,
        "end": str(row.end),
        "reason": state.end_reason,
        "shares": [{"at": w.at.isoformat(), "percent": w.percent} for w in state.weights],
        "seconds": round((row.ended_at - row.started_at).total_seconds(), 2) if row.ended_at else None,
        "decided_by": _decided_by(events),
        "seconds_first_harm_to_safe": None,
        "seconds_boundary_to_safe": None,
    }
    safe = _safe_at(state)
    if row.end is not End.ROLLED_BACK or safe is None:
        return record
    harm, boundary = _first_harm(systems, state), _boundary(systems, state)
    record["seconds_first_harm_to_safe"] = _between(harm, safe)
    record["seconds_boundary_to_safe"] = _between(boundary, safe)
    record["last_request_to_the_canary"] = _between(_last_request(systems, state), safe)
    return record


def answered_in_lake(systems: Systems, model: str) -> int:
    """Distinct weighted requests with an answer."""
    query = f"""SELECT count(DISTINCT request_id) FROM {table(model, "predictions")}
                WHERE {ANSWERED} AND assignment = 'weighted'"""
    with systems.lake.connect() as connection:
        row = connection.execute(query).fetchone()
    return int(row[0]) if row else 0


def code_location_cpu_seconds() -> float:
    """CPU seconds of a new process that loads the code location."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", "import pipelines.definitions"], check=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def _safe_at(state: RolloutState) -> datetime | None:
    """When the gateway had confirmed 0 % for good."""
    off = [weight.at for weight in state.weights if weight.percent == 0]
    return off[-1] if off else None


def _decided_by(events: tuple[Event, ...]) -> str | None:
    """Who took the decision that ended it, and by which rule."""
    ending = (DecisionKind.PROMOTE, DecisionKind.ROLL_BACK)
    found = [e for e in events if isinstance(e, Decided) and e.decision.kind in ending]
    return f"{found[-1].by}: {found[-1].decision.rule}" if found else None


def _first_harm(systems: Systems, state: RolloutState) -> datetime | None:
    """The start of the first failed answer; where nothing failed, of the first answer to live traffic."""
    failed = _one(systems, state, f"min(requested_at) FILTER (NOT ({ANSWERED}))")
    return failed or _one(systems, state, "min(requested_at)")


def _last_request(systems: Systems, state: RolloutState) -> datetime | None:
    return _one(systems, state, "max(requested_at)")


def _one(systems: Systems, state: RolloutState, expression: str) -> datetime | None:
    query = f"""SELECT {expression} FROM {table(state.model, "predictions")}
                WHERE version = $version AND assignment = 'weighted' AND requested_at >= $since"""
    with systems.lake.connect() as connection:
        row = connection.execute(query, {"version": state.version, "since": state.started_at}).fetchone()
    return row[0] if row else None


def _boundary(systems: Systems, state: RolloutState) -> datetime | None:
    """When the evidence crossed its boundary: in the log of answers, or at the look that found it."""
    crossed = _errors_boundary(systems, state)
    if crossed is not None:
        return crossed
    looks = (taken.at for taken in past_looks(systems.ledger, state.rollout_id) if taken.look.harmful)
    return next(looks, None)


def _errors_boundary(systems: Systems, state: RolloutState) -> datetime | None:
    """Replay the answers in buckets of 0.2 s through the guardrail's own e-process, which begins anew with a bake."""
    baking = state.promotion is not None
    query = f"""
        SELECT floor(epoch(responded_at) / $width) AS bucket,
            count(*) FILTER (version = $canary), count(*) FILTER (version = $canary AND NOT ({ANSWERED})),
            count(*) FILTER (version = $champion), count(*) FILTER (version = $champion AND NOT ({ANSWERED})),
            max(responded_at)
        FROM {table(state.model, "predictions")}
        WHERE assignment = 'weighted' AND requested_at >= $since AND version IN ($canary, $champion)
        GROUP BY bucket ORDER BY bucket"""
    parameters = {"width": BUCKET_SECONDS, "canary": state.version, "champion": state.champion}
    with systems.lake.connect() as connection:
        rows: list[Any] = connection.execute(
            query, parameters | {"since": state.since if baking else state.started_at}
        ).fetchall()
    process = ConditionalBinomial()
    boundary = harm_boundary(systems.catalogue.model(state.model).rollout, baking=baking)
    for _, *numbers, at in rows:
        process = process.observe(Counts(*map(float, numbers)))
        if process.sealed().log_e >= boundary:
            return at
    return None


def _between(start: datetime | None, end: datetime) -> float | None:
    if start is None:
        return None
    seconds = (end - start).total_seconds()
    return round(seconds, 3) if math.isfinite(seconds) else None
