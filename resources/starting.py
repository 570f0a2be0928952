"""Starting a rollout, and carrying it on: what the assets do, apart from Dagster."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple

from pipelines.errors import CommandRefused, SignatureConflict, VersionRefused
from pipelines.manifest.load import Model
from pipelines.rollout.decision import Decision
from pipelines.rollout.evidence import Evidence, OnFail, Verdict
from pipelines.rollout.policy import VALIDATION, Policy
from pipelines.rollout.sides import not_yet, served_in_words
from pipelines.rollout.state import Phase, RolloutState
from resources.fitting import require_fit
from resources.lake.schema import ensure_tables
from resources.platform_alerts import platform_alert
from resources.registry import ValidationReport, validate_version
from resources.rollouts import record_if_open
from resources.systems import Systems
from resources.validation import OfflineComparison, Predict, compare_offline


class Mode(StrEnum):
    """What a version is started for."""

    ROLLOUT = "rollout"
    AB_TEST = "ab_test"
    """Held at the share of the manifest's `ab_test` for its duration."""


def start(
    systems: Systems, model: Model, version: str, *, mode: Mode = Mode.ROLLOUT, against: str = ""
) -> RolloutState:
    """Validate the version on paper, type its part of the lake, and open its rollout, or its A/B test.

    Its other side is what is served. `against` names that version where a person starts it although the registry
    says something else. Raises VersionRefused when the version must not get traffic (recorded, tagged and alerted),
    CommandRefused when it does not exist, another rollout is open, or registry and serving side disagree,
    ManifestError when the serving backend cannot do what the manifest asks or a column that it names does not fit the
    versions, RegistryError and ServingError when MLflow or the serving side cannot be asked: not knowing is no reason
    to start.
    """
    policy = Policy.of_test(model.rollout) if mode is Mode.AB_TEST else Policy.of(model.rollout)
    if systems.registry.version(model.name, version) is None:
        raise CommandRefused(f"{model.name} has no version {version!r} in the registry")
    report = validate_version(systems.registry, model.name, version, allow=model.rollout.artefact.allow)
    if not report.ok:
        raise _refused(systems, model.name, version, report.reason)
    _make_room(systems, model.name, version)
    artefact = systems.registry.artefact(model.name, version, local=systems.settings.serving == "embedded")
    other = _other_side(systems, model, version, against)
    if mode is Mode.AB_TEST and other.served is None:
        raise CommandRefused(f"{model.name} serves nothing to hold version {version} against")
    require_fit(systems.registry, model, version, other.served)
    rollout_id = systems.controller.start(
        model.rollout, version, other.served, artefact, policy=policy, despite=other.despite
    )
    return systems.controller.state(rollout_id)


class _OtherSide(NamedTuple):
    served: str | None
    despite: str


def _other_side(systems: Systems, model: Model, version: str, against: str) -> _OtherSide:
    """What is served, if the registry agrees, or a person has named it. Raises CommandRefused."""
    sides = systems.controller.sides(model.name, version)
    if against and against != sides.served:
        raise CommandRefused(f"against == {against!r}, but {served_in_words(sides.served)}")
    if sides.served == version:
        raise CommandRefused(
            f"{model.name} version {version} is served already; there is nothing to compare it with"
        )
    withdrawn = version in sides.registered.withdrawn
    problem = not_yet(sides, version)
    if problem and (withdrawn or not against):
        raise CommandRefused(f"{model.name} version {version} is not started now: {problem}")
    return _OtherSide(sides.served, problem)


def held_up(systems: Systems, model: Model, version: str) -> str:
    """Why the version is not to be started now although it is no worse for it; empty where it may be tried.

    A disagreement between registry and serving side is alerted once a day while it lasts. Raises ServingError,
    RegistryError, LedgerError.
    """
    sides = systems.controller.sides(model.name, version)
    problem = not_yet(sides, version)
    if not problem:
        return f"version {version} is the champion already" if sides.served == version else ""
    platform_alert(
        systems.ledger,
        topic=f"not-started:{model.name}:{datetime.now(UTC):%Y-%m-%d}",
        title=f"{model.name} version {version}: not started for now",
        body=f"{problem}. It starts by itself once they agree.",
        model=model.name,
    )
    return problem


def _make_room(systems: Systems, model: str, version: str) -> None:
    """Type the version's part of the lake. A type that does not fit what is there is a fault of the version."""
    schema = systems.registry.signature(model, version)
    try:
        with systems.lake.connect() as connection:
            ensure_tables(systems.lake, connection, model, schema)
    except SignatureConflict as conflict:
        raise _refused(systems, model, version, str(conflict)) from conflict


def _refused(systems: Systems, model: str, version: str, reason: str) -> VersionRefused:
    """Refuse the version: recorded, tagged and alerted."""
    systems.controller.refuse(model, version, reason)
    return VersionRefused(f"{model} version {version} is refused before any traffic: {reason}")


def carry_on(systems: Systems, model: Model, rollout_id: str) -> Decision:
    """Do what is due, up to the next thing that has to be waited for."""
    decision = systems.controller.drive(rollout_id)
    state = systems.controller.state(rollout_id)
    if state.phase is Phase.VALIDATING and VALIDATION not in state.evidence:
        record_if_open(systems.controller, rollout_id, [_probed(systems, model, state)])
        decision = systems.controller.drive(rollout_id)
    return decision


def _probed(systems: Systems, model: Model, state: RolloutState) -> Evidence:
    """The input example, then logged requests, through the running predictor: the last thing before traffic."""

    def predict(request: dict[str, Any]) -> Mapping[str, Any]:
        return systems.backend.predict(state.model, state.version, request)

    allow = model.rollout.artefact.allow
    report = validate_version(systems.registry, state.model, state.version, allow=allow, probe=predict)
    compared = _compared(systems, model, state, predict) if report.ok else None
    return _evidence(report, compared)


def _compared(
    systems: Systems, model: Model, state: RolloutState, predict: Predict
) -> OfflineComparison | None:
    """None for a model's first version, and where the manifest names no label."""
    if state.champion is None or model.rollout.validation.label is None:
        return None
    champion, challenger = (
        systems.registry.signature(state.model, version) for version in (state.champion, state.version)
    )
    return compare_offline(
        systems.lake,
        model.rollout,
        champion=state.champion,
        inputs=(champion, challenger),
        predict=predict,
    )


def _evidence(report: ValidationReport, compared: OfflineComparison | None) -> Evidence:
    ok = report.ok and (compared is None or compared.ok)
    steps = [f"{step.name}: {step.detail}" for step in report.steps]
    if compared is not None:
        steps.append(f"offline comparison: {compared.detail}")
    return Evidence(
        name=VALIDATION,
        source=VALIDATION,
        verdict=Verdict.PASS if ok else Verdict.FAIL,
        reason="; ".join(steps) if ok else report.reason or steps[-1],
        at=datetime.now(UTC),
        on_fail=OnFail.ROLL_BACK,
        valid_for=timedelta(days=1),
        values={"digest": str(report.facts.get("digest", ""))} | dict(compared.values if compared else {}),
    )
