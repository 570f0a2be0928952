"""One look at a rollout's experiment: a pure function from additive cells to conclusions in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.core.errors import NotMeasured
from pipelines.core.statistics import metric_look, srm
from pipelines.core.statistics.columns import Columns, columns
from pipelines.core.statistics.effects import Cell
from pipelines.core.statistics.look_spec import Conclusion, LookSpec, MetricSpec, log_sum
from pipelines.core.statistics.loss import Loss, find_loss, not_compared
from pipelines.core.statistics.metric_analysis import analyse_metric, crossed_by_slices, crossed_together
from pipelines.core.statistics.metric_look import MetricLook
from pipelines.core.statistics.slices import Sliced
from pipelines.core.statistics.srm import StepUnits

_GOOD = (Conclusion.BETTER, Conclusion.NON_INFERIOR)


@dataclass(frozen=True)
class SrmLook:
    """Whether the variants hold their planned shares of units."""

    log_e: float
    log_boundary: float
    p: float | None
    """Chi-square, at the final look only."""
    is_mismatch: bool
    sentence: str


@dataclass(frozen=True)
class Look:
    """Everything that one look found; store it, and never recompute it on revised data."""

    metrics: tuple[MetricLook, ...]
    units: tuple[StepUnits, ...]
    """Per step; the planned share is NaN where the spec names none."""
    srm: SrmLook | None
    """None without planned shares."""
    sentences: tuple[str, ...]
    losses: tuple[Loss, ...] = ()
    """Of each metric that leaves units out."""

    @property
    def primary(self) -> MetricLook | None:
        """The metric that the rollout is for, if the spec named one."""
        return next((metric for metric in self.metrics if metric.is_primary), None)

    @property
    def harmful(self) -> tuple[str, ...]:
        """Metrics whose evidence of harm passed the error budget's boundary: roll back."""
        return tuple(metric.name for metric in self.metrics if metric.is_harmful)

    @property
    def is_promotable(self) -> bool:
        """Every metric is better or non-inferior, and the sample ratio was checked and holds."""
        sound = self.srm is not None and not self.srm.is_mismatch
        return sound and all(metric.conclusion in _GOOD for metric in self.metrics)


def analyse(
    cells: Sequence[Cell],
    spec: LookSpec,
    *,
    units: Sequence[StepUnits] | None = None,
    sliced: Sliced | None = None,
) -> Look:
    """One look.

    Args:
        cells: every metric's buckets so far. Buckets must be final (exposure plus outcome window is past).
        spec: what to analyse and how.
        units: distinct units per step for the sample ratio; default: the units of the primary metric (or of
            the first one), with the shares of the spec.
        sliced: the same units by slice, as final as the cells; None where nobody asks for slices.

    Returns:
        A metric with too little data, or with none, is `not yet`.

    Raises:
        NotMeasured: NaN, infinite or negative sums, impossible counts, cells of a metric the spec does not
            know, or two cells for the same bucket. The message names metric and value.
    """
    known = {metric.name for metric in spec.metrics}
    unknown = sorted({cell.metric for cell in cells} - known)
    if unknown:
        raise NotMeasured(f"look: cells of {', '.join(unknown)}, must be of {', '.join(sorted(known))}")
    tables = {metric.name: columns(cells, metric.name, metric.kind) for metric in spec.metrics}
    looks = tuple(
        analyse_metric(
            metric,
            tables[metric.name],
            alpha=spec.alpha,
            budget=spec.budget,
            is_final=spec.is_final,
            sliced=sliced,
        )
        for metric in spec.metrics
    )
    losses = tuple(
        find_loss(cells, metric.name, alpha=spec.loss_alpha)
        for metric in spec.metrics
        if metric.leaves_units_out
    )
    looks = _judged_together(_without_lost(looks, losses), spec)
    leading = next((metric for metric in spec.metrics if metric.is_primary), spec.metrics[0])
    counted = tuple(units) if units is not None else _units(tables[leading.name], spec)
    ratio = _sample_ratio(counted, spec)
    sentences = [*(look.sentence for look in looks), *([ratio.sentence] if ratio else [])]
    return Look(looks, counted, ratio, tuple(sentences), losses)


def _without_lost(looks: Sequence[MetricLook], losses: Sequence[Loss]) -> tuple[MetricLook, ...]:
    """Where values are lost unequally, what is left says neither good nor bad."""
    unequal = {loss.metric: loss for loss in losses if loss.is_unequal}
    return tuple(not_compared(look, unequal[look.name]) if look.name in unequal else look for look in looks)


def _judged_together(looks: Sequence[MetricLook], spec: LookSpec) -> tuple[MetricLook, ...]:
    """The error budget's sum rule over the e-values of each part."""
    parts: dict[str, dict[str, float]] = {}
    for metric, look in zip(spec.metrics, looks, strict=True):
        if metric.part is not None and look.harm.log_e is not None and not look.is_lost:
            parts.setdefault(metric.part, {})[metric.name] = look.harm.log_e
        elif metric.part is None and metric.sliced_part is not None and look.slices is not None:
            parts.setdefault(metric.sliced_part, {})[metric.name] = look.slices.value
    totals = {name: log_sum(part.values()) for part in parts.values() for name in spec.budget.harmful(part)}
    return tuple(
        _crossed(metric, look, totals[look.name], spec.alpha) if look.name in totals else look
        for metric, look in zip(spec.metrics, looks, strict=True)
    )


def _crossed(metric: MetricSpec, look: MetricLook, total: float, alpha: float) -> MetricLook:
    crossed = crossed_by_slices if metric.part is None else crossed_together
    return crossed(look, total, alpha)


def _units(table: Columns, spec: LookSpec) -> tuple[StepUnits, ...]:
    return tuple(
        StepUnits(step, stratum.champion.n, stratum.challenger.n, spec.shares.get(step, math.nan))
        for step, stratum in table.strata().items()
    )


def _sample_ratio(units: Sequence[StepUnits], spec: LookSpec) -> SrmLook | None:
    planned = [step for step in units if not math.isnan(step.challenger_share)]
    if not planned or len(planned) < len(units):
        return None
    boundary = -math.log(spec.srm_alpha)
    log_e = srm.log_e(planned)
    p = srm.chi_square(planned).p if spec.is_final else None
    mismatch = log_e >= boundary or (p is not None and p < spec.srm_alpha)
    return SrmLook(log_e, boundary, p, mismatch, metric_look.srm_sentence(log_e, boundary, p, spec.srm_alpha))
