"""Drift: canary against stable, and the current window against the ones before it."""

from collections.abc import Iterable
from datetime import UTC, datetime

import dagster as dg

from pipelines.core.manifest.load import Model
from pipelines.core.vocabulary import Verdict
from pipelines.monitoring.window_reports import drift_evidence, drift_on_fail, drift_reports
from pipelines.monitoring.windows import in_time, window_end, window_partitions
from pipelines.reports.configured import ReportsResource
from pipelines.reports.metadata import check_result, drift_metadata
from pipelines.rollouts.configured import ControllerResource
from pipelines.rollouts.naming import key
from pipelines.rollouts.open_rollout import open_rollout, record_if_open
from resources.checks.evidently import Comparison, DriftReport
from resources.configured import LakeResource, LedgerResource, SettingsResource


def drift(model: Model) -> dg.AssetsDefinition:
    """The asset that scores drift with Evidently, one Dagster asset check per comparison."""
    asset_key = key(model.name, "drift")
    specs = [
        dg.AssetCheckSpec(
            name=Comparison.CANARY_VS_STABLE.value,
            asset=asset_key,
            description="The canary's requests and answers against the champion's over the same time.",
        ),
        dg.AssetCheckSpec(
            name=Comparison.CURRENT_VS_REFERENCE.value,
            asset=asset_key,
            description="The latest window against the windows before it: has the world moved?",
        ),
    ]

    @dg.asset(
        key=asset_key,
        deps=[key(model.name, "prediction_log")],
        group_name="drift",
        kinds={"evidently"},
        check_specs=specs,
        partitions_def=window_partitions(model.rollout),
    )
    def score(
        context: dg.AssetExecutionContext,
        lake: LakeResource,
        ledger: LedgerResource,
        settings: SettingsResource,
        controller: ControllerResource,
        reports: ReportsResource,
    ):  # no return type: Dagster would take it for a tuple of asset and checks
        """Have the inputs or the answers moved?

        Evidently scores every column of the latest window twice: the canary's rows against the champion's, which
        differ by chance alone unless something is wrong with the split or the model, and all rows against the
        windows before. The threshold never falls below what chance gives at these row counts. The links open
        the full Evidently reports.
        """
        now = datetime.now(UTC)
        state = open_rollout(ledger.get(), model.name)
        end = window_end(context, now)
        scored = drift_reports(lake.get(), settings.get(), model, state, end, now)
        if state is not None:
            evidence = [drift_evidence(model, report, now) for report in scored]
            evidence = in_time(state, evidence, model.rollout.drift.window, end, now)
            record_if_open(controller.get(), state.rollout_id, evidence)
        return dg.MaterializeResult(
            metadata=drift_metadata(reports.get(), scored), check_results=list(_checks(model, scored))
        )

    return score


def _checks(model: Model, reports: Iterable[DriftReport]) -> Iterable[dg.AssetCheckResult]:
    """Every declared check gets a result: a comparison that was not made is unknown."""
    by_kind = {report.comparison: report for report in reports}
    for comparison in Comparison:
        report = by_kind.get(comparison)
        yield check_result(
            comparison.value,
            Verdict.UNKNOWN if report is None else report.verdict,
            "no canary is taking traffic" if report is None else report.reason,
            on_fail=drift_on_fail(model, comparison),
        )
