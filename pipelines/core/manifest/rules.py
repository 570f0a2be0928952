"""What a well-shaped `rollout.yaml` must also satisfy: rules between keys, each with its place.

Every part is judged by itself, so that one misshapen key does not hide what is wrong elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.core.cron import Cron
from pipelines.core.manifest.document import Document, Finding, Location, dotted, parse_or_none, shown
from pipelines.core.manifest.measurement_rules import (
    drift_findings,
    guardrail_findings,
    patient_check_findings,
    primary_findings,
    row_findings,
    slice_findings,
)
from pipelines.core.manifest.model import (
    AbTest,
    Check,
    DataChecks,
    Drift,
    Duration,
    Experiment,
    Freeze,
    Guardrail,
    Metric,
    Primary,
    RolloutManifest,
    Step,
    StepFloor,
    Validation,
    format_duration,
)
from pipelines.core.metric_types import TYPES
from pipelines.core.vocabulary import OnUnknown

T = TypeVar("T")

_UNIT = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")

_VARIABLE = re.compile(r"^[A-Z][A-Z0-9_]*$")

_LONGEST_UNKNOWN = format_duration(RolloutManifest.model_fields["max_unknown"].default)

_POSITIVE: tuple[Location, ...] = (
    ("experiment", "outcome_window"),
    ("experiment", "look_every"),
    ("experiment", "max_duration"),
    ("validation", "timeout"),
    ("data_checks", "window"),
    ("drift", "window"),
    ("max_unknown",),
    ("ab_test", "duration"),
)


def meaning_findings(document: Document) -> Iterator[Finding]:
    """Everything that is wrong with the parts of the document that have the right shape."""
    yield from _step_findings(document.get("steps"))
    yield from _part(document, ("experiment",), Experiment, _experiment_findings)
    yield from _part(document, ("experiment", "primary"), Primary, primary_findings)
    yield from _each(document, ("guardrails",), Guardrail, guardrail_findings)
    yield from _name_findings(document)
    yield from _retention_findings(document)
    yield from _length_findings(document)
    yield from _unknown_findings(document)
    yield from _ab_test_findings(document)
    yield from _each(document, ("data_checks", "checks"), Check, patient_check_findings())
    yield from _part(document, ("data_checks",), DataChecks, row_findings)
    yield from _part(document, ("drift",), Drift, drift_findings)
    yield from _part(document, ("validation",), Validation, _validation_findings)
    yield from _each(document, ("freeze",), Freeze, _freeze_findings)
    yield from _alert_findings(document)
    for place in _POSITIVE:
        yield from _part(document, place, cast(type[timedelta], Duration), _positive)


def _part(
    document: Document, place: Location, kind: type[T], judge: Callable[[T], Iterator[Finding]]
) -> Iterator[Finding]:
    part = _parsed(document, place, kind)
    if part is not None:
        for inner, message in judge(part):
            yield (*place, *inner), message


def _each(
    document: Document, place: Location, kind: type[T], judge: Callable[[T], Iterator[Finding]]
) -> Iterator[Finding]:
    for index in range(len(_list(document.get(*place)))):
        yield from _part(document, (*place, index), kind, judge)


def _list(value: object) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def _step_findings(value: object) -> Iterator[Finding]:
    steps = parse_or_none(cast(Any, tuple[Step, ...]), value)
    before = 0.0
    for index, step in enumerate(steps or ()):
        place: Location = ("steps", index)
        if step == "shadow":
            if index:
                yield place, "'shadow': only allowed as the first step"
            continue
        if not 0 < step <= 100:
            yield place, f"{step:g}: expected a percentage greater than 0 and at most 100"
        elif step <= before:
            yield place, f"{step:g}: expected more than the step before, which is {before:g}"
        before = step
    if steps and steps[-1] != 100:
        yield ("steps", len(steps) - 1), f"{_percent(steps[-1])}: expected 100 as the last step"


def _percent(step: float | str) -> str:
    return repr(step) if isinstance(step, str) else f"{step:g}"


def _experiment_findings(experiment: Experiment) -> Iterator[Finding]:
    if not _UNIT.match(experiment.unit):
        yield ("unit",), f"{shown(experiment.unit)}: expected request or a name such as customer_id"
    if experiment.outcome_window >= experiment.max_duration:
        yield ("outcome_window",), "expected less than max_duration, or no unit is ever counted"
    if experiment.look_every > experiment.max_duration:
        yield ("look_every",), "expected at most max_duration, or nobody ever looks"
    for inner, message in slice_findings(experiment.slices):
        yield ("slices", *inner), message


def _metric_places(document: Document) -> list[Location]:
    guardrails = range(len(_list(document.get("guardrails"))))
    return [("experiment", "primary"), *(("guardrails", index) for index in guardrails)]


def _retention_findings(document: Document) -> Iterator[Finding]:
    """A unit counts for retention once `retention` and the outcome window after it have passed."""
    window, longest = (_duration(document, "experiment", key) for key in ("outcome_window", "max_duration"))
    for place in _metric_places(document):
        retention = parse_or_none(cast(type[timedelta], Duration), document.get(*place, "retention"))
        name = document.get(*place, "type")
        kind = TYPES.get(name) if isinstance(name, str) else None
        if retention is None or kind is None or not kind.is_seen_later:
            continue
        if document.get("experiment", "unit") in (None, "request"):
            yield (
                (*place, "type"),
                f"{kind.name!r}: a request cannot return; expected experiment.unit to name a unit",
            )
        if window is not None and longest is not None and retention + window >= longest:
            yield (
                (*place, "retention"),
                f"{format_duration(retention)!r}: with outcome_window ({format_duration(window)}) expected less than"
                f" max_duration ({format_duration(longest)}), or no unit is ever counted",
            )


def _length_findings(document: Document) -> Iterator[Finding]:
    """The steps before the last must have their shortest time within the longest of the rollout."""
    shortest = _duration(document, "step", "min_duration")
    longest = _duration(document, "experiment", "max_duration")
    steps = len([step for step in _list(document.get("steps")) if step != 100])
    if shortest is not None and longest is not None and steps and steps * shortest >= longest:
        yield (
            ("step", "min_duration"),
            f"{format_duration(shortest)!r}: {steps} steps of that expected to be shorter than experiment.max_duration"
            f" ({format_duration(longest)}), or no version is ever promoted",
        )


def _unknown_findings(document: Document) -> Iterator[Finding]:
    """Between two looks nothing can become known again."""
    written = document.get("max_unknown")
    longest = parse_or_none(cast(type[timedelta], Duration), written or _LONGEST_UNKNOWN)
    every = _duration(document, "experiment", "look_every")
    if longest is None or every is None or document.get("on_unknown") == OnUnknown.HOLD:
        return
    if timedelta(0) < longest <= every:
        yield (
            ("max_unknown",) if written else ("experiment", "look_every"),
            f"a look every {format_duration(every)}, and max_unknown is {format_duration(longest)}: expected more than"
            " one look in that time, or one that could not be taken ends the rollout",
        )


def _duration(document: Document, part: Literal["experiment", "step"], key: str) -> timedelta | None:
    """As written, or its default; None where it is misshapen."""
    written = document.get(part, key)
    fields = (Experiment if part == "experiment" else StepFloor).model_fields
    if written is None:
        return fields[key].default
    return parse_or_none(cast(type[timedelta], Duration), written)


def _validation_findings(validation: Validation) -> Iterator[Finding]:
    if "comparison" in validation.required and validation.label is None:
        yield ("required",), "comparison: nothing can be compared without a label; expected validation.label"
    if "replay" in validation.required and not validation.replay:
        yield ("required",), "replay: validation.replay is false; expected true, or no replay here"


def _ab_test_findings(document: Document) -> Iterator[Finding]:
    """A test that is over before its first unit is counted, or before anybody looks, compares nothing."""
    test = _parsed(document, ("ab_test",), AbTest)
    experiment = _parsed(document, ("experiment",), Experiment)
    if test is None or experiment is None:
        return
    for key, needed in _needed_by_a_test(document, experiment):
        if test.duration <= needed:
            yield (
                ("ab_test", "duration"),
                f"{format_duration(test.duration)}: expected more than {key}, which is {format_duration(needed)}",
            )


def _needed_by_a_test(document: Document, experiment: Experiment) -> Iterator[tuple[str, timedelta]]:
    window = experiment.outcome_window
    yield "experiment.outcome_window", window
    yield "experiment.look_every", experiment.look_every
    guardrails = [
        _parsed(document, ("guardrails", index), Guardrail)
        for index in range(len(_list(document.get("guardrails"))))
    ]
    metrics: list[Metric | None] = [experiment.primary, *guardrails]
    for metric in metrics:
        if metric is not None and metric.retention is not None:
            yield f"the retention of {metric.name} and outcome_window together", metric.retention + window


def _parsed(document: Document, place: Location, kind: type[T]) -> T | None:
    value = document.get(*place)
    return None if value is None else parse_or_none(kind, value)


def _name_findings(document: Document) -> Iterator[Finding]:
    seen: dict[str, Location] = {}
    for place in _metric_places(document):
        name = document.get(*place, "name")
        if not isinstance(name, str):
            continue
        if name in seen:
            yield (
                (*place, "name"),
                f"{shown(name)}: already the name of {dotted(seen[name])}; names are unique",
            )
        seen.setdefault(name, place)


def _freeze_findings(freeze: Freeze) -> Iterator[Finding]:
    try:
        if not Cron.parse(freeze.cron).fires:
            yield ("cron",), f"{shown(freeze.cron)}: never fires; no month of it has such a day"
    except ValueError as error:
        yield ("cron",), str(error)
    try:
        ZoneInfo(freeze.timezone)
    # OSError: a name that is a directory of the time zone database, such as `Europe`.
    except (ZoneInfoNotFoundError, ValueError, OSError):
        yield (
            ("timezone",),
            f"{shown(freeze.timezone)}: expected an IANA time zone such as UTC or Europe/Berlin",
        )
    for inner, message in _positive(freeze.duration):
        yield ("duration", *inner), message


def _alert_findings(document: Document) -> Iterator[Finding]:
    for severity in ("info", "warning", "critical"):
        for index, name in enumerate(_list(document.get("alerts", severity))):
            if isinstance(name, str) and not _VARIABLE.match(name):
                # The value is not repeated: somebody may have pasted a URL with its password.
                message = "expected the name of an environment variable that holds the URL, in capitals"
                yield ("alerts", severity, index), message


def _positive(value: timedelta) -> Iterator[Finding]:
    if value <= timedelta(0):
        yield (), "expected a duration greater than 0"
