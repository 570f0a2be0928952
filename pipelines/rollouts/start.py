"""Starting a rollout, and carrying it on: what the assets do, apart from Dagster."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple, assert_never

from pipelines.core.errors import (
    CommandRefused,
    LakeError,
    ManifestError,
    NotInRegistry,
    RegistryError,
    ServingError,
    SignatureConflict,
    VersionRefused,
    Withdrawn,
)
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.events import Decision
from pipelines.core.rollout.policy import VALIDATION, Policy
from pipelines.core.rollout.sides import not_yet, served_in_words
from pipelines.core.rollout.state import RolloutState
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.monitoring.loading import load_outcomes, load_predictions
from pipelines.rollouts.actions import CHALLENGER
from pipelines.rollouts.comparison import COMPARISON, REPLAY, compare_offline, impossible, replay
from pipelines.rollouts.controller import Controller
from pipelines.rollouts.fitting import require_fit
from pipelines.rollouts.open_rollout import (
    ATTEMPTS,
    open_rollout,
    record_if_open,
    validation_attempts,
    validation_due,
)
from pipelines.rollouts.validation import Predict, Step, ValidationReport, validate_version
from resources.lake.connection import Lake
from resources.lake.schema import Fields, ensure_tables, fields
from resources.ledger.ledger import Ledger
from resources.notifier import in_words, platform_alert, say
from resources.registry.client import Registration
from resources.registry.registry import Registry
from resources.serving.contract import ServingBackend
from resources.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RolloutSystems:
    """What a rollout is started and carried on with."""

    settings: Settings
    ledger: Ledger
    lake: Lake
    registry: Registry
    backend: ServingBackend
    controller: Controller


class Mode(StrEnum):
    """What a version is started for. Dagster's run configuration and its schema use the names."""

    rollout = "rollout"
    ab_test = "ab_test"
    """Held at the share of the manifest's `ab_test` for its duration."""


def start(
    systems: RolloutSystems,
    model: Model,
    version: str,
    *,
    mode: Mode = Mode.rollout,
    against: str = "",
    by_alias: bool = False,
) -> RolloutState:
    """Validate the version on paper, type its part of the lake, and open its rollout, or its A/B test.

    Its other side is what is served. `against` names that version where a person starts it although the registry
    says something else. `by_alias`: only while it has the alias `challenger`, else Withdrawn is raised. The artefact
    is taken anew: it may have been mended in place. Raises VersionRefused when the version must not get traffic
    (recorded, tagged and alerted), CommandRefused when it does not exist, is not registered yet, is served already,
    another rollout is open, or registry and serving side disagree, ManifestError when the serving backend cannot do
    what the manifest asks or a column that it names does not fit the versions, RegistryError and ServingError when
    MLflow or the serving side cannot be asked: not knowing is no reason to start.
    """
    policy = Policy.of_test(model.rollout) if mode is Mode.ab_test else Policy.of(model.rollout)
    _require_challenger(systems, model, version, by_alias=by_alias)
    systems.registry.take_anew(model.name, version)
    report = validate_version(systems.registry, model.name, version, allow=model.rollout.artefact.allow)
    if report.verdict is Verdict.FAIL:
        raise _refused(systems.controller, model.name, version, report.reason)
    artefact = systems.registry.artefact(model.name, version, local=systems.settings.serving == "embedded")
    other = _other_side(systems.controller, model, version, against)
    _make_room(systems, model.name, version, other.served)
    if mode is Mode.ab_test and other.served is None:
        raise CommandRefused(f"{model.name} serves nothing to hold version {version} against")
    require_fit(systems.registry, model, version, other.served, held=_held(systems.lake, model.name))
    rollout_id = systems.controller.start(
        model.rollout, version, other.served, artefact, policy=policy, despite=other.despite
    )
    return systems.controller.state(rollout_id)


class _OtherSide(NamedTuple):
    served: str | None
    despite: str


def _other_side(controller: Controller, model: Model, version: str, against: str) -> _OtherSide:
    """What is served, if the registry agrees, or a person has named it. Raises CommandRefused."""
    sides = controller.sides(model.name, version)
    if against and against != sides.served:
        raise CommandRefused(f"against == {against!r}, but {served_in_words(sides.served)}")
    if sides.served == version:
        raise CommandRefused(f"{model.name} {_served_already(version)}")
    withdrawn = version in sides.registered.withdrawn
    problem = not_yet(sides, version)
    if problem and (withdrawn or not against):
        raise CommandRefused(f"{model.name} version {version} is not started now: {problem}")
    return _OtherSide(sides.served, problem)


def held_up(controller: Controller, ledger: Ledger, model: Model, version: str) -> str:
    """Why the version is not to be started now although it is no worse for it; empty where it may be tried.

    It is alerted once a day while it lasts. Raises ServingError, RegistryError, LedgerError.
    """
    sides = controller.sides(model.name, version)
    problem, after = not_yet(sides, version), ". It starts by itself once they agree."
    if not problem and sides.served == version:
        problem, after = _served_already(version), ""
    if problem:
        platform_alert(
            ledger,
            topic=f"not-started:{model.name}:{datetime.now(UTC):%Y-%m-%d}",
            title=f"{model.name} version {version}: not started for now",
            body=problem + after,
            model=model.name,
        )
    return problem


def _served_already(version: str) -> str:
    return f"version {version} is the champion already: it is what is served, and there is nothing to compare it with"


def _make_room(systems: RolloutSystems, model: str, version: str, served: str | None) -> None:
    """Type the version's part of the lake. A type that does not fit what is there is a fault of the version.

    Not while another version's rollout is open: this one is not started then, and that one's columns stay as they are.
    """
    under_way = open_rollout(systems.ledger, model)
    if under_way is not None and under_way.version != version:
        return
    schema = systems.registry.signature(model, version)
    spoken_for = None if under_way is not None else _spoken_for(systems.registry, model, served)
    try:
        with systems.lake.connect() as connection:
            ensure_tables(systems.lake, connection, model, schema, spoken_for=spoken_for)
    except SignatureConflict as conflict:
        raise _refused(systems.controller, model, version, str(conflict)) from conflict


def _spoken_for(registry: Registry, model: str, served: str | None) -> list[str] | None:
    """The columns of what is served; None where they are not known."""
    if served is None:
        return []
    try:
        return registry.signature(model, served).columns()
    except (VersionRefused, NotInRegistry):
        return None


def _held(lake: Lake, model: str) -> tuple[Fields, Fields]:
    with lake.connect() as connection:
        return fields(connection, model)


def _require_challenger(systems: RolloutSystems, model: Model, version: str, *, by_alias: bool) -> None:
    """Raise CommandRefused, Withdrawn or VersionRefused where this is nothing to start."""
    info = systems.registry.version(model.name, version)
    if info is None:
        raise CommandRefused(f"{model.name} has no version {version!r} in the registry")
    if by_alias:
        holder = systems.registry.version_with_alias(model.name, CHALLENGER)
        if holder is None or holder.version != version:
            raise Withdrawn(f"not started: version {version} has the alias `{CHALLENGER}` no more")
    stable = systems.backend.status(model.name).stable
    if stable is not None and stable.version == version:
        raise CommandRefused(f"{model.name} {_served_already(version)}")
    match info.status:
        case Registration.READY:
            return
        case Registration.PENDING | Registration.UNKNOWN:
            raise CommandRefused(f"{model.name} version {version} is {info.status} in MLflow, expected READY")
        case Registration.FAILED:
            reason = f"its registration failed in MLflow ({info.status}): register it again"
            raise _refused(systems.controller, model.name, version, reason)
        case _:
            assert_never(info.status)


def _refused(controller: Controller, model: str, version: str, reason: str) -> VersionRefused:
    """Refuse the version: recorded, tagged and alerted."""
    controller.refuse(model, version, reason)
    return VersionRefused(f"{model} version {version} is refused before any traffic: {reason}")


def tell_misfit(ledger: Ledger, model: Model, version: str, wrong: ManifestError) -> None:
    """An alert that the manifest does not fit the version: said once for each manifest, however often it is tried."""
    platform_alert(
        ledger,
        topic=f"manifest:{model.name}",
        title=f"{model.name} version {version}: not started, the manifest is wrong",
        body=str(wrong),
        model=model.name,
    )


def carry_on(systems: RolloutSystems, model: Model, rollout_id: str) -> Decision:
    """Do what is due, up to the next thing that has to be waited for."""
    decision = systems.controller.drive(rollout_id)
    state = systems.controller.state(rollout_id)
    if validation_due(state, datetime.now(UTC)):
        record_if_open(systems.controller, rollout_id, [_probed(systems, model, state)])
        decision = systems.controller.drive(rollout_id)
    return decision


def _probed(systems: RolloutSystems, model: Model, state: RolloutState) -> Evidence:
    """The input example, then logged requests, through the running predictor: the last thing before traffic.

    What could not be asked (registry, artefacts, log, lake, serving side) is unknown: it says nothing about the version.
    """
    try:
        report = _report(systems, model, state)
    except (RegistryError, ServingError, LakeError, OSError) as error:
        report = _not_asked(str(error))
    except Exception as error:  # noqa: BLE001 -- it must not keep the version waiting for ever without a verdict
        say(log, logging.ERROR, f"{state.rollout_id}: validation: {in_words(error)}", error)
        report = _not_asked(in_words(error))
    return _evidence(report, attempts=1 + validation_attempts(state.evidence.get(VALIDATION)))


def _not_asked(problem: str) -> ValidationReport:
    detail = f"could not be carried out, and is tried again: {problem}"
    return ValidationReport(steps=(Step(name="asking", verdict=Verdict.UNKNOWN, detail=detail),), facts={})


def _report(systems: RolloutSystems, model: Model, state: RolloutState) -> ValidationReport:
    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        return systems.backend.predict(state.model, state.version, request)

    allow = model.rollout.artefact.allow
    report = validate_version(systems.registry, state.model, state.version, allow=allow, probe=predict)
    steps = [*report.steps, *_same_artefact(state, report)]
    if report.verdict is Verdict.PASS and state.champion is not None and not state.policy.undoes:
        steps += _compared(systems, model, state, state.champion, predict)
    return replace(report, steps=tuple(steps))


def _same_artefact(state: RolloutState, report: ValidationReport) -> list[Step]:
    """What is looked at here must be what runs: the rollout pinned its artefact when it started."""
    digest = str(report.facts["digest"])
    if digest == state.artefact.digest:
        return []
    detail = (
        f"the artefact was changed since the rollout started: its digest is {digest[:12]}, and"
        f" {state.artefact.digest[:12]} runs; clear the tag `rampgate.status` to start the changed one"
    )
    return [Step(name="pinned artefact", verdict=Verdict.FAIL, detail=detail)]


def _compared(
    systems: RolloutSystems, model: Model, state: RolloutState, champion: str, predict: Predict
) -> Iterator[Step]:
    """The replay of what callers send, then the comparison on labels, if the version can answer.

    Both read the lake, so what was logged is loaded first: the schedule that loads it may be minutes away.
    """
    try:
        old = systems.registry.signature(state.model, champion)
    except (VersionRefused, NotInRegistry) as error:
        reason = f"what callers send to version {champion} is not known: {error}"
        yield from (impossible(name, model.rollout, reason) for name in (REPLAY, COMPARISON))
        return
    load_predictions(
        systems.lake, systems.ledger, systems.settings, state.model, model.rollout.prediction_log
    )
    if model.rollout.validation.replay:
        replayed = replay(systems.lake, model.rollout, champion=champion, schema=old, predict=predict)
        yield replayed
        if replayed.verdict is Verdict.FAIL:
            return
    if model.rollout.validation.label is not None:
        load_outcomes(systems.lake, systems.ledger, systems.settings, state.model)
    schemas = (old, systems.registry.signature(state.model, state.version))
    compared = compare_offline(
        systems.lake, model.rollout, champion=champion, schemas=schemas, predict=predict
    )
    if compared is not None:
        yield compared


def _evidence(report: ValidationReport, *, attempts: int) -> Evidence:
    values: dict[str, float | int | str | None] = {"digest": str(report.facts.get("digest", ""))}
    for step in report.steps:
        values |= step.values
    if report.verdict is Verdict.UNKNOWN:
        values[ATTEMPTS] = attempts
    return Evidence(
        name=VALIDATION,
        source=VALIDATION,
        verdict=report.verdict,
        reason=report.reason or "; ".join(f"{step.name}: {step.detail}" for step in report.steps),
        at=datetime.now(UTC),
        on_fail=OnFail.ROLL_BACK,
        pending=report.pending,
        valid_for=timedelta(days=1),
        values=values,
    )
