"""What a well-shaped `rollout.yaml` must also satisfy: rules between keys, each with its place.

Every part is judged by itself, so that one misshapen key does not hide what is wrong elsewhere.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pipelines.manifest.data_meaning import check_findings, drift_findings
from pipelines.manifest.document import Document
from pipelines.manifest.metric_meaning import guardrail_findings, primary_findings
from pipelines.manifest.model import Check, Drift, Experiment, Freeze, Guardrail, Primary
from pipelines.manifest.problem import Finding, Location, dotted, shown
from pipelines.manifest.shape import parse_or_none
from pipelines.manifest.values import Duration, Step
from pipelines.rollout.cron import Cron

T = TypeVar("T")

_UNIT = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")
_VARIABLE = re.compile(r"^[A-Z][A-Z0-9_]*$")
_POSITIVE: tuple[Location, ...] = (
    ("experiment", "outcome_window"),
    ("experiment", "look_every"),
    ("experiment", "max_duration"),
    ("validation", "timeout"),
    ("data_checks", "window"),
    ("drift", "window"),
    ("max_unknown",),
)


def meaning_findings(document: Document) -> Iterator[Finding]:
    """Everything that is wrong with the parts of the document that have the right shape."""
    yield from _step_findings(document.get("steps"))
    yield from _part(document, ("experiment",), Experiment, _experiment_findings)
    yield from _part(document, ("experiment", "primary"), Primary, primary_findings)
    yield from _each(document, ("guardrails",), Guardrail, guardrail_findings)
    yield from _name_findings(document)
    yield from _each(document, ("data_checks", "checks"), Check, check_findings)
    yield from _part(document, ("drift",), Drift, drift_findings)
    yield from _each(document, ("freeze",), Freeze, _freeze_findings)
    yield from _alert_findings(document)
    for place in _POSITIVE:
        yield from _part(document, place, cast(type[timedelta], Duration), _positive)


def _part(
    document: Document, place: Location, kind: type[T], judge: Callable[[T], Iterator[Finding]]
) -> Iterator[Finding]:
    value = document.get(*place)
    part = None if value is None else parse_or_none(kind, value)
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


def _name_findings(document: Document) -> Iterator[Finding]:
    places: list[Location] = [("experiment", "primary")]
    places += [("guardrails", index) for index in range(len(_list(document.get("guardrails"))))]
    seen: dict[str, Location] = {}
    for place in places:
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
        Cron.parse(freeze.cron)
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
