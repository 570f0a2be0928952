"""What one look reads: the manifest, the registered constants and a rollout's history give the cells that
nothing can change any more.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pipelines.core.manifest.model import Guardrail, Metric, RolloutManifest, format_duration
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.statistics.effects import Cell, Sums
from pipelines.core.statistics.look_spec import LookSpec
from pipelines.core.statistics.power import SequentialMethod
from pipelines.core.statistics.slices import SliceColumn
from pipelines.core.vocabulary import OnFail
from pipelines.experiments.history import horizon, is_counted_live, is_served, metric_query, metrics_of
from pipelines.experiments.registering import RegisteredConstants
from pipelines.rollouts.harm_budget import harm_budget
from resources.lake.connection import Lake
from resources.lake.experiment import ExperimentQuery, Span, StepWindow
from resources.lake.windows import longest_latency
from resources.ledger.counters import CounterBucket

_LEAST_LAG = timedelta(seconds=4)
"""For what logs a request after its answer has left, as KServe's logger does."""

_MARGIN = timedelta(seconds=1)

_MOST_LAG = timedelta(minutes=2)
"""Whoever takes longer to answer is missing from a look; waiting for longer would miss the look."""


def watermark_of(lake: Lake, model: str, complete: datetime) -> datetime:
    """Every request before this has been answered, logged and loaded.

    A request is logged when it is answered, so it may be older than the segment it is in: by the longest latency.
    Raises LakeError.
    """
    lag = max(_LEAST_LAG, longest_latency(lake, model, complete) + _MARGIN)
    return complete - min(lag, _MOST_LAG)


# The serving side's counters as cells: the same analysis for what the gateway counts and what the lake holds.


def serving_cells(buckets: Iterable[CounterBucket], metrics: Iterable[str]) -> list[Cell]:
    """One cell per counter bucket of the named metrics; a trial is a unit, an event is 1."""
    wanted = set(metrics)
    return [
        Cell(
            metric=bucket.metric,
            step=bucket.step,
            bucket=bucket.at.timestamp(),
            champion=_sums(bucket.champion_trials, bucket.champion_events),
            challenger=_sums(bucket.canary_trials, bucket.canary_events),
        )
        for bucket in buckets
        if bucket.metric in wanted and bucket.step >= 0
    ]


def _sums(trials: float, events: float) -> Sums:
    return Sums(n=trials, sy=events, syy=events, sd=trials, sdd=trials, syd=events)


# Which buckets may enter a look: those that nothing can change any more, each at one look only.
#
# A bucket is final once its end and the metric's outcome window have passed by the watermark. What enters a
# look is stored with it; the next look adds what became final since. So no look is ever recomputed on revised
# data, and late data can only reach buckets that no look has seen.


_BUCKETS = 1000
"""About so many in the longest rollout: what a look costs at the end."""


def bucket_width(state: RolloutState) -> timedelta:
    """Whole seconds, from one to an hour; the same at every look of the rollout."""
    return bucket_width_within(state.policy.max_duration)


def bucket_width_within(max_duration: timedelta) -> timedelta:
    """The width in rollouts that may last so long."""
    wanted = math.ceil(max_duration / timedelta(seconds=1) / _BUCKETS)
    return timedelta(seconds=min(max(wanted, 1), 3600))


def open_since(query: ExperimentQuery, spans: dict[str, Span]) -> datetime | None:
    """Buckets that start before this are not new in any metric; None where any bucket may be."""
    found: list[datetime] = []
    for metric in query.metrics:
        after = spans[metric.name].after
        if after is None:
            return None
        found.append(after - query.window_of(metric) - query.bucket)
    return min(found, default=None)


def newly_final(cells: Iterable[Cell], query: ExperimentQuery, spans: dict[str, Span]) -> list[Cell]:
    """The lake's cells that became final in their metric's span."""
    windows = {metric.name: query.window_of(metric) for metric in query.metrics}
    ends = query.step_ends()
    found: list[Cell] = []
    for cell in cells:
        end = datetime.fromtimestamp(cell.bucket, UTC) + query.bucket
        end = min(end, ends[cell.step] or end)
        if _is_new(end + windows[cell.metric], spans[cell.metric]):
            found.append(cell)
    return found


def served_cells(buckets: Sequence[CounterBucket], width: timedelta, spans: dict[str, Span]) -> list[Cell]:
    """The live counters in buckets of `width`; a trial is a unit, an event is 1."""
    sums: dict[tuple[str, int, float], tuple[Sums, Sums]] = {}
    seconds = width.total_seconds()
    for bucket in buckets:
        if bucket.metric not in spans:
            continue
        start = math.floor(bucket.at.timestamp() / seconds) * seconds
        if not _is_new(datetime.fromtimestamp(start, UTC) + width, spans[bucket.metric]):
            continue
        place = (bucket.metric, bucket.step, start)
        champion, challenger = sums.get(place, (Sums(), Sums()))
        sums[place] = (
            champion.plus(_sums(bucket.champion_trials, bucket.champion_events)),
            challenger.plus(_sums(bucket.canary_trials, bucket.canary_events)),
        )
    return [Cell(*place, champion, challenger) for place, (champion, challenger) in sorted(sums.items())]


def _is_new(final_at: datetime, span: Span) -> bool:
    return final_at <= span.watermark and (span.after is None or final_at > span.after)


# A manifest, the registered constants and a rollout's history -> what to read from the lake, and how to analyse it.


def step_windows(state: RolloutState, now: datetime) -> tuple[StepWindow, ...]:
    """The times in which the share was certain, and live traffic was split between canary and champion.

    At 100 % (a bake without a holdback) whoever still reaches the champion got there by chance: nothing is compared.

    Between the moment a change was begun and the one it was confirmed either share may have been in force:
    what was exposed then belongs to no step. A dry run has none: its shares never come into force.
    """
    if not state.weights:
        return ()
    following = [weight.begun for weight in state.weights[1:]] + [now]
    spans = [(w, end) for w, end in zip(state.weights, following, strict=True) if w.percent > 0]
    steps = range(_shadow_steps(state), _shadow_steps(state) + len(spans))
    return tuple(
        StepWindow(weight.at, end, step)
        for step, (weight, end) in zip(steps, spans, strict=True)
        if weight.at < end and weight.percent < 100
    )


def shares(state: RolloutState) -> dict[int, float]:
    """The canary's share of traffic (0 to 1) at each step of `step_windows`."""
    percents = [weight.percent for weight in state.weights if weight.percent > 0]
    return {step: percent / 100 for step, percent in enumerate(percents, start=_shadow_steps(state))}


def lake_query(
    manifest: RolloutManifest,
    state: RolloutState,
    windows: Sequence[StepWindow],
    registered: Mapping[str, RegisteredConstants],
    *,
    watermark: datetime,
    slices: Sequence[SliceColumn] = (),
) -> ExperimentQuery:
    """What the lake is asked: every registered metric that the serving side does not count itself, and with `slices` those as
    well, by slice: the serving side knows of none."""
    if state.champion is None:
        raise ValueError(f"{state.rollout_id} has no champion to compare with")
    by_request = manifest.experiment.unit == "request"
    live = {m.name for m in metrics_of(manifest) if is_counted_live(manifest, m)}
    asked = [m for m in metrics_of(manifest) if m.name in registered and (slices or m.name not in live)]
    return ExperimentQuery(
        champion=state.champion,
        challenger=state.version,
        steps=tuple(windows),
        metrics=tuple(
            metric_query(
                metric,
                by_request=by_request,
                cap=registered[metric.name].cap,
                reference=registered[metric.name].reference,
                covariate_reference=registered[metric.name].covariate_reference,
            )
            for metric in asked
        ),
        outcome_window=manifest.experiment.outcome_window,
        watermark=watermark,
        by_request=by_request,
        bucket=bucket_width(state),
        slices=tuple(slices),
        slices_alone=frozenset(live),
    )


def look_spec(
    manifest: RolloutManifest,
    by_step: dict[int, float],
    registered: Sequence[RegisteredConstants],
    *,
    is_final: bool,
    baking: bool = False,
) -> LookSpec:
    """How the look is analysed: one error budget over all of the rollout's metrics, another one for its bake.

    Planned looks end with the promotion: in the bake every test is one that may be looked at any time.
    """
    budget, parts = (
        harm_budget(manifest, baking=baking),
        {m.name: part_of(manifest, m) for m in metrics_of(manifest)},
    )
    sliced_parts = {
        m.name: _moment(manifest, m) if parts[m.name] is None else None for m in metrics_of(manifest)
    }
    warning = {g.name for g in manifest.guardrails if g.on_fail is OnFail.WARN}
    losing = {m.name for m in metrics_of(manifest) if _leaves_units_out(manifest, m)}
    specs = (
        replace(
            each.spec,
            part=parts[each.spec.name],
            sliced_part=sliced_parts[each.spec.name],
            holds_back=each.spec.name not in warning,
            leaves_units_out=each.spec.name in losing,
        )
        for each in registered
    )
    return LookSpec(
        metrics=tuple(replace(each, method=SequentialMethod.ANYTIME) if baking else each for each in specs),
        alpha=manifest.experiment.alpha,
        harm_alpha=budget.alpha,
        tests=budget.tests,
        shares=by_step,
        loss_tests=len(losing) or None,
        is_final=is_final,
    )


def _leaves_units_out(manifest: RolloutManifest, metric: Metric) -> bool:
    return metric_query(metric, by_request=manifest.experiment.unit == "request").leaves_units_out


def part_of(manifest: RolloutManifest, metric: Metric) -> str | None:
    """Which other e-values the metric's is added to: those that learn of a unit as late and roll back as well.

    None for what rolls back on the live counters: the same counts are not tested twice, also where they are each unit's first. What
    holds or warns is a part of its own, and is tested here alone.
    """
    if isinstance(metric, Guardrail) and metric.on_fail is not OnFail.ROLL_BACK:
        return metric.name
    if is_served(metric):
        return None
    return _moment(manifest, metric)


def _moment(manifest: RolloutManifest, metric: Metric) -> str:
    return f"after {format_duration(horizon(manifest, metric))}"


def ends_at(state: RolloutState) -> datetime:
    """When the experiment is over, whatever it has found."""
    test = state.policy.ab_test
    if state.phase is Phase.BAKING:
        return state.since + state.policy.bake
    if test is not None and state.phase is Phase.STEPPING:
        return state.since + test.duration
    return state.started_at + state.policy.max_duration


def is_final_look(state: RolloutState, now: datetime, *, look_every: timedelta) -> bool:
    """Whether no other look fits in before the end."""
    return now + 1.5 * look_every >= ends_at(state)


def _shadow_steps(state: RolloutState) -> int:
    """How many steps of the ramp come before the first percent."""
    return sum(step == "shadow" for step in state.policy.ramp)
