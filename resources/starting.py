"""Starting a rollout, and carrying it on: what the assets do, apart from Dagster."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from pipelines.errors import CommandRefused, VersionRefused
from pipelines.manifest.load import Model
from pipelines.rollout.decision import Decision
from pipelines.rollout.evidence import Evidence, OnFail, Verdict
from pipelines.rollout.policy import VALIDATION, Policy
from pipelines.rollout.state import Phase, RolloutState
from resources.lake.schema import ensure_tables
from resources.registry import ValidationReport, validate_version
from resources.rollouts import record_if_open
from resources.systems import Systems
from resources.validation import OfflineComparison, Predict, compare_offline

CHAMPION = "champion"


class Mode(StrEnum):
    """What a version is started for."""

    ROLLOUT = "rollout"
    AB_TEST = "ab_test"
    """Held at the share of the manifest's `ab_test` for its duration."""


def start(systems: Systems, model: Model, version: str, *, mode: Mode = Mode.ROLLOUT) -> RolloutState:
    """Validate the version on paper, type its part of the lake, and open its rollout, or its A/B test.

    Raises VersionRefused when the version must not get traffic (recorded, tagged and alerted), CommandRefused
    when it does not exist, another rollout is open or the champion is not served, ManifestError when the serving
    backend cannot do what the manifest asks, RegistryError when MLflow cannot be asked.
    """
    policy = Policy.of_test(model.rollout) if mode is Mode.AB_TEST else Policy.of(model.rollout)
    if systems.registry.version(model.name, version) is None:
        raise CommandRefused(f"{model.name} has no version {version!r} in the registry")
    report = validate_version(systems.registry, model.name, version, allow=model.rollout.artefact.allow)
    if not report.ok:
        systems.controller.refuse(model.name, version, report.reason)
        raise VersionRefused(f"{model.name} version {version} is refused before any traffic: {report.reason}")
    schema = systems.registry.signature(model.name, version)
    with systems.lake.connect() as connection:
        ensure_tables(systems.lake, connection, model.name, schema)
    champion = systems.registry.version_with_alias(model.name, CHAMPION)
    if champion is not None and systems.backend.status(model.name).stable is None:
        raise CommandRefused(
            f"{model.name} version {champion.version} has the alias `{CHAMPION}`, but nothing is served that version"
            f" {version} could be compared with: give version {champion.version} the alias `challenger` instead"
        )
    if mode is Mode.AB_TEST and champion is None:
        raise CommandRefused(f"{model.name} has no champion to hold version {version} against")
    artefact = systems.registry.artefact(model.name, version, local=systems.settings.serving == "embedded")
    rollout_id = systems.controller.start(
        model.rollout, version, None if champion is None else champion.version, artefact, policy=policy
    )
    return systems.controller.state(rollout_id)


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
