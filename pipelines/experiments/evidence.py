"""What a look found, as evidence in the rollout."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from pipelines.core.manifest.model import Guardrail, Metric, RolloutManifest
from pipelines.core.rollout.doubt import doubt_evidence
from pipelines.core.rollout.policy import LOOK_DOUBT, UNITS
from pipelines.core.rollout.state import RolloutState
from pipelines.core.statistics.look import Look, SrmLook
from pipelines.core.statistics.look_spec import Conclusion
from pipelines.core.statistics.loss import Loss, loss_words
from pipelines.core.statistics.metric_look import MetricLook, odds
from pipelines.core.vocabulary import Evidence, NeededFor, OnFail, Verdict
from pipelines.experiments.history import metrics_of, outcomes_of
from pipelines.experiments.registering import waiting_words

SOURCE = "experiment"

MIN_STALENESS = timedelta(minutes=3)

_GOOD = (Conclusion.BETTER, Conclusion.NON_INFERIOR)

_LOOKS = 4
"""A look counts until so many more should have come."""


def look_evidence(
    manifest: RolloutManifest, state: RolloutState, look: Look, *, at: datetime
) -> tuple[Evidence, ...]:
    """Harm and margin of every metric, the sample ratio, and whether the step has its units."""
    valid_for = staleness(manifest)
    metrics = {metric.name: metric for metric in metrics_of(manifest)}
    found: list[Evidence] = []
    for result in look.metrics:
        found += _metric_evidence(
            metrics[result.name], result, at, valid_for, only_better=_only_better(state)
        )
    found.append(doubt(manifest, look, at=at))
    found.append(_units(manifest, state, look, at, valid_for))
    if look.srm is not None:
        found.append(_sample_ratio(look.srm, at, valid_for))
    found += (_loss(manifest, metrics[loss.metric], loss, at, valid_for) for loss in look.losses)
    return tuple(found)


def doubt(manifest: RolloutManifest, look: Look, *, at: datetime) -> Evidence:
    """Whether any metric's evidence of harm is too much to give the challenger more; it takes nothing back."""
    below = manifest.experiment.advance_below
    warns = {g.name for g in manifest.guardrails if g.on_fail is OnFail.WARN}
    found = {m.name: m.log_e for m in look.metrics if m.name not in warns}
    known = {name: log_e for name, log_e in found.items() if log_e is not None}
    return doubt_evidence(LOOK_DOUBT, known, below, source=SOURCE, at=at, valid_for=staleness(manifest))


def unknown_evidence(manifest: RolloutManifest, reason: str, *, at: datetime) -> tuple[Evidence, ...]:
    """The look could not be taken: every metric is unknown, which holds and never rolls back by itself."""
    return tuple(
        Evidence(
            name=_harm_name(metric),
            source=SOURCE,
            verdict=Verdict.UNKNOWN,
            reason=reason,
            at=at,
            on_fail=_on_fail(metric),
            valid_for=timedelta(days=1),
        )
        for metric in metrics_of(manifest)
    )


def waiting_evidence(
    manifest: RolloutManifest, metrics: Sequence[Metric], *, at: datetime, seen: frozenset[str]
) -> tuple[Evidence, ...]:
    """These metrics have no constants yet: that only needs more data, and holds until it is there.

    `seen` are the outcomes that there has ever been a value of.
    """
    return tuple(
        evidence
        for metric in metrics
        for evidence in _waiting(manifest, metric, waiting_words(metric, seen), at)
    )


def _waiting(
    manifest: RolloutManifest, metric: Metric, reason: str, at: datetime
) -> tuple[Evidence, Evidence]:
    harm = Evidence(
        name=_harm_name(metric),
        source=SOURCE,
        verdict=Verdict.UNKNOWN,
        reason=reason,
        at=at,
        on_fail=_on_fail(metric),
        pending=True,
        valid_for=staleness(manifest),
    )
    return harm, replace(
        harm, name=_margin_name(metric), needed_for=NeededFor.PROMOTE, on_fail=_on_no_margin(metric)
    )


def equal_evidence(
    manifest: RolloutManifest, metrics: Sequence[Metric], words: Mapping[str, str], *, at: datetime
) -> tuple[Evidence, ...]:
    """These metrics have one value at every unit of both versions: no harm, and within any margin."""
    return tuple(
        replace(evidence, verdict=Verdict.PASS, pending=False)
        for metric in metrics
        for evidence in _waiting(manifest, metric, words[metric.name], at)
    )


def _only_better(state: RolloutState) -> bool:
    """An A/B test promotes what is better; a rollout also what is not worse."""
    return state.policy.ab_test is not None


def _metric_evidence(
    metric: Metric, result: MetricLook, at: datetime, valid_for: timedelta, *, only_better: bool
) -> Iterable[Evidence]:
    yield harm_evidence(metric, result, at=at, valid_for=valid_for)
    enough = (Conclusion.BETTER,) if only_better and result.is_primary else _GOOD
    good = result.conclusion in enough
    yield Evidence(
        name=_margin_name(metric),
        source=SOURCE,
        verdict=Verdict.PASS if good else Verdict.UNKNOWN,
        reason=_reason(result),
        at=at,
        on_fail=_on_no_margin(metric),
        needed_for=NeededFor.PROMOTE,
        pending=not good,
        valid_for=valid_for,
        values=_values(result),
    )


def harm_evidence(metric: Metric, result: MetricLook, *, at: datetime, valid_for: timedelta) -> Evidence:
    """Whether the challenger does harm on this metric; it needs no margin and no promotion in sight."""
    measured = result.effect is not None and not result.is_lost
    return Evidence(
        name=_harm_name(metric),
        source=SOURCE,
        verdict=_harm_verdict(result),
        reason=_reason(result),
        at=at,
        on_fail=_on_fail(metric),
        pending=not measured,
        valid_for=valid_for,
        values=_values(result),
    )


def staleness(manifest: RolloutManifest) -> timedelta:
    """How long a look's evidence counts."""
    return max(_LOOKS * manifest.experiment.look_every, MIN_STALENESS)


def _values(result: MetricLook) -> dict[str, float | int | str | None]:
    return {
        "champion": result.champion,
        "challenger": result.challenger,
        "effect": result.effect,
        "low": result.interval.low if result.interval else None,
        "high": result.interval.high if result.interval else None,
        "harm": result.harm.value,
        "boundary": result.harm.boundary,
        "harm_together": result.harm.together,
        "harm_by_slices": result.slices.log_e if result.slices else None,
        "dispersion": result.dispersion,
        "worst": result.worst,
        "margin": result.margin,
        "units": result.challenger_units,
    }


def _harm_name(metric: Metric) -> str:
    """A guardrail's harm goes by the guardrail's name, as the watcher of the live counters reports it."""
    return metric.name if isinstance(metric, Guardrail) else f"{metric.name}.harm"


def _margin_name(metric: Metric) -> str:
    """The primary metric's verdict goes by its name: a promotion waits for it."""
    return f"{metric.name}.margin" if isinstance(metric, Guardrail) else metric.name


def _on_fail(metric: Metric) -> OnFail:
    return metric.on_fail if isinstance(metric, Guardrail) else OnFail.ROLL_BACK


def _on_no_margin(metric: Metric) -> OnFail:
    """What is not shown to be good keeps the promotion waiting; of a guardrail that only warns, nobody."""
    return OnFail.WARN if _on_fail(metric) is OnFail.WARN else OnFail.HOLD


def _harm_verdict(result: MetricLook) -> Verdict:
    if result.is_harmful:
        return Verdict.FAIL
    return Verdict.UNKNOWN if result.effect is None or result.is_lost else Verdict.PASS


def _reason(result: MetricLook) -> str:
    """The look's sentence; whoever prints evidence puts the name before it."""
    return result.sentence.removeprefix(f"{result.name}: ")


def _units(
    manifest: RolloutManifest, state: RolloutState, look: Look, at: datetime, valid_for: timedelta
) -> Evidence:
    """Counted units at this step, the smaller arm: what `step.min_units` asks for."""
    here = [step for step in look.units if step.step == state.exposure]
    fewest = min((min(step.champion, step.challenger) for step in here), default=0)
    enough = fewest >= manifest.step.min_units
    return Evidence(
        name=UNITS,
        source=SOURCE,
        verdict=Verdict.PASS if enough else Verdict.UNKNOWN,
        reason=f"{fewest:.0f} units counted in the smaller arm at this step, {manifest.step.min_units} needed",
        at=at,
        pending=not enough,
        valid_for=valid_for,
        values={"units": fewest, "needed": manifest.step.min_units},
    )


def _sample_ratio(srm: SrmLook, at: datetime, valid_for: timedelta) -> Evidence:
    """A broken split biases everything: it holds, and nothing is promoted on it."""
    return Evidence(
        name="sample_ratio",
        source="assignment",
        verdict=Verdict.FAIL if srm.is_mismatch else Verdict.PASS,
        reason=srm.sentence,
        at=at,
        on_fail=OnFail.HOLD,
        valid_for=valid_for,
        values={"log_e": srm.log_e, "boundary": srm.log_boundary},
    )


def _loss(
    manifest: RolloutManifest, metric: Metric, loss: Loss, at: datetime, valid_for: timedelta
) -> Evidence:
    """Values that are lost at one version more than at the other hold: it is not known what they were, so they are neither
    gone back for nor gone on with. What is too likely to go on by, and not yet clear, is waited for."""
    below = manifest.experiment.advance_below
    waits = not loss.is_unequal and loss.log_e_now >= math.log(below)
    return Evidence(
        name=f"{metric.name}.missing",
        source=SOURCE,
        verdict=Verdict.FAIL if loss.is_unequal else Verdict.UNKNOWN if waits else Verdict.PASS,
        reason=loss_words(loss) + _what_next(metric, loss, below if waits else None),
        at=at,
        on_fail=_on_no_margin(metric),
        pending=waits,
        valid_for=valid_for,
        values={
            "champion": loss.champion,
            "challenger": loss.challenger,
            "log_e": loss.log_e,
            "boundary": loss.log_boundary,
        },
    )


def _what_next(metric: Metric, loss: Loss, below: float | None) -> str:
    if below is not None:
        return f"; evidence of a difference {odds(loss.log_e_now)} to 1, advance below {below:g} to 1"
    if not loss.is_unequal:
        return ""
    zero = "; if none means that nothing came of the unit, say `missing: zero`" if outcomes_of(metric) else ""
    return f". Find out where they are lost{zero}."
