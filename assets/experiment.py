"""Looks at the experiment between champion and challenger."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from pipelines.core.errors import ServingError
from pipelines.core.manifest.load import Model
from pipelines.core.rollout.state import Phase, RolloutState
from pipelines.core.vocabulary import Evidence, OnFail, Verdict
from pipelines.experiments.exposure import ExposureCheck
from pipelines.experiments.looks import take_look
from pipelines.experiments.shadow import shadow_evidence
from pipelines.reports.metadata import check_result, look_metadata
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.naming import key
from pipelines.rollouts.open_rollout import open_rollout, record_if_open
from resources.configured import LakeResource, LedgerResource, ServingResource, SettingsResource
from resources.lake.connection import Lake
from resources.lake.windows import complete_until
from resources.settings import Settings

_LOOKED_AT = (Phase.SHADOW, Phase.STEPPING, Phase.BAKING)

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
        lake: LakeResource,
        ledger: LedgerResource,
        settings: SettingsResource,
        serving: ServingResource,
        controller: ControllerResource,
    ):  # no return type: Dagster would take it for a tuple of asset and check
        """Is the challenger better, no worse, or worse, on the team's own metrics?

        Each materialization is one look. Its tests stay valid however often one looks: the intervals hold at
        all looks together, and evidence of harm is weighed against one error budget for the whole rollout. A
        look is stored with its inputs and never recomputed on revised data. While a rollout is open, every
        look is evidence in it.
        """
        state = open_rollout(ledger.get(), model.name)
        if state is None or state.champion is None or state.phase not in _LOOKED_AT:
            return _result({"status": dg.MetadataValue.text("no canary is taking traffic")}, None)
        now = datetime.now(UTC)
        complete = _complete(lake.get(), settings.get(), model, now)
        if state.phase is Phase.SHADOW:
            copied = shadow_evidence(lake.get(), ledger.get(), model, state, now=now, complete=complete)
            record_if_open(controller.get(), state.rollout_id, copied)
            return _shadowed(state, copied)
        sticky = _is_sticky(serving, model)
        taken, evidence = take_look(
            lake.get(), ledger.get(), model, state, now=now, complete=complete, sticky=sticky
        )
        record_if_open(controller.get(), state.rollout_id, evidence)
        if taken is None:
            context.log.warning(evidence[0].reason)
            return _result({"status": dg.MetadataValue.text(evidence[0].reason)}, None)
        return _result(look_metadata(ledger.get(), model, state.rollout_id, taken), taken.exposure)

    return look


def _shadowed(state: RolloutState, evidence: Sequence[Evidence]) -> dg.MaterializeResult[Any]:
    """In the shadow there is no experiment yet: the copies are judged by their errors, latency and agreement."""
    words = "\n".join(f"- {item.name}: {item.verdict}: {item.reason}" for item in evidence)
    return _result(
        {"shadow": dg.MetadataValue.md(words), "rollout": dg.MetadataValue.text(state.rollout_id)}, None
    )


def _complete(lake: Lake, settings: Settings, model: Model, now: datetime) -> datetime:
    return complete_until(
        lake,
        model.name,
        predictions=settings.prediction_log / model.name,
        outcomes=settings.outcomes / model.name,
        now=now,
    )


def _is_sticky(serving: ServingResource, model: Model) -> bool:
    """Where the serving side cannot be asked, the look is taken without the check of its assignment."""
    try:
        return serving.get().capabilities(model.name).sticky
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
