"""What a shadow step is judged by: agreement with the champion, and the serving guardrails on the copies."""

import math
from dataclasses import replace
from datetime import datetime

from pipelines.core.errors import LakeError, NotMeasured
from pipelines.core.manifest.load import Model
from pipelines.core.manifest.model import Guardrail, RolloutManifest, Validation
from pipelines.core.rollout.policy import AGREEMENT
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.look import analyse
from pipelines.core.statistics.look_spec import LookSpec
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.evidence import SOURCE, doubt, harm_evidence, staleness
from pipelines.experiments.history import is_served
from pipelines.experiments.look_inputs import serving_cells, watermark_of
from pipelines.experiments.registering import guardrail_spec
from pipelines.rollouts.harm_budget import harm_budget
from resources.lake.agreement import Agreement, agreement
from resources.lake.connection import Lake
from resources.ledger.ledger import Ledger

_CLEAR = 3.0
"""Standard errors below the least agreement from which it is a failure rather than too close to tell."""


def shadow_evidence(
    lake: Lake,
    ledger: Ledger,
    model: Model,
    state: RolloutState,
    *,
    now: datetime,
    complete: datetime | None = None,
) -> tuple[Evidence, ...]:
    """Everything that the shadow step waits for. What cannot be measured is unknown and says why.

    Outcomes are left out: nobody saw the challenger's answers, so that nothing followed from them. `complete`: see
    `take_look`.
    """
    agreed = _agreed(lake, model, state, now, complete or now)
    return (*_served(ledger, model.rollout, state, now), agreed)


def _served(
    ledger: Ledger, manifest: RolloutManifest, state: RolloutState, now: datetime
) -> tuple[Evidence, ...]:
    """Errors and latency of the copies: the live watch's own test, read again from what it wrote down."""
    guardrails = [g for g in manifest.guardrails if is_served(g)]
    if not guardrails:
        return ()
    budget = harm_budget(manifest)
    try:
        cells = serving_cells(ledger.counters.buckets(state.rollout_id), [g.name for g in guardrails])
        spec = LookSpec(
            metrics=tuple(
                replace(guardrail_spec(g, manifest.experiment), part=g.on_fail) for g in guardrails
            ),
            alpha=manifest.experiment.alpha,
            harm_alpha=budget.alpha,
            tests=budget.tests,
        )
        look = analyse(cells, spec)
    except NotMeasured as error:
        return tuple(_not_measured(g, str(error), now) for g in guardrails)
    found = (
        harm_evidence(guardrail, result, at=now, valid_for=staleness(manifest))
        for guardrail, result in zip(guardrails, look.metrics, strict=True)
    )
    return (*(_enough(evidence, manifest) for evidence in found), doubt(manifest, look, at=now))


def _enough(evidence: Evidence, manifest: RolloutManifest) -> Evidence:
    """A pass on a handful of copies says little: it waits for as many answers as the agreement does."""
    needed, counted = manifest.validation.agreement_rows, evidence.values.get("units")
    few = not isinstance(counted, int | float) or counted < needed
    if evidence.verdict is not Verdict.PASS or not few:
        return evidence
    reason = f"{counted:.0f} copies counted, {needed} needed; {evidence.reason}"
    return replace(evidence, verdict=Verdict.UNKNOWN, pending=True, reason=reason)


def _not_measured(guardrail: Guardrail, reason: str, now: datetime) -> Evidence:
    return Evidence(
        name=guardrail.name,
        source=SOURCE,
        verdict=Verdict.UNKNOWN,
        reason=reason,
        at=now,
        on_fail=guardrail.on_fail,
    )


def _agreed(lake: Lake, model: Model, state: RolloutState, now: datetime, complete: datetime) -> Evidence:
    settings = model.rollout.validation
    unknown = Evidence(
        name=AGREEMENT,
        source=SOURCE,
        verdict=Verdict.UNKNOWN,
        reason="",
        at=now,
        on_fail=OnFail.HOLD,
        valid_for=staleness(model.rollout),
    )
    try:
        found = agreement(
            lake,
            model.name,
            champion=state.champion or "",
            challenger=state.version,
            start=state.since,
            end=watermark_of(lake, model.name, complete),
            tolerance=settings.agreement_tolerance,
        )
    except LakeError as error:
        return replace(unknown, reason=f"answers could not be compared: {error}")
    verdict, pending, reason = judged(found, settings)
    return replace(unknown, verdict=verdict, pending=pending, reason=reason, values=_values(found))


def judged(found: Agreement, settings: Validation) -> tuple[Verdict, bool, str]:
    """Verdict, whether it only needs more data, and the reason in words."""
    least = found.least
    if found.pairs < settings.agreement_rows or least is None:
        words = f"{found.pairs} answers compared with the champion's, {settings.agreement_rows} needed"
        return Verdict.UNKNOWN, True, words
    wanted = settings.min_agreement
    words = (
        f"{least.name}: {least.share:.1%} of {found.pairs:,} answers agree with the champion's"
        f" (at least {wanted:.0%}; {found.failed:,} copies failed; median latency"
        f" {_ms(found.challenger_ms)} against {_ms(found.champion_ms)})"
    )
    if least.share >= wanted:
        return Verdict.PASS, False, words
    error = math.sqrt(least.share * (1 - least.share) / found.pairs)
    if least.share + _CLEAR * error < wanted:
        return Verdict.FAIL, False, words
    return Verdict.UNKNOWN, True, f"{words}; too close to tell yet"


def _ms(latency: float | None) -> str:
    return "unknown" if latency is None else f"{latency:.3g} ms"


def _values(found: Agreement) -> dict[str, float | int | str | None]:
    values: dict[str, float | int | str | None] = {
        "pairs": found.pairs,
        "failed": found.failed,
        "champion_ms": found.champion_ms,
        "challenger_ms": found.challenger_ms,
    }
    for column in found.columns:
        values |= {
            f"{column.name}.share": column.share,
            f"{column.name}.correlation": column.correlation,
            f"{column.name}.distance": column.distance,
        }
    return values
