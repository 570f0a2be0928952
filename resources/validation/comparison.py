"""Is the challenger worse than the champion on requests whose outcome is known?"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from pipelines.manifest.model import RolloutManifest, Validation, ValidationMetric
from resources.lake.connection import Lake
from resources.signature import ModelSchema
from resources.validation.answers import Answers, Predict, ask
from resources.validation.labelled import LabelledRows, labelled_rows

MIN_ROWS = 50
"""Fewer labelled rows say nothing about a difference."""
MAX_FAILING_SHARE = 0.005
"""A version that cannot answer more than this share of what the champion answered is refused: 0.5 %."""
_CLASSIFIES = ("roc_auc", "log_loss")
_NUMBERS = ("double", "float", "long", "integer", "boolean")


@dataclass(frozen=True, kw_only=True)
class OfflineComparison:
    """What was found; `ok` with a detail that says so where nothing could be compared."""

    ok: bool
    detail: str
    values: Mapping[str, float | int | str | None] = field(
        default_factory=dict[str, float | int | str | None]
    )
    """`offline_champion`, `offline_challenger` (the metric), `offline_rows`, `offline_failed`."""


def compare_offline(
    lake: Lake,
    manifest: RolloutManifest,
    *,
    champion: str,
    inputs: tuple[ModelSchema, ModelSchema],
    predict: Predict,
) -> OfflineComparison | None:
    """Send the champion's labelled requests to the challenger and compare; None where no label is named.

    `inputs` are the champion's and the challenger's signatures, `predict` asks the challenger. Raises LakeError.
    """
    label = manifest.validation.label
    if label is None:
        return None
    score = score_output(label, *inputs)
    if score is None:
        return _skipped(
            f"both versions need one numeric output, or one named {label!r}, {label}_probability or {label}_score"
        )
    if missing := _unlogged(*inputs):
        return _skipped(f"the champion's log has no {', '.join(missing)}")
    rows = labelled_rows(lake, manifest, champion, inputs=inputs[1], score=score)
    if (reason := _unfit(rows.labels, manifest.validation)) is not None:
        return _skipped(reason)
    tolerated = math.floor(MAX_FAILING_SHARE * len(rows.labels))
    answers = ask(predict, inputs[1], rows.features, score=score, tolerated=tolerated)
    if answers.failed > tolerated:
        return _fails(answers, champion, len(rows.labels))
    return _judged(manifest.validation, champion, rows, answers)


def _skipped(reason: str) -> OfflineComparison:
    return OfflineComparison(ok=True, detail=f"not compared with the champion: {reason}")


def _fails(answers: Answers, champion: str, rows: int) -> OfflineComparison:
    share = answers.failed / answers.asked
    return OfflineComparison(
        ok=False,
        detail=(
            f"cannot answer {answers.failed} of {answers.asked} logged requests that version {champion} answered"
            f" ({share:.1%}, allowed {MAX_FAILING_SHARE:.1%}); the first: {answers.first_error}"
        ),
        values={"offline_rows": rows, "offline_asked": answers.asked, "offline_failed": answers.failed},
    )


def _judged(validation: Validation, champion: str, rows: LabelledRows, answers: Answers) -> OfflineComparison:
    """Both metrics on the rows that both answered."""
    both = [i for i, score in enumerate(answers.scores) if score is not None]
    labels = [rows.labels[i] for i in both]
    if (reason := _unfit(labels, validation)) is not None:
        return _skipped(reason)
    old = _metric(validation.metric, labels, [rows.scores[i] for i in both])
    new = _metric(validation.metric, labels, [score for score in answers.scores if score is not None])
    worse = old - new if validation.metric == "roc_auc" else new - old
    failed = f"; no answer to {answers.failed} of them: {answers.first_error}" if answers.failed else ""
    return OfflineComparison(
        ok=worse <= validation.max_worse,
        detail=(
            f"{validation.metric} {new:.4g} against {old:.4g} of version {champion} on {len(both)} logged requests,"
            f" {abs(worse):.4g} {'worse' if worse > 0 else 'better'} (allowed {validation.max_worse:g} worse){failed}"
        ),
        values={
            "offline_champion": old,
            "offline_challenger": new,
            "offline_rows": len(both),
            "offline_failed": answers.failed,
        },
    )


def _metric(name: ValidationMetric, labels: Sequence[float], scores: Sequence[float]) -> float:
    """The metric of these answers; infinite where a probability is asked for and another number is given."""
    from sklearn import metrics

    match name:
        case "roc_auc":
            return float(metrics.roc_auc_score(labels, scores))
        case "log_loss":
            possible = all(0 <= score <= 1 for score in scores)
            return float(metrics.log_loss(labels, scores)) if possible else math.inf
        case "rmse":
            return float(metrics.root_mean_squared_error(labels, scores))
        case "mae":
            return float(metrics.mean_absolute_error(labels, scores))
        case _:
            assert_never(name)


def _unfit(labels: Sequence[float], validation: Validation) -> str | None:
    """Why these labels cannot be used."""
    if len(labels) < MIN_ROWS:
        return f"{len(labels)} logged requests have the outcome {validation.label!r}, {MIN_ROWS} are needed"
    if validation.metric in _CLASSIFIES and set(labels) != {0.0, 1.0}:
        some = ", ".join(f"{value:g}" for value in sorted(set(labels))[:5])
        return f"{validation.metric} needs labels 0 and 1, {validation.label!r} has {some}"
    return None


def score_output(label: str, *versions: ModelSchema) -> str | None:
    """The output that predicts the label: the only numeric one of all versions, or the one named after it."""
    numeric = [
        frozenset(c.name for c in schema.outputs if c.type in _NUMBERS and not c.many) for schema in versions
    ]
    if len(set(numeric)) == 1 and len(numeric[0]) == 1:
        return next(iter(numeric[0]))
    names = (label, f"{label}_probability", f"{label}_score")
    return next((name for name in names if all(name in outputs for outputs in numeric)), None)


def _unlogged(champion: ModelSchema, challenger: ModelSchema) -> list[str]:
    """What the challenger needs and the log cannot give: new columns, and lists."""
    known = {column.name.lower() for column in champion.inputs if not column.many}
    needed = (column for column in challenger.inputs if column.required or column.many)
    return [repr(column.name) for column in needed if column.name.lower() not in known]
