"""One look in the row of looks: what earlier looks fixed, and what this one may spend.

- A group sequential metric is tested only when its information reaches the next planned fraction (or at the
  final look); in between nothing is tested and nothing is spent. Once it has an answer, the answer stands.
- The chi-square test of the sample ratio is done once: at the first look that would promote, or at the final one.
- A sample ratio that was broken at one look stays broken: e-values hold for the whole path. So does a metric whose values are
  lost at one version more than at the other, and an answer that was given before does not stand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipelines.core.statistics import metric_look, srm
from pipelines.core.statistics.effects import Cell
from pipelines.core.statistics.look import Look, SrmLook, analyse
from pipelines.core.statistics.look_spec import Conclusion, LookSpec
from pipelines.core.statistics.metric_look import Harm, MetricLook
from pipelines.core.statistics.slices import Sliced
from pipelines.core.statistics.srm import StepUnits

_TOLERANCE = 1e-9


def analyse_next(
    cells: Sequence[Cell],
    spec: LookSpec,
    units: Sequence[StepUnits],
    *,
    past: Sequence[Look],
    planned_looks: Mapping[str, int],
    is_last_step: bool,
    sliced: Sliced | None = None,
) -> Look:
    """The look after those in `past`.

    Args:
        cells: every final bucket so far.
        spec: as registered; `is_final` at one look at most. Past fractions are filled in here.
        units: distinct units per step.
        past: earlier looks of the same experiment, in order.
        planned_looks: of each group sequential metric.
        is_last_step: the next move would be the promotion.
        sliced: the same units by slice; None where nobody asks for slices.

    Raises:
        NotMeasured: as `analyse`.
    """
    metrics = tuple(replace(m, past_fractions=_fractions(past, m.name)) for m in spec.metrics)
    look = analyse(cells, replace(spec, metrics=metrics), units=units, sliced=sliced)
    looks = tuple(
        _scheduled(metric, past, planned_looks[metric.name], spec.is_final)
        if metric_spec.method.is_planned and not metric.is_lost
        else metric
        for metric, metric_spec in zip(look.metrics, spec.metrics, strict=True)
    )
    look = replace(look, metrics=looks)
    ratio = _sample_ratio(look, past, spec, decides=is_last_step and _is_promotable(look, spec))
    sentences = [*(metric.sentence for metric in looks), *([ratio.sentence] if ratio else [])]
    return replace(look, srm=ratio, sentences=tuple(sentences))


def _of(look: Look, name: str) -> MetricLook | None:
    return next((metric for metric in look.metrics if metric.name == name), None)


def _fractions(past: Sequence[Look], name: str) -> tuple[float, ...]:
    """Information fractions at which the metric was tested."""
    tested = (_of(look, name) for look in past)
    fractions = [metric.fraction for metric in tested if metric is not None and metric.fraction is not None]
    return tuple(sorted(set(fractions)))


def _scheduled(metric: MetricLook, past: Sequence[Look], planned: int, is_final: bool) -> MetricLook:
    """The metric as found now if a look at it is due; else what stands from before."""
    before = [found for look in past if (found := _of(look, metric.name)) is not None]
    answered = next((m for m in before if m.conclusion is not Conclusion.NOT_YET), None)
    if answered is not None:
        return answered
    tested = _fractions(past, metric.name)
    reached = tested[-1] if tested else 0.0
    upcoming = next((k / planned for k in range(1, planned + 1) if k / planned > reached + _TOLERANCE), None)
    if metric.fraction is None:
        return metric
    due = is_final or (upcoming is not None and metric.fraction >= upcoming - _TOLERANCE)
    if due and metric.fraction > reached:
        return metric
    return _between(metric, upcoming)


def _between(metric: MetricLook, upcoming: float | None) -> MetricLook:
    """Not tested now: values are shown, nothing follows from them and nothing is spent."""
    when = "there is no further look" if upcoming is None else f"the next look is at {upcoming:.0%}"
    sentence = (
        f"{metric.name}: not yet, {metric.fraction:.0%} of the planned information is there and {when}."
    )
    return replace(
        metric,
        conclusion=Conclusion.NOT_YET,
        interval=None,
        relative_interval=None,
        worst=None,
        is_within_margin=False,
        harm=Harm(0.0, metric.harm.boundary, "z"),
        fraction=None,
        sentence=sentence,
    )


def _is_promotable(look: Look, spec: LookSpec) -> bool:
    """By the metrics that a promotion waits for."""
    waited_for = {metric.name for metric in spec.metrics if metric.holds_back}
    return replace(look, metrics=tuple(m for m in look.metrics if m.name in waited_for)).is_promotable


def _sample_ratio(look: Look, past: Sequence[Look], spec: LookSpec, *, decides: bool) -> SrmLook | None:
    ratio = look.srm
    if ratio is None:
        return None
    broken = next((p.srm for p in past if p.srm is not None and p.srm.is_mismatch), None)
    if broken is not None:
        return replace(ratio, p=broken.p, is_mismatch=True, sentence=broken.sentence)
    tested = next((p.srm.p for p in past if p.srm is not None and p.srm.p is not None), None)
    if tested is not None:
        return replace(ratio, p=tested)
    if ratio.p is not None or not decides:
        return ratio
    p = srm.chi_square(look.units).p
    return SrmLook(
        log_e=ratio.log_e,
        log_boundary=ratio.log_boundary,
        p=p,
        is_mismatch=ratio.is_mismatch or p < spec.srm_alpha,
        sentence=metric_look.srm_sentence(ratio.log_e, ratio.log_boundary, p, spec.srm_alpha),
    )
