"""Looks at the experiment between champion and challenger."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.core.errors import ServingError
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import OnFail, Verdict
from pipelines.experiments.exposure import ExposureCheck
from pipelines.experiments.looks import take_look
from pipelines.experiments.shadow import shadow_evidence
from pipelines.reports.metadata import check_result, look_metadata
from pipelines.rollouts.naming import key
from pipelines.rollouts.open_rollout import open_rollout, record_if_open
from pipelines.rollouts.systems import Systems
from resources.lake.windows import complete_until

_LOOKED_AT = (Phase.SHADOW, Phase.STEPPING)

_EXPOSURE_CHECK = "exposure_recomputed"


def experiment(model: Model) -> dg.AssetsDefinition:
    """The asset that takes a look."""
    asset_key = key(model.name, "experiment")

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log"), key(model.name, "outcomes")],
        group_name="experiment",
        kinds={"scipy"},
        check_specs=[
            dg.AssetCheckSpec(
                _EXPOSURE_CHECK,
                asset=asset_key,
                description="Recomputes every unit's version from its id, the salt and the shares in force.",
            )
        ],
    )
    def look(
        context: dg.AssetExecutionContext,
        systems: dg.ResourceParam[Systems],
    ):  # no return type: Dagster would take it for a tuple of asset and check
        """Is the challenger better, no worse, or worse, on the team's own metrics?

        Each materialization is one look. Its tests stay valid however often one looks: the intervals hold at
        all looks together, and evidence of harm is weighed against one error budget for the whole rollout. A
        look is stored with its inputs and never recomputed on revised data. While a rollout is open, every
        look is evidence in it.
        """
        state = open_rollout(systems.ledger, model.name)
        if state is None or state.champion is None or state.phase not in _LOOKED_AT:
            return _result({"status": dg.MetadataValue.text("no canary is taking traffic")}, None)
        if state.phase is Phase.SHADOW:
            return _shadowed(systems, model, state)
        now = datetime.now(UTC)
        taken, evidence = take_look(
            systems.lake,
            systems.ledger,
            model,
            state,
            now=now,
            complete=_complete(systems, model, now),
            sticky=_is_sticky(systems, model),
        )
        record_if_open(systems.controller, state.rollout_id, evidence)
        if taken is None:
            context.log.warning(evidence[0].reason)
            return _result({"status": dg.MetadataValue.text(evidence[0].reason)}, None)
        return _result(look_metadata(systems, model, state.rollout_id, taken), taken.exposure)

    return look


def _shadowed(systems: Systems, model: Model, state: RolloutState) -> dg.MaterializeResult[Any]:
    """In the shadow there is no experiment yet: the copies are judged by their errors, latency and agreement."""
    now = datetime.now(UTC)
    complete = _complete(systems, model, now)
    evidence = shadow_evidence(systems.lake, systems.ledger, model, state, now=now, complete=complete)
    record_if_open(systems.controller, state.rollout_id, evidence)
    words = "\n".join(f"- {item.name}: {item.verdict}: {item.reason}" for item in evidence)
    return _result(
        {"shadow": dg.MetadataValue.md(words), "rollout": dg.MetadataValue.text(state.rollout_id)}, None
    )


def _complete(systems: Systems, model: Model, now: datetime) -> datetime:
    settings = systems.settings
    return complete_until(
        systems.lake,
        model.name,
        predictions=settings.prediction_log / model.name,
        outcomes=settings.outcomes / model.name,
        now=now,
    )


def _is_sticky(systems: Systems, model: Model) -> bool:
    """Where the serving side cannot be asked, the look is taken without the check of its assignment."""
    try:
        return systems.backend.capabilities(model.name).sticky
    except ServingError:
        return False


def _result(
    metadata: dict[str, dg.MetadataValue], exposure: ExposureCheck | None
) -> dg.MaterializeResult[Any]:
    """The materialization, and whether the gateway split the traffic as it should have."""
    told = (
        "nothing to recompute: no sticky assignment, or no traffic yet"
        if exposure is None
        else exposure.sentence
    )
    check = check_result(
        _EXPOSURE_CHECK,
        _split_verdict(exposure),
        told,
        on_fail=OnFail.HOLD,
        more={
            "compared": exposure.compared if exposure else 0,
            "elsewhere": exposure.mismatches if exposure else 0,
            "share changing": exposure.uncertain if exposure else 0,
            "without unit": exposure.without_unit if exposure else 0,
        },
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[check])


def _split_verdict(exposure: ExposureCheck | None) -> Verdict:
    if exposure is None or not exposure.compared:
        return Verdict.UNKNOWN
    return Verdict.PASS if exposure.holds else Verdict.FAIL
