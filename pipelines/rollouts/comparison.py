"""Can the challenger answer what the champion answered, and is it worse where the outcome is known?"""

import math
from collections.abc import Sequence
from typing import Literal, assert_never

from pipelines.core.manifest.model import RolloutManifest, Validation, ValidationMetric
from pipelines.core.vocabulary import Verdict
from pipelines.rollouts.validation import BatchAnswers, Predict, Step, ask
from resources.lake.connection import Lake
from resources.lake.logged_requests import LabelledRows, labelled_rows, logged_rows
from resources.registry.signature import ModelSchema

MIN_ROWS = 50
"""Fewer labelled rows say nothing about a difference."""

MAX_FAILING_SHARE = 0.005
"""A version that cannot answer more than this share of what the champion answered is refused: 0.5 %."""

REPLAY: Literal["replay"] = "replay"

COMPARISON: Literal["comparison"] = "comparison"

_CLASSIFIES = ("roc_auc", "log_loss")


def replay(
    lake: Lake, manifest: RolloutManifest, *, champion: str, schema: ModelSchema, predict: Predict
) -> Step:
    """Send what callers sent to the champion, as they sent it, to the challenger.

    `schema` is the champion's: callers do not know of a column that the challenger added. Fails where the challenger
    cannot answer more than 0.5 % of the rows. Raises LakeError, and ServingError where it could not be asked.
    """
    rows = logged_rows(lake, manifest, champion, schema)
    if not rows:
        return impossible(
            REPLAY, manifest, f"nothing was replayed: the log has no answered request of version {champion}"
        )
    tolerated = math.floor(MAX_FAILING_SHARE * len(rows))
    answers = ask(predict, schema, rows, tolerated=tolerated)
    values = {"replay_rows": len(rows), "replay_failed": answers.failed}
    if answers.failed > tolerated:
        detail = _cannot_answer(answers, champion)
        return Step(name=REPLAY, verdict=Verdict.FAIL, detail=detail, values=values)
    detail = f"answers {len(rows) - answers.failed} of {len(rows)} logged requests of version {champion}"
    return Step(name=REPLAY, verdict=Verdict.PASS, detail=detail, values=values)


def compare_offline(
    lake: Lake,
    manifest: RolloutManifest,
    *,
    champion: str,
    schemas: tuple[ModelSchema, ModelSchema],
    predict: Predict,
) -> Step | None:
    """Send the champion's labelled requests to the challenger and compare; None where no label is named.

    `schemas` are the champion's and the challenger's signatures, `predict` asks the challenger. The values are
    `offline_champion`, `offline_challenger` (the metric), `offline_rows` and `offline_failed`. Raises LakeError, and
    ServingError where the challenger could not be asked.
    """
    label = manifest.validation.label
    if label is None:
        return None
    score = score_output(label, *schemas)
    if score is None:
        names = f"{label!r}, {label}_probability or {label}_score"
        return _skipped(manifest, f"both versions need one numeric output, or one named {names}")
    rows = labelled_rows(lake, manifest, champion, schemas[0], score=score)
    if (reason := _unfit(rows.labels, manifest.validation)) is not None:
        return _skipped(manifest, reason)
    tolerated = math.floor(MAX_FAILING_SHARE * len(rows.labels))
    answers = ask(predict, schemas[0], rows.rows, score=score, tolerated=tolerated)
    if answers.failed > tolerated:
        return _fails(answers, champion, len(rows.labels))
    return _judged(manifest, champion, rows, answers)


def _skipped(manifest: RolloutManifest, reason: str) -> Step:
    return impossible(COMPARISON, manifest, f"not compared with the champion: {reason}")


def impossible(name: Literal["replay", "comparison"], manifest: RolloutManifest, reason: str) -> Step:
    """There is nothing to compare with: said in any case, and waited for where the manifest requires it."""
    if name not in manifest.validation.required:
        return Step(name=name, verdict=Verdict.PASS, detail=reason)
    detail = f"{reason}; validation.required has {name}, so this is waited for"
    return Step(name=name, verdict=Verdict.UNKNOWN, detail=detail, pending=True)


def _cannot_answer(answers: BatchAnswers, champion: str) -> str:
    share = answers.failed / answers.asked
    return (
        f"cannot answer {answers.failed} of {answers.asked} logged requests that version {champion} answered"
        f" ({share:.1%}, allowed {MAX_FAILING_SHARE:.1%}); the first: {answers.first_error}"
    )


def _fails(answers: BatchAnswers, champion: str, rows: int) -> Step:
    return Step(
        name=COMPARISON,
        verdict=Verdict.FAIL,
        detail=_cannot_answer(answers, champion),
        values={"offline_rows": rows, "offline_asked": answers.asked, "offline_failed": answers.failed},
    )


def _judged(manifest: RolloutManifest, champion: str, rows: LabelledRows, answers: BatchAnswers) -> Step:
    """Both metrics on the rows that both answered."""
    validation = manifest.validation
    both = [i for i, score in enumerate(answers.scores) if score is not None]
    labels = [rows.labels[i] for i in both]
    if (reason := _unfit(labels, validation)) is not None:
        return _skipped(manifest, reason)
    old = _metric(validation.metric, labels, [rows.scores[i] for i in both])
    if not math.isfinite(old):
        return _skipped(manifest, f"the answers of version {champion} are no probabilities")
    new = _metric(validation.metric, labels, [score for score in answers.scores if score is not None])
    worse = old - new if validation.metric == "roc_auc" else new - old
    failed = f"; no answer to {answers.failed} of them: {answers.first_error}" if answers.failed else ""
    return Step(
        name=COMPARISON,
        verdict=Verdict.PASS if worse <= validation.max_worse else Verdict.FAIL,
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
        frozenset(column.name for column in schema.outputs if column.holds.counts) for schema in versions
    ]
    if len(set(numeric)) == 1 and len(numeric[0]) == 1:
        return next(iter(numeric[0]))
    names = (label, f"{label}_probability", f"{label}_score")
    return next((name for name in names if all(name in outputs for outputs in numeric)), None)
